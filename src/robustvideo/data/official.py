"""The official layouts and splits of UCF101, HMDB51 and Kinetics, as they are downloaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from robustvideo.data.catalog import collections
from robustvideo.data.folder import videos
from robustvideo.data.listing import Collection, Listed, Listing, label_names
from robustvideo.data.manifest import read_csv
from robustvideo.errors import InputError

Half = Literal["train", "test"]
Split = Literal["train", "val", "test"]


@collections.register("ucf101")
@dataclass(frozen=True)
class UCF101(Collection):
    """UCF101 (Soomro et al. 2012) with its official train / test lists.

    The lists (``classInd.txt``, ``testlist01.txt``, ...) are looked for in ``ucfTrainTestlist/`` and in the folder
    itself; the class folders in ``UCF-101/``, ``videos/`` and the folder itself.

    The lists have no validation part, and an epoch must not be chosen on the test clips: ``hold_out=2`` takes the last
    two groups of every class (``v_Biking_g25_c01``: one person or place is one group) out of ``split=train``, and
    ``split=val`` is these.

    Attributes:
        fold: which of the three splits.
        split: "train", "test", or with ``hold_out`` "val".
        hold_out: how many groups of every class of the train list are for validation. Default: none.

    Raises:
        InputError: validation clips of which none are held out, or fewer than 0.
    """

    fold: int = 1
    split: Split = "test"
    hold_out: int = 0

    def __post_init__(self) -> None:
        if self.hold_out < 0:
            raise InputError(f"hold_out= is a number of groups, at least 0, got {self.hold_out}.")
        if self.split == "val" and not self.hold_out:
            raise InputError(
                "UCF101's lists have no validation part: hold_out=2 makes one of the last 2 groups of every class of "
                "the train list; give it with split=train, too."
            )

    def listing(self, name: str) -> Listing:
        """The files of a list, in its order.

        Raises:
            InputError: a list is missing, or nothing would be left to train on.
        """
        root = Path(name)
        lists = _first_folder(root, ("ucfTrainTestlist", "."), "classInd.txt")
        home = _first_folder(root, ("UCF-101", "videos", "."))
        labels = tuple(line.split()[1] for line in _lines(lists / "classInd.txt"))
        table = lists / f"{'test' if self.split == 'test' else 'train'}list{self.fold:02d}.txt"
        entries = []
        for number, line in enumerate(_lines(table), 1):
            path = PurePosixPath(line.split()[0])  # train lists append the class number
            where = f"{table.name}, line {number}"
            entries.append(Listed(path.with_suffix("").as_posix(), path.parts[0], home / path, where))
        if self.split != "test" and self.hold_out:
            held = _last_groups(entries, self.hold_out)
            entries = [e for e in entries if ((e.label, _group(e)) in held) == (self.split == "val")]
        return Listing(tuple(entries), labels)


def _last_groups(entries: Sequence[Listed], count: int) -> set[tuple[str, int]]:
    """The groups of highest number of every class."""
    groups: dict[str, set[int]] = {}
    for entry in entries:
        groups.setdefault(entry.label, set()).add(_group(entry))
    for label, own in groups.items():
        if len(own) <= count:
            raise InputError(f"hold_out={count} leaves nothing of {label} to train on: it has {len(own)} groups.")
    return {(label, group) for label, own in groups.items() for group in sorted(own)[-count:]}


def _group(entry: Listed) -> int:
    found = re.search(r"_g(\d+)_c\d+$", entry.path.stem)
    if found is None:
        raise InputError(f"{entry.where}: {entry.path.stem} is of no group (..._g08_c01), which hold_out= needs.")
    return int(found[1])


@collections.register("hmdb51")
@dataclass(frozen=True)
class HMDB51(Collection):
    """HMDB51 (Kuehne et al. 2011) with its official train / test lists.

    The lists (``<class>_test_split1.txt``, ...) are looked for in ``testTrainMulti_7030_splits/``, ``splits/`` and
    the folder itself; the class folders in ``hmdb51_org/``, ``videos/`` and the folder itself.

    Attributes:
        fold: which of the three splits.
        split: "train" or "test".
    """

    fold: int = 1
    split: Half = "test"

    def listing(self, name: str) -> Listing:
        """The files that the lists mark 1 (train) or 2 (test), by class.

        Raises:
            InputError: the lists are missing.
        """
        root = Path(name)
        ending = f"_test_split{self.fold}.txt"
        lists = _first_folder(root, ("testTrainMulti_7030_splits", "splits", "."), f"*{ending}")
        home = _first_folder(root, ("hmdb51_org", "videos", "."))
        mark = "1" if self.split == "train" else "2"
        tables = sorted(lists.glob(f"*{ending}"))
        entries = []
        for table in tables:
            label = table.name.removesuffix(ending)
            for number, line in enumerate(_lines(table), 1):
                file, _, kind = line.rpartition(" ")
                if kind == mark:
                    path = PurePosixPath(label, file.strip())
                    where = f"{table.name}, line {number}"
                    entries.append(Listed(path.with_suffix("").as_posix(), label, home / path, where))
        return Listing(tuple(entries), tuple(table.name.removesuffix(ending) for table in tables))


@collections.register("kinetics")
@dataclass(frozen=True)
class Kinetics(Collection):
    """Kinetics (Kay et al. 2017 and later editions) with its official annotation files.

    The annotations (``val.csv`` or ``validate.csv``, ...) are looked for in the folder itself and in
    ``annotations/``. A video may lie anywhere below the folder, as ``<youtube id>_<start>_<end>`` with times of six
    digits. Classes are numbered over the annotations of all splits that are there.

    Attributes:
        split: "train", "val" or "test".
    """

    split: Split = "val"

    def listing(self, name: str) -> Listing:
        """The rows of the split's annotation file, in its order.

        Raises:
            InputError: the annotations are missing or unreadable.
        """
        root = Path(name)
        tables = {split: table for split in _ANNOTATIONS if (table := _annotations(root, split)) is not None}
        if self.split not in tables:
            names = " or ".join(_ANNOTATIONS[self.split])
            raise InputError(f"{root} has no {names}, neither in itself nor in annotations/: download them there.")
        rows = {split: list(read_csv(table, required=_COLUMNS)) for split, table in tables.items()}
        files = {path.stem: path for path in videos(root)}
        entries = []
        for where, row in rows[self.split]:
            try:
                times = [round(float(row[column])) for column in ("time_start", "time_end")]
            except ValueError as error:
                raise InputError(f"{where}: time_start and time_end must be numbers of seconds.") from error
            stem = f"{row['youtube_id']}_{times[0]:06d}_{times[1]:06d}"
            entries.append(Listed(stem, row["label"], files.get(stem, root / f"{stem}.mp4"), where))
        return Listing(tuple(entries), label_names(row["label"] for split in rows.values() for _, row in split))


_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_ANNOTATIONS = {"train": ("train.csv",), "val": ("val.csv", "validate.csv"), "test": ("test.csv",)}


def _annotations(root: Path, split: str) -> Path | None:
    candidates = (root / folder / name for folder in (".", "annotations") for name in _ANNOTATIONS[split])
    return next((path for path in candidates if path.is_file()), None)


def _first_folder(root: Path, names: Sequence[str], holding: str = "") -> Path:
    """The first of some sub-folders that exists and holds a file of that pattern."""
    for name in names:
        folder = root / name
        if folder.is_dir() and (not holding or any(folder.glob(holding))):
            return folder
    places = ", ".join(str(root / name) for name in names)
    raise InputError(f"Found no {holding or 'videos'} in {places}: give the folder into which the set was unpacked.")


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path} is missing: it belongs to the official lists.")
    return [line for raw in path.read_text(encoding="utf-8").splitlines() if (line := raw.strip())]
