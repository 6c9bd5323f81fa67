"""`validated`: a run directory whose numbers may be published, or one sentence that says why they may not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from robustvideo.errors import InputError
from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.metrics import is_recognised, norm_of
from robustvideo.evaluation.records import CLEAN, Record, finished_items, read_table
from robustvideo.evaluation.run import Run, open_run
from robustvideo.evaluation.trust import load_checks
from robustvideo.storage import place

_ROUNDING = 1e-6


def validated(path: str | Path) -> tuple[Run, Columns]:
    """A finished run and its records, all of them there, as they were written, and of one mind.

    Args:
        path: the run directory, or its address.

    Raises:
        InputError: it is unfinished or damaged, or a row contradicts itself, its budget or its run.
        RunConflict: it was written by a newer version.
    """
    path = place(path)
    run = open_run(path)
    manifest = run.manifest
    if not manifest.signature:
        raise InputError(f"{path} was written by an early version that did not sign its results: evaluate again.")
    if manifest.status != "finished":
        raise InputError(f"{path} is not finished: start the same evaluation again, and it goes on.")
    missing = manifest.items - len(finished_items(path))
    if missing:
        raise InputError(f"{path} does not have the {manifest.items} work items that it should have: evaluate again.")
    rows = Columns.of_table(read_table(path, unsigned=False))
    _check(path, rows.records(), int(manifest.data.get("clips", 0)), len(manifest.model.get("labels") or ()))
    if (rows.attack == CLEAN).all():
        raise InputError(f"{path} has no attack, so it says nothing of robustness.")
    load_checks(path)
    return run, rows


def _check(path: Path, records: Iterable[Record], clips: int, classes: int) -> None:
    clean: dict[tuple[str, str], Record] = {}
    for record in records:
        where = f"{path}: clip {record.sample_id} under {record.attack}"
        first = clean.setdefault((record.defense, record.sample_id), record)
        if (record.label, record.clean_prediction) != (first.label, first.clean_prediction):
            raise InputError(f"{where} has another label or undisturbed prediction than before: evaluate again.")
        if record.status != "ok" or record.attack == CLEAN:
            continue
        said = record.adversarial_prediction
        if record.success != (said == record.target if record.target >= 0 else not is_recognised(record)):
            raise InputError(f"{where} is called a success and a failure at once: evaluate again.")
        if classes and not 0 <= record.label < classes:
            raise InputError(f"{where} has a class that the model does not have: evaluate again.")
        if norm_of(record) == "linf" and record.linf > record.eps + _ROUNDING:
            raise InputError(f"{where} is changed by more than its budget: evaluate again.")
    for defense in {name for name, _ in clean}:
        known = sum(name == defense for name, _ in clean)
        if known != clips:
            raise InputError(f"{path} has {known} of {clips} clips behind {defense}: evaluate again.")
