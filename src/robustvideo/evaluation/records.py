"""Records: one row per clip x attack x budget, in parquet shards that are written whole or not at all.

A run directory is the database::

    run.json            the manifest (see `robustvideo.evaluation.run`)
    records/*.parquet   the rows described by `SCHEMA`: a shard per work item, or many items merged into one
    clips/<key>/        saved videos: clean.mkv and one <attack key>.mkv per saved attack, lossless
    trust.json          the trust checks of an examined run (see `robustvideo.evaluation.trust`)
    report.html         the page
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robustvideo.errors import InputError
from robustvideo.storage import is_temporary, local_copy, write_atomically

CLEAN = "clean"
"""The ``attack`` of the rows that hold the undisturbed predictions."""

TIMING = ("seconds",)
"""Columns that differ between two runs of the same configuration."""


@dataclass(frozen=True)
class Record:
    """One clip under one attack at one budget.

    Attributes:
        sample_id: the clip's stable name in its data set.
        label: true class index.
        attack: the attack's spec without its budget (`Attack.label`); "clean" for the undisturbed prediction.
        eps: the budget (of the first part of a joint threat model); 0 for "clean".
        defense: the defence's spec; "none" when there is none.
        seed: the attack's seed.
        clean_prediction: class of the undisturbed clip; -1 for a clip that could not be used.
        adversarial_prediction: class of the stored adversarial clip, in fp32; -1 likewise.
        success: the model is wrong about the stored clip (targeted: it says the target). A clip that is
            misclassified without any attack counts as a success at step 0 and is not attacked.
        first_success_step: gradient steps taken when it first succeeded, with those of earlier starts, targets and
            members of an ensemble (in rows of early versions without them); -1 if it never did.
        forward_passes, backward_passes: passes of this clip through the model, verdicts included.
        seconds: wall time of the clip's batch, divided by its size.
        linf, l2, l21, ssim, psnr, frames_touched: the stored change (see `robustvideo.distances`).
        threat: the threat model's spec.
        target: target class of a targeted attack; -1 when untargeted.
        clean_confidence, adversarial_confidence: softmax probability of the predicted class.
        margin: largest wrong logit minus the true one on the stored clip; positive when misclassified.
        loss_trace: objective per step of the start that gave the clip; of more than 200 steps, 200 points evenly spread
            (`thinned_steps`); empty for "clean".
        frame_rms: root mean square change of each frame.
        clip_file: the saved adversarial video, relative to the run directory; empty when not saved.
        status: "ok", or "unusable" when the clip could not be read.
        message: why a clip is unusable.
        surrogate: spec of the model that the clip was crafted on; empty for the model under test itself.
        member: of an ensemble, the member that broke the clip first; empty when none did.
        codecs: re-encodings of the stored clip that were tried.
        codec_success: per codec, whether the attack succeeds (for "clean": the model errs) after it.
        audio_snr_db: signal-to-noise ratio of the stored change of the sound in decibels; lower is louder, -infinite
            over silence. None where the sound is not changed or there is none, and in rows of early versions.
        audio_relative_db: its largest sample in decibels relative to the loudest clean one; None likewise.
        steps: steps taken in all, in the unit of ``first_success_step``. None without an attack, and in rows of early
            versions.
        trace_steps: how many steps ``loss_trace`` tells of. None likewise.
        item: the work item that wrote the row; used to drop duplicates.
    """

    sample_id: str
    label: int
    attack: str
    eps: float
    defense: str
    seed: int
    clean_prediction: int
    adversarial_prediction: int
    success: bool
    first_success_step: int
    forward_passes: int
    backward_passes: int
    seconds: float
    linf: float
    l2: float
    l21: float
    ssim: float
    frames_touched: int
    psnr: float = math.inf
    threat: str = ""
    target: int = -1
    clean_confidence: float = math.nan
    adversarial_confidence: float = math.nan
    margin: float = math.nan
    loss_trace: list[float] = field(default_factory=list)
    frame_rms: list[float] = field(default_factory=list)
    clip_file: str = ""
    status: str = "ok"
    message: str = ""
    surrogate: str = ""
    member: str = ""
    codecs: list[str] = field(default_factory=list)
    codec_success: list[bool] = field(default_factory=list)
    audio_snr_db: float | None = None
    audio_relative_db: float | None = None
    steps: int | None = None
    trace_steps: int | None = None
    item: str = ""


_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_ARROW |= {f"list[{name}]": pa.list_(kind) for name, kind in _ARROW.items()}
_ARROW |= {"float | None": pa.float64(), "int | None": pa.int64()}
SCHEMA = pa.schema([(f.name, _ARROW[str(f.type)]) for f in fields(Record)])
"""The parquet schema, column by column as in `Record`."""

_ADDED = ("audio_snr_db", "audio_relative_db"), ("steps", "trace_steps")
"""Columns that early versions lack, the oldest first. Where a column is missing, its values are."""

_SCHEMAS = [
    pa.schema([column for column in SCHEMA if column.name not in sum(_ADDED[version:], ())])
    for version in range(len(_ADDED) + 1)
]
"""The schemas of all versions."""

TRACE_POINTS = 200
"""Points of a ``loss_trace`` at most."""

_ITEMS = b"robustvideo_items"
"""In a file's metadata: the names of its work items, among them those without a row."""

