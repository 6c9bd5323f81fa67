"""The files of a training run, written whole or not at all.

::

    training.json                  the recipe, its hash, and the versions it started under
    metrics.jsonl                  one line per epoch
    tensorboard/                   the same for TensorBoard, and the loss of every batch
    checkpoints/last.pt            everything needed to go on
    checkpoints/best.safetensors   the weights of the best epoch so far
    summary.json                   the measured accuracies, when training is done
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from robustvideo.errors import InputError, RunConflict
from robustvideo.storage import is_temporary, others_at_work, write_atomically, write_text
from robustvideo.training.recipe import Recipe
from robustvideo.training.validation import Accuracy

SCHEMA_VERSION = 1


@dataclass
class Position:
    """Where a training run stands, besides its weights.

    Attributes:
        epoch, batch: the next batch to train on.
        sums, counts: running sums of this epoch's losses and metrics, and how many numbers are in each.
        seconds: spent on this epoch's updates so far.
        history: the finished epochs' metrics.
        best: highest validation score so far; -1 before the first.
    """

    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = -1.0

    def add(self, name: str, number: float) -> None:
        """Count a number into this epoch's mean of its name."""
        self.sums[name] = self.sums.get(name, 0.0) + number
        self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """This epoch's means so far."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch, self.batch, self.sums, self.counts, self.seconds = self.epoch + 1, 0, {}, {}, 0.0


@dataclass(frozen=True)
class Folder:
    """The directory of a training run."""

    path: Path

    @property
    def last(self) -> Path:
        """Everything needed to go on."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.path / "checkpoints" / "best.safetensors"

    def holds(self, recipe: Recipe) -> bool:
        """Whether a run of the recipe is here; False where one may start.

        One may also start in place of another recipe's run that ended before it had any result, and that nobody works
        on: what made it fail has been corrected.

        Raises:
            RunConflict: the directory holds a run of another recipe, a newer version's run, or other files.
            InputError: its ``training.json`` is damaged.
        """
        if not self._manifest.exists():
            if self.path.exists() and any(not is_temporary(path) for path in self.path.iterdir()):
                raise RunConflict(f"{self.path} is not empty and holds no training run: choose another --out.")
            return False
        try:
            content = json.loads(self._manifest.read_text(encoding="utf-8"))
            schema, started = int(content["schema_version"]), content["recipe"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._manifest} is damaged and cannot be read as a training run.") from error
        if schema > SCHEMA_VERSION:
            raise RunConflict(
                f"{self.path} was written by robustvideo {content.get('robustvideo', '?')} (schema {schema}); "
                f"this version reads up to schema {SCHEMA_VERSION}: upgrade, or use another --out."
            )
        for key, value in recipe.model_dump(mode="json").items():
            if started.get(key) != value:
                if not self._has_results and not others_at_work(self.path):
                    return False
                raise RunConflict(
                    f"{self.path} holds a training run of another recipe ({key} was {started.get(key)!r}, "
                    f"now {value!r}): choose another --out, or delete that run."
                )
        return True

    def claim(self, recipe: Recipe) -> None:
        """Start a run here, unless one of the recipe is here already.

        Raises:
            RunConflict, InputError: see `holds`.
        """
        if self.holds(recipe):
            return
        content = {
            "schema_version": SCHEMA_VERSION,
            "robustvideo": version("robustvideo"),
            "torch": version("torch"),
            "recipe_hash": recipe.digest(),
            "recipe": recipe.model_dump(mode="json"),
        }
        write_text(self._manifest, json.dumps(content, indent=2) + "\n")

    @property
    def _manifest(self) -> Path:
        return self.path / "training.json"

    @property
    def _has_results(self) -> bool:
        """Whether there is more than the manifest and the losses of batches, which alone are no start for anything."""
        found = (path for path in self.path.iterdir() if not is_temporary(path))
        return any(path.name not in ("training.json", "tensorboard") for path in found)

    def save(self, position: Position, states: Mapping[str, Any]) -> None:
        """Replace the last checkpoint.

        Args:
            position: where training stands.
            states: state dictionaries of the network, the optimizer, ...
        """
        buffer = io.BytesIO()  # torch's own writer reports a full disk as a defect of its archive
        torch.save({"position": vars(position), **states}, buffer)
        write_atomically(self.last, lambda temporary: temporary.write_bytes(buffer.getbuffer()))

    def load(self) -> tuple[Position, dict[str, Any]] | None:
        """The last checkpoint, on the CPU; None when there is none.

        Raises:
            InputError: it is damaged.
        """
        if not self.last.exists():
            return None
        try:
            content = torch.load(self.last, map_location="cpu", weights_only=True)
            return Position(**content.pop("position")), content
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
            raise InputError(f"{self.last} is damaged: delete {self.path} and train anew.") from error

    def save_best(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the weights of the best epoch."""
        save_weights(self.best, weights, {})

    def load_best(self) -> dict[str, Tensor]:
        """The weights of the best epoch, on the CPU."""
        return load_file(self.best)

    def save_metrics(self, history: list[dict[str, float]]) -> None:
        """Rewrite ``metrics.jsonl``."""
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))

    def save_summary(self, accuracies: Mapping[str, Accuracy]) -> None:
        """Write what the finished run measured."""
        content = {name: vars(accuracy) for name, accuracy in accuracies.items()}
        write_text(self.path / "summary.json", json.dumps(content, indent=2) + "\n")

    def load_summary(self) -> dict[str, Accuracy] | None:
        """What the run measured; None before it is finished."""
        file = self.path / "summary.json"
        if not file.exists():
            return None
        return {name: Accuracy(**counts) for name, counts in json.loads(file.read_text(encoding="utf-8")).items()}


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    content = serialise(tensors, dict(metadata))  # safetensors' own writer ignores the umask
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
