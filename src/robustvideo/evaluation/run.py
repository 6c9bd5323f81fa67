"""`Run`: the directory of one evaluation, and its versioned manifest ``run.json``."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustvideo.errors import InputError, RunConflict
from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.records import Record, read_records, read_table
from robustvideo.storage import is_temporary, others_at_work, place, remove_leftovers, signature, write_text

SCHEMA_VERSION = 1

Status = Literal["running", "finished"]


class Manifest(BaseModel):
    """What ``run.json`` holds.

    Attributes:
        schema_version: version of this layout and of the record schema.
        robustvideo: version of the package that made the run.
        created: ISO time of the first start.
        status: "running" until every work item is on disk.
        title: heading of the report.
        command: the command line that made the run; empty when it was made from Python.
        configuration: everything the records depend on; the same command must produce the same value.
        items: number of work items of the whole run.
        model: facts of the model: spec, class names, parameters, frames, size, and doubts about its answers if any.
        data: facts of the data: spec, clips, class names.
        environment: versions of Python and of the libraries, processor, device.
        signature: of everything else, as it was written; empty in manifests of early versions.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    robustvideo: str = ""
    created: str = ""
    status: Status = "running"
    title: str = "Robustness report"
    command: str = ""
    configuration: dict[str, Any] = Field(default_factory=dict)
    items: int = 0
    model: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    signature: str = ""


@dataclass(frozen=True)
class Run:
    """An evaluation on disk.

    Attributes:
        path: its directory.
        manifest: its ``run.json``.
    """

    path: Path
    manifest: Manifest = field(repr=False)

    def columns(self) -> Columns:
        """All rows on disk, column by column."""
        return Columns.of_table(read_table(self.path))

    def records(self) -> list[Record]:
        """All rows on disk, one by one."""
        return read_records(self.path)

    def save(self) -> None:
        """Write ``run.json`` atomically."""
        self.manifest.signature = _signature(self.manifest)
        write_text(self.path / "run.json", self.manifest.model_dump_json(indent=2) + "\n")


def open_run(path: str | Path) -> Run:
    """Read a run directory.

    Args:
        path: the directory; a path, or an address that fsspec knows, such as ``s3://bucket/run``.

    Raises:
        InputError: it is not one.
        RunConflict: it was written by a newer version.
    """
    path = place(path)
    file = path / "run.json"
    if (path / "training.json").is_file() and not file.is_file():
        raise InputError(
            f"{path} holds a training run, not an evaluation: evaluate its weights first, "
            f"--model trained:{path}/model.safetensors."
        )
    if not file.is_file():
        raise InputError(f"{path} is not a run directory: it has no run.json.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        written_by = int(content.get("schema_version", 0))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{file} is damaged and cannot be read as a run manifest.") from error
    if written_by > SCHEMA_VERSION:
        raise RunConflict(
            f"{path} was written by robustvideo {content.get('robustvideo', '?')} (schema {written_by}); "
            f"this version reads up to schema {SCHEMA_VERSION}: upgrade, or use another --out."
        )
    try:
        run = Run(path, Manifest.model_validate(content))
    except ValidationError as error:
        raise InputError(f"{file} is not a valid run manifest: {error.errors()[0]['msg'].lower()}.") from error
    if run.manifest.signature not in ("", _signature(run.manifest)):
        raise InputError(f"{file} is not what was written: restore it, or evaluate again in another --out.")
    return run


def _signature(manifest: Manifest) -> str:
    return signature(manifest.model_dump(mode="json", exclude={"signature"}))


def places(runs: str | Path | Iterable[str | Path]) -> list[Path]:
    """Where some directories lie, given as one place or as several."""
    if isinstance(runs, str) or not isinstance(runs, Iterable):  # an address on another system is no Path
        return [place(runs)]
    return [place(run) for run in runs]


def runs_in(directories: Iterable[Path]) -> list[Path]:
    """The runs of some directories: each itself, or those inside of one that an evaluation of several models wrote.

    Those inside come as they were started. A directory that is no run and has none stays, for `open_run` to refuse.

    Raises:
        InputError, RunConflict: see `open_run`.
    """
    found = []
    for path in directories:
        inside = [] if (path / "run.json").is_file() else [file.parent for file in path.glob("*/run.json")]
        started = sorted(inside, key=lambda run: (open_run(run).manifest.created, run.name))
        found += started or [path]
    return found


def start_run(path: Path, manifest: Manifest) -> Run:
    """Create a run directory, or continue the one that is there.

    A run of another configuration that failed before it had any result, and that nobody works on, is replaced: what
    made it fail has been corrected.

    Raises:
        RunConflict: the directory holds a run of another configuration, a newer version's run, or other files.
    """
    if (path / "run.json").exists():
        run = open_run(path)
        difference = first_difference(run.manifest.configuration, manifest.configuration)
        if not difference:
            remove_leftovers(path)
            return run
        if _has_results(path) or others_at_work(path):
            raise RunConflict(
                f"{path} holds a run of another configuration ({difference}): choose another --out, or delete that run."
            )
    elif path.exists() and any(not is_temporary(p) for p in path.iterdir()):
        raise RunConflict(f"{path} is not empty and is not a run directory: choose another --out.")
    run = Run(path, manifest)
    run.save()
    return run


def _has_results(path: Path) -> bool:
    """Whether a run directory holds more than its manifest."""
    return any(p.is_file() and p.name != "run.json" and not is_temporary(p) for p in path.rglob("*"))


def first_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """A phrase for the first entry in which two configurations differ; empty when they agree."""
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            if key == "model_digest":  # two hashes tell nobody anything
                return "the model's weights or the code of its file have changed"
            return f"{key} was {old.get(key)!r}, now {new.get(key)!r}"
    return ""


def environment() -> dict[str, Any]:
    """Versions and machine facts for the manifest."""
    packages = {}
    for name in ("robustvideo", "torch", "torchvision", "av", "numpy", "accelerate", "transformers"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "platform": sys.platform, "machine": platform.machine(), **packages}


def now() -> str:
    """The current time in UTC, ISO format, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