_DIGEST = b"robustvideo_digest"
"""In a file's metadata: a hash of its items and values; Parquet itself does not notice most damage."""

_MERGED = "merged-"

_DAMAGED = "{} is damaged: delete it, and the same evaluation makes its rows again."

_ATTEMPTS = 5  # a listing grows old while another process merges what it lists


def thinned_steps(steps: int) -> range | list[int]:
    """Which of so many steps, from 0, a ``loss_trace`` has: all, or 200 evenly spread, the first and last included."""
    if steps <= TRACE_POINTS:
        return range(steps)
    return [round(i * (steps - 1) / (TRACE_POINTS - 1)) for i in range(TRACE_POINTS)]


def shard(run: Path, item: str) -> Path:
    """Where the records of a work item are written when it is done."""
    return run / "records" / f"{item}.parquet"


def write_shard(path: Path, records: Sequence[Record]) -> None:
    """Write one parquet file, complete or not at all."""
    _write(path, table_of(records), [path.stem])


def finished_items(run: Path) -> set[str]:
    """The names of the work items that are on disk, as shards of their own or merged.

    Raises:
        InputError: a damaged file.
    """
    found: set[str] = set()
    for path in _files(run):
        if path.name.startswith(_MERGED):
            found.update(_items_of(path, _opened(path, pq.read_schema)))
        else:
            found.add(path.stem)
    return found


def merge_shards(run: Path, least: int = 2) -> None:
    """Merge the shards of single work items into one file; with fewer than ``least`` of them, leave them.

    The merged file is whole before a shard goes, and an item that is found twice is read once: neither a kill nor
    another process that writes or reads meanwhile is harmed. At most one process may merge.
    """
    loose = [path for path in _files(run) if not path.name.startswith(_MERGED)]
    if len(loose) < least:
        return
    items = [path.stem for path in loose]
    table = pa.concat_tables([_read(path).replace_schema_metadata() for path in loose])
    name = hashlib.blake2b("\n".join(items).encode(), digest_size=8).hexdigest()
    _write(run / "records" / f"{_MERGED}{name}.parquet", table, items)
    for path in loose:
        path.unlink(missing_ok=True)


def read_records(run: Path, unsigned: bool = True) -> list[Record]:
    """All rows of a run one by one; see `read_table`."""
    return records_of(read_table(run, unsigned))


def read_table(run: Path, unsigned: bool = True) -> pa.Table:
    """All rows of a run, each work item once, in the order of items and clips.

    Args:
        run: the run directory.
        unsigned: also take rows of early versions, whose damage goes unnoticed.

    Raises:
        InputError: a damaged file.
    """
    for attempt in range(_ATTEMPTS):
        try:
            tables = [SCHEMA.empty_table(), *(_read(path, unsigned).replace_schema_metadata() for path in _files(run))]
            break
        except FileNotFoundError:  # merged away since it was listed
            if attempt == _ATTEMPTS - 1:
                raise
    table = pa.concat_tables(tables).combine_chunks()
    file = np.repeat(np.arange(len(tables)), [own.num_rows for own in tables])
    encoded = pa.concat_arrays(table.column("item").chunks).dictionary_encode()
    item, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    last = np.zeros(len(names), np.int64)  # of the files that have an item
    np.maximum.at(last, item, file)
    kept = np.flatnonzero(file == last[item])
    place = np.argsort(np.argsort(np.array(names, dtype=str)))
    return table.take(kept[np.argsort(place[item[kept]], kind="stable")])


