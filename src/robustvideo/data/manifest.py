"""`manifest:clips.csv?split=test`: clips named in a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from robustvideo.data.catalog import collections
from robustvideo.data.division import PARTS, divided
from robustvideo.data.listing import Collection, Listed, Listing, label_names
from robustvideo.errors import InputError, unknown


@collections.register("manifest")
@dataclass(frozen=True)
class Manifest(Collection):
    """A CSV file with the columns path and label, and optionally id, split, start and end.

    ``path`` is relative to ``root``, or absolute, and may not lead out of it; ``label`` is a class name or index;
    ``id`` defaults to the path below ``root`` without its suffix, and more of it where two rows would share it
    (`Classes`); ``start`` and ``end`` cut a clip out of its file, in seconds. Other columns are ignored. A file that
    does not exist is an unusable clip when it is read, not an error here.

    Attributes:
        split: keep the rows whose split column says so. Default: all rows.
        root: folder of the paths. Default: that of the CSV file.
        at_least: ``column:number``; keep the rows with at least that number there, such as ``audio_rms:0.001`` for
            clips that can be heard. Default: all rows.
        divide: three shares, such as ``7,1,2``: instead of what a split column says, every class's rows are divided
            in their order into train, val and test. Rows of one file are never separated, see `divided`.
        group: a column (of recordings, of persons) whose rows ``divide`` does not separate either. Default: files
            alone are kept whole; then neighbours of one recording in several files may be parted, at the two edges.

    Raises:
        InputError: something else than a column and a number, or than three shares, or a group of an undivided list.
    """

    split: str | None = None
    root: Path | None = None
    at_least: str | None = None
    divide: tuple[str, ...] | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if self.at_least is not None and _number(self.at_least.partition(":")[2]) is None:
            raise InputError(f"at_least= is a column and a number, such as audio_rms:0.001, got {self.at_least!r}.")
        if self.divide is not None and (len(self.divide) != len(PARTS) or not all(s.isdigit() for s in self.divide)):
            raise InputError(f"divide= is three whole shares, such as 7,1,2, got {','.join(self.divide)!r}.")
        if self.group is not None and self.divide is None:
            raise InputError("group= says which rows divide= must not separate: give divide=, too.")

    def listing(self, name: str) -> Listing:
        """The rows of the split, and the classes of the whole file.

        Raises:
            InputError: a missing file or column, a value that cannot be used (with its line), or an unknown split.
        """
        table = Path(name)
        root = (self.root or table.parent).resolve()
        rows = list(read_csv(table, required=("path", "label")))
        labels = label_names(row["label"] for _, row in rows)
        if self.at_least is not None:
            rows = [(where, row) for where, row in rows if _reaches(where, row, self.at_least)]
            if not rows:
                raise InputError(f"No row of {table} reaches at_least={self.at_least}.")
        if self.divide is not None:
            ties = [_ties(where, row, root, self.group) for where, row in rows]
            parts = divided([row["label"] for _, row in rows], ties, [int(share) for share in self.divide])
            rows = [(where, {**row, "split": part}) for (where, row), part in zip(rows, parts, strict=True)]
        if self.split is not None:
            if not any("split" in row for _, row in rows):
                raise InputError(f"{table} has no column 'split', so split={self.split} selects nothing.")
            splits = {row["split"] for _, row in rows}
            if self.split not in splits:
                raise unknown(f"split of {table}:", self.split, splits)
            rows = [(where, row) for where, row in rows if row["split"] == self.split]
        return Listing(tuple(_listed(where, row, root) for where, row in rows), labels)


def _reaches(where: str, row: Mapping[str, str], least: str) -> bool:
    column, _, bound = least.partition(":")
    if column not in row:
        raise unknown(f"column of at_least={least}, {where}:", column, row)
    value = _number(row.get(column, ""))
    if value is None:
        raise InputError(f"{where}: {column} is {row.get(column)!r}, not a number.")
    return value >= float(bound)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _ties(where: str, row: Mapping[str, str], root: Path, column: str | None) -> list[tuple[str, str]]:
    """What a row is of: its file, whichever way it is written, and its group where there is a column of them."""
    ties = [("path", str(_inside(where, row["path"], root).resolve()))]
    if column is not None:
        if column not in row:
            raise unknown(f"column of group={column}, {where}:", column, row)
        if not row[column]:
            raise InputError(f"{where} has no {column}, and so no group: fill it in, or leave group={column} out.")
        ties.append(("group", row[column]))
    return ties


def read_csv(table: Path, required: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Rows of a CSV file by column name, each with its place for messages; blank ones are skipped.

    Raises:
        InputError: a file that is missing, empty, not UTF-8 or not CSV, a required column that is missing, or a row
            with an empty required value or with more values than columns.
    """
    try:
        if not table.is_file():
            raise InputError(f"{table} does not exist or is not a file: give the path of a CSV file.")
        with table.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True, skipinitialspace=True)
            columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            for column in required:
                if column not in columns:
                    raise InputError(f"{table} has no column {column!r}: {_first_line(columns)}.")
            empty = True
            for row in reader:
                where = f"{table.name}, line {reader.line_num}"
                if None in row:
                    raise InputError(f"{where} has more values than there are columns: quote values with commas.")
                values = {column: (value or "").strip() for column, value in row.items()}
                for column in required:
                    if not values[column]:
                        raise InputError(f"{where} has no {column}.")
                empty = False
                yield where, values
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} is not a CSV file in UTF-8: {error}.") from error
    except OSError as error:
        raise InputError(f"{table} cannot be read: {error.strerror or error}.") from error
    if empty:
        raise InputError(f"{table} has no rows.")


def _first_line(columns: Sequence[str]) -> str:
    """What a first line is, and what separates its columns where no comma does."""
    line = f"its first line is {','.join(columns)!r}"
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(columns) == 1 and sign in columns[0]:
            return f"{line}, with {name} between the columns, where commas belong"
    return line


def _listed(where: str, row: Mapping[str, str], root: Path) -> Listed:
    start = _seconds(where, row, "start")
    end = _seconds(where, row, "end")
    if end is not None and end <= (start or 0.0):
        raise InputError(f"{where}: the clip ends at {end:g} s, which is not after its start at {start or 0:g} s.")
    path, own = _inside(where, row["path"], root), row.get("id")
    below = path.resolve().relative_to(root) if PurePosixPath(row["path"]).is_absolute() else PurePosixPath(row["path"])
    return Listed(
        id=own or below.with_suffix("").as_posix(),
        label=row["label"],
        path=path,
        where=where,
        start=start or 0.0,
        end=end,
        named=bool(own),
    )


def _inside(where: str, text: str, root: Path) -> Path:
    """The file that a row names, if it lies under the root."""
    relative = PurePosixPath(text)
    path = root / relative  # an absolute path stays as it is
    if not relative.name or "\0" in text:
        raise InputError(f"{where}: {text!r} is no path of a file.")
    if ".." in relative.parts or not path.resolve().is_relative_to(root):
        raise InputError(f"{where}: the path {text!r} leads out of {root}: write it relative to it, or give root=.")
    return path


def _seconds(where: str, row: Mapping[str, str], column: str) -> float | None:
    text = row.get(column)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"{where}: {column} is {text!r}, not a time in seconds.")
    return value
