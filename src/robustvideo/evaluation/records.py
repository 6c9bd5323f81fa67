"""Records: one row per clip x attack x budget, in parquet shards that are written whole or not at all.

A run directory is the database::

    run.json            the manifest (see `robustvideo.evaluation.run`)
    records/*.parquet   the rows described by `SCHEMA`
    clips/<key>/        saved videos: clean.mkv and one <attack key>.mkv per saved attack, lossless
    trust.json          the trust checks of an examined run (see `robustvideo.evaluation.trust`)
    report.html         the page
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robustvideo.storage import is_temporary, write_atomically

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
        attack: the attack's spec without its budget; "clean" for the undisturbed prediction.
        eps: the budget (of the first part of a joint threat model); 0 for "clean".
        defense: the defence's spec; "none" when there is none.
        seed: the attack's seed.
        clean_prediction: class of the undisturbed clip; -1 for a clip that could not be used.
        adversarial_prediction: class of the stored adversarial clip, in fp32; -1 likewise.
        success: the model is wrong about the stored clip (targeted: it says the target). A clip that is
            misclassified without any attack counts as a success at step 0 and is not attacked.
        first_success_step: gradient steps taken when it first succeeded; -1 if it never did.
        forward_passes, backward_passes: passes of this clip through the model, verdicts included.
        seconds: wall time of the clip's batch, divided by its size.
        linf, l2, l21, ssim, psnr, frames_touched: the stored change (see `robustvideo.distances`).
        threat: the threat model's spec.
        target: target class of a targeted attack; -1 when untargeted.
        clean_confidence, adversarial_confidence: softmax probability of the predicted class.
        margin: largest wrong logit minus the true one on the stored clip; positive when misclassified.
        loss_trace: objective per step, thinned to 200 points when there are more; empty for "clean".
        frame_rms: root mean square change of each frame.
        clip_file: the saved adversarial video, relative to the run directory; empty when not saved.
        status: "ok", or "unusable" when the clip could not be read.
        message: why a clip is unusable.
        surrogate: spec of the model that the clip was crafted on; empty for the model under test itself.
        member: of an ensemble, the member that broke the clip first; empty when none did.
        codecs: re-encodings of the stored clip that were tried.
        codec_success: per codec, whether the attack succeeds (for "clean": the model errs) after it.
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
    item: str = ""


_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_ARROW |= {f"list[{name}]": pa.list_(kind) for name, kind in _ARROW.items()}
SCHEMA = pa.schema([(f.name, _ARROW[str(f.type)]) for f in fields(Record)])
"""The parquet schema, column by column as in `Record`."""


def write_shard(path: Path, records: Sequence[Record]) -> None:
    """Write one parquet file, complete or not at all."""
    table = pa.Table.from_pylist([asdict(r) for r in records], schema=SCHEMA)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def read_records(run: Path) -> list[Record]:
    """All rows of a run, each work item once, in the order of items and clips.

    Raises:
        pyarrow.ArrowInvalid: a damaged shard.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(p for p in (run / "records").glob("*.parquet") if not is_temporary(p)):
        shard: dict[str, list[dict[str, Any]]] = {}
        for row in pq.read_table(path, schema=SCHEMA).to_pylist():
            shard.setdefault(row["item"], []).append(row)
        rows.update(shard)
    return [Record(**row) for item in sorted(rows) for row in rows[item]]


def comparable(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Rows without the timing columns, as plain dictionaries, for comparing two runs."""
    return [{k: v for k, v in asdict(r).items() if k not in TIMING} for r in records]