def table_of(records: Iterable[Record]) -> pa.Table:
    """Rows as a table of `SCHEMA`."""
    rows = list(records)
    return pa.table({name: [getattr(row, name) for row in rows] for name in SCHEMA.names}, schema=SCHEMA)


def records_of(table: pa.Table) -> list[Record]:
    """The rows of a table of `SCHEMA`."""
    with _without_collector():
        columns = (table.column(name).to_pylist() for name in SCHEMA.names)
        return [Record(*row) for row in zip(*columns, strict=True)]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector looks through all objects again and again while many are made; none of ours is garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _files(run: Path) -> list[Path]:
    return sorted(path for path in (run / "records").glob("*.parquet") if not is_temporary(path))


def _write(path: Path, table: pa.Table, items: Sequence[str]) -> None:
    metadata = {_ITEMS: json.dumps(list(items)).encode(), _DIGEST: _digest(table, items).encode()}
    table = table.replace_schema_metadata(metadata)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def _read(path: Path, unsigned: bool = True) -> pa.Table:
    """A file's rows, which are what was written.

    Raises:
        InputError: they are not; or they are not signed (those of early versions are not) though they must be.
    """
    table = _opened(path, lambda file: pq.ParquetFile(file).read())
    signed = (table.schema.metadata or {}).get(_DIGEST)
    if signed is None and unsigned:
        return _completed(table)
    if signed is None:
        raise InputError(f"{path} was written by an early version that did not sign records: evaluate again.")
    items = _items_of(path, table.schema)
    own = path.name.startswith(_MERGED) or items == [path.stem]
    if not own or _digest(table, items).encode() != signed:
        raise InputError(_DAMAGED.format(path))
    return _completed(table)


def _completed(table: pa.Table) -> pa.Table:
    """A file's table with the columns of `SCHEMA`."""
    for place, column in enumerate(SCHEMA):
        if column.name not in table.column_names:
            table = table.add_column(place, column, pa.nulls(table.num_rows, column.type))
    return table


def _items_of(path: Path, schema: pa.Schema) -> list[str]:
    try:
        return [str(item) for item in json.loads((schema.metadata or {})[_ITEMS])]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(_DAMAGED.format(path)) from error


def _digest(table: pa.Table, items: Sequence[str]) -> str:
    """A hash of the values, column by column, whatever Parquet and Arrow make of them."""
    digest = hashlib.blake2b("\n".join(items).encode(), digest_size=16)
    for column in table.columns:
        for piece in _bytes(pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)):
            digest.update(piece)
    return digest.hexdigest()


def _bytes(array: pa.Array) -> Iterator[bytes | pa.Buffer]:
    if array.null_count and pa.types.is_primitive(array.type):
        yield array.is_null().to_numpy(zero_copy_only=False).tobytes()
        yield from _bytes(array.fill_null(0))
    elif array.null_count:
        yield b"nothing"  # no other value of ours is missing
    elif pa.types.is_list(array.type):
        yield np.asarray(array.value_lengths()).tobytes()
        yield from _bytes(array.flatten())
    elif pa.types.is_string(array.type):
        yield pc.binary_join(pa.ListArray.from_arrays([0, len(array)], array), "\x1f")[0].as_buffer()
    else:
        yield array.to_numpy(zero_copy_only=False).tobytes()


def _opened(path: Path, read: Any) -> Any:
    """What ``read`` makes of an open file that holds our columns.

    Arrow opens it: of a file of Python's, its threads hold buffers that they may only let go of under the lock of an
    interpreter which by then may be at its end, and the process aborts.
    """
    try:
        with local_copy(path) as local, pa.OSFile(str(local)) as file:
            found = read(file)
        if (found if isinstance(found, pa.Schema) else found.schema).remove_metadata() not in _SCHEMAS:
            raise pa.ArrowInvalid("other columns")
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise InputError(_DAMAGED.format(path)) from error
    return found


def comparable(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Rows without the timing columns, as plain dictionaries, for comparing two runs."""
    return [{k: v for k, v in asdict(r).items() if k not in TIMING} for r in records]
