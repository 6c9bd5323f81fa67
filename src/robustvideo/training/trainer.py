"""The trainer: runs any `Method` by a `Recipe`, on whatever Accelerate finds, and never loses its place.

A killed run that is started again ends with the weights of an undisturbed one (in fp32 on a CPU: bit for bit).
Batch order, learning rate and every random number of a batch are functions of the recipe's seed and the batch's
position, so a checkpoint holds no random state: weights, optimizer and position are all there is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, broadcast_object_list, set_seed
from torch import Tensor

from robustvideo.attacks import Attack, load_attack
from robustvideo.clip import Clip
from robustvideo.data import load_data
from robustvideo.data.dataset import VideoDataset
from robustvideo.errors import InputError, RobustVideoError
from robustvideo.model import Model, at_rest, classify
from robustvideo.models import load_model
from robustvideo.progress import Advance, track
from robustvideo.randomness import seed_for
from robustvideo.storage import at_work
from robustvideo.training.batches import Clips, Plan, read
from robustvideo.training.checkpoint import Folder, Position
from robustvideo.training.export import export, rounded
from robustvideo.training.method import Loss, Memory, Stage, Step, load_training
from robustvideo.training.recipe import Recipe
from robustvideo.training.updates import Updates
from robustvideo.training.validation import Accuracy, count_correct

_ACCELERATE = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class Outcome:
    """A finished training run.

    Attributes:
        weights: the exported file.
        accuracies: data split, and attack where there is one -> accuracy of the exported weights, in fp32.
    """

    weights: Path
    accuracies: Mapping[str, Accuracy]


def train(
    recipe: Recipe, out: Path, *, workers: int = 0, checkpoint_seconds: float = 300.0, quiet: bool = False
) -> Outcome:
    """Train a network, or go on where an interrupted run of the same recipe stopped.

    Args:
        recipe: what to do.
        out: the run's directory: new, empty, one of the very same recipe, or one that ended without a checkpoint.
        workers: processes that decode clips; 0 decodes in this one. Does not change the result.
        checkpoint_seconds: time between checkpoints within an epoch; each epoch ends with one anyway.
        quiet: show no progress.

    Raises:
        InputError: a model, data or method that cannot be had, or that do not fit together.
        RunConflict: ``out`` holds another run or other files.
        RobustVideoError: the loss or the weights are no longer finite, or the disk is full; the last good
            checkpoint is intact.
    """
    folder = Folder(Path(out))
    accelerator = _accelerator(recipe, folder)
    with accelerator.main_process_first():
        accuracies = folder.load_summary() if folder.holds(recipe) else None
    accelerator.wait_for_everyone()
    if accuracies is None:
        trainer = Trainer(  # before the folder is claimed: what cannot be had leaves no trace
            recipe, folder, accelerator, workers=workers, checkpoint_seconds=checkpoint_seconds, quiet=quiet
        )
        with at_work(folder.path) if accelerator.is_main_process else nullcontext():
            with accelerator.main_process_first():
                folder.claim(recipe)
            accuracies = trainer.run()
    accelerator.end_training()
    return Outcome(folder.path / recipe.export.path, accuracies)


class Trainer:
    """One training run; see `train`."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Folder,
        accelerator: Accelerator,
        *,
        workers: int,
        checkpoint_seconds: float,
        quiet: bool,
    ):
        self.recipe = recipe
        self.folder = folder
        self.accelerator = accelerator
        self.workers = workers
        self.checkpoint_seconds = checkpoint_seconds
        self.quiet = quiet or not accelerator.is_main_process
        self.method = load_training(recipe.training)
        self.attack: Attack | None = None
        if recipe.validation.attack is not None:
            self.attack = load_attack(recipe.validation.attack)
        data = load_data(recipe.data.train)
        self.network = self._build(len(data.labels))
        self.labels = self.network.labels or data.labels
        self.train_clips = self._clips(data if data.labels == self.labels else data.relabelled(self.labels))
        self.val_clips = self._clips(self._validated(load_data(recipe.data.val, labels=self.labels)))
        self.test_data = None if recipe.data.test is None else load_data(recipe.data.test, labels=self.labels)
        self._check_fit()
        parts = accelerator.num_processes * recipe.accumulation
        self.plan = Plan(len(self.train_clips), recipe.batch_size, parts, recipe.seed)
        set_seed(seed_for(recipe.seed, "companions") % 2**32)
        self.companions = self.method.companions(self.network).to(accelerator.device)
        self.updates = Updates(accelerator, recipe, self.method.parts(self.network, self.companions))
        self.position = Position()
        self.memory: Memory = {}

    def run(self) -> dict[str, Accuracy]:
        """Train to the end, export the best epoch's weights and measure them."""
        self._restore()
        position, plan = self.position, self.plan
        done = position.epoch * len(plan) + position.batch
        self.accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": done}})
        with track(self.recipe.title, self.recipe.epochs * len(plan), done=done, quiet=self.quiet) as advance:
            while position.epoch < self.recipe.epochs:
                if position.batch == 0:
                    self._before_epoch()
                self._epoch(advance)
                self._end_epoch()
        self.accelerator.wait_for_everyone()
        return self._finish()

    def _before_epoch(self) -> None:
        """Let the method look at the whole; what it found is that of the main process everywhere."""
        position = self.position
        seed = seed_for(self.recipe.seed, "stage", position.epoch)
        set_seed(seed % 2**32)
        stage = Stage(
            network=self.network,
            companions=self.companions,
            memory=self.memory,
            epoch=position.epoch,
            epochs=self.recipe.epochs,
            seed=seed,
            sample=self._sample,
        )
        found = [dict(self.method.before_epoch(stage)), self.memory]
        found, self.memory = broadcast_object_list(found)
        for name, number in found.items():
            position.add(name, number)

    def _sample(self, wanted: int) -> Iterator[tuple[Clip, Tensor]]:
        indices = _drawn(len(self.train_clips), wanted, seed_for("sample", self.recipe.seed))
        size = self._part_size
        return self._batches(self.train_clips, [indices[i : i + size] for i in range(0, len(indices), size)])

    def _epoch(self, advance: Advance) -> None:
        recipe, position = self.recipe, self.position
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        own = [part * world + rank for part in range(recipe.accumulation)]
        parts = self._batches(self.train_clips, self.plan.parts_of(position.epoch, position.batch, own))
        saved = started = time.monotonic()
        while position.batch < len(self.plan):
            self._batch([next(parts) for _ in own])
            position.batch += 1
            position.seconds += time.monotonic() - started
            started = time.monotonic()
            loss = position.means().get("loss", math.nan)  # a method may skip batches
            advance(1, f"epoch {position.epoch + 1}/{recipe.epochs}, loss {loss:.3f}")
            if time.monotonic() - saved >= self.checkpoint_seconds and position.batch < len(self.plan):
                self._save()
                saved = time.monotonic()

    def _batch(self, parts: list[tuple[Clip, Tensor]]) -> None:
        """Every update that the method makes of one batch."""
        recipe, position = self.recipe, self.position
        batch = position.epoch * len(self.plan) + position.batch
        progress = batch / (recipe.epochs * len(self.plan))
        seed = seed_for(recipe.seed, position.epoch, position.batch)
        set_seed((seed + self.accelerator.process_index) % 2**32)
        self.updates.schedule(progress)
        self.network.train()
        self.companions.train()
        steps = [self._step(clip, labels, progress, seed) for clip, labels in parts]
        generators = [self.method.losses(step) for step in steps]
        while True:
            losses = [next(generator, None) for generator in generators]
            if losses[0] is None:
                return
            for loss in losses:
                assert loss is not None, "a method yields as many losses for every part of a batch"
                self._learn(loss)
            self.updates.apply(losses[0])

    def _step(self, clip: Clip, labels: Tensor, progress: float, seed: int) -> Step:
        return Step(
            forward=self._forward,
            network=self.network,
            companions=self.companions,
            clip=self.recipe.augmentation(clip, seed),
            labels=labels,
            epoch=self.position.epoch,
            epochs=self.recipe.epochs,
            progress=progress,
            seed=seed,
            memory=self.memory,
            autocast=self.accelerator.autocast,
        )

    def _forward(self, clip: Clip) -> Tensor:
        with self.accelerator.autocast():
            return self.network(clip).float()  # type: ignore[no-any-return]

    def _learn(self, loss: Loss) -> None:
        """Add one part's gradients, and count what was measured on the way."""
        metrics = {"loss": loss.value, **loss.metrics}
        values = torch.stack([value.detach().float() for value in metrics.values()])
        numbers = dict(zip(metrics, self.accelerator.reduce(values, "mean").tolist(), strict=True))
        if not math.isfinite(numbers["loss"]):
            raise self._diverged("the loss is not finite")
        self.updates.backward(loss)
        for name, number in numbers.items():
            self.position.add(name, number)
        self.accelerator.log({f"batch/{k}": v for k, v in numbers.items()}, step=self._batches_done)

    def _end_epoch(self) -> None:
        """Validate, keep the weights if they are the best so far, log and save."""
        position = self.position
        line: dict[str, float] = {"epoch": position.epoch + 1}
        line |= position.means()
        line["seconds"] = position.seconds
        for buffer in self.network.buffers():  # batch statistics are those of the main process, as in a checkpoint
            broadcast(buffer)
        self._check_weights()
        clean, robust, clips = self._count(self.network, self.val_clips)
        line["val_accuracy"] = clean / clips
        if self.attack is not None:
            line["val_robust_accuracy"] = robust / clips
        position.history.append(line)
        score = (clean if self.attack is None else robust) / clips
        if score > position.best or self._keeps_last:
            position.best = score
            if self.accelerator.is_main_process:
                self.folder.save_best(self.network.state_dict())
        self.accelerator.log({f"epoch/{k}": v for k, v in line.items()}, step=self._batches_done)
        position.next_epoch()
        self._save()

    @property
    def _keeps_last(self) -> bool:
        keep = self.recipe.validation.keep
        return keep == "last" if keep else self.attack is None and not self.method.for_accuracy

    def _finish(self) -> dict[str, Accuracy]:
        """Round the best weights as they will be stored, measure them, and write them with what was measured."""
        recipe = self.recipe
        network = self._build(len(self.labels))
        weights = rounded(self.folder.load_best(), recipe.export.precision)
        network.load_state_dict(weights)
        splits = {"val": self.val_clips}
        if self.test_data is not None:
            splits["test"] = self._clips(self.test_data)
        accuracies = {}
        for name, clips in splits.items():
            clean, robust, total = self._count(network, clips)
            accuracies[name] = Accuracy(clean, total)
            if self.attack is not None:
                accuracies[f"{name} under {self.attack.spec}"] = Accuracy(robust, total)
        if self.accelerator.is_main_process:
            export(self.folder.path / recipe.export.path, weights, recipe, self.labels, accuracies)
            self.folder.save_summary(accuracies)
        return accuracies

    def _count(self, network: Model, clips: Clips) -> tuple[int, int, int]:
        """Clean and robust successes, and clips, over all processes."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        size = self._part_size
        mine = range(rank, len(clips), world)
        batches = [list(mine[start : start + size]) for start in range(0, len(mine), size)]
        counts = count_correct(network, self._readable(clips, batches), self.attack)
        clean, robust, total = self.accelerator.reduce(counts.to(self.accelerator.device), "sum").tolist()
        return clean, robust, total

    def _readable(self, clips: Clips, indices: list[list[int]]) -> Iterator[tuple[Clip, Tensor]]:
        """The batches without the clips that only stand in for others."""
        for wanted, (clip, labels) in zip(indices, self._batches(clips, indices), strict=True):
            rows = clips.asked(wanted, clip)
            if len(rows) == len(wanted):
                yield clip, labels
            elif rows:
                chosen = torch.tensor(rows, device=labels.device)
                yield clip.select(chosen), labels[chosen]

    def _batches(self, clips: Clips, indices: list[list[int]]) -> Iterator[tuple[Clip, Tensor]]:
        device = self.accelerator.device
        return (stored.restore(device) for stored in read(clips, indices, device, self.workers))

    @property
    def _part_size(self) -> int:
        """Clips that fit a device's memory."""
        parts: int = self.accelerator.num_processes * self.recipe.accumulation
        return max(1, self.recipe.batch_size // parts)

    def _build(self, classes: int) -> Model:
        seed = seed_for(self.recipe.seed, "weights") % 2**32
        return load_model(self.recipe.model, num_classes=classes, device=self.accelerator.device, seed=seed)

    def _clips(self, data: VideoDataset) -> Clips:
        if len(data) == 0:
            raise InputError(f"The data set {data.spec} has no clips.")
        return Clips(data, shared=self.workers > 0)

    def _validated(self, data: VideoDataset) -> VideoDataset:
        """As many clips as the recipe wants, drawn by its seed: a listing may be sorted by class."""
        wanted = self.recipe.validation.clips
        if wanted is None or wanted >= len(data):
            return data
        return data.subset(_drawn(len(data), wanted, seed_for("validation", self.recipe.seed)))

    def _check_fit(self) -> None:
        """One clip through the network, so that what does not fit is said before anything is trained."""
        clip, _ = self.train_clips[0].restore(self.accelerator.device)
        with at_rest(self.network):
            logits = classify(self.network, clip)
        if logits.shape[1] < len(self.labels):
            raise InputError(
                f"The model has {logits.shape[1]} classes, but {self.recipe.data.train} has {len(self.labels)}."
            )

    @property
    def _batches_done(self) -> int:
        return self.position.epoch * len(self.plan) + self.position.batch

    def _save(self) -> None:
        self._check_weights()
        if self.accelerator.is_main_process:
            states: dict[str, Any] = {
                "network": self.network.state_dict(),
                "companions": self.companions.state_dict(),
                "optimizers": self.updates.state_dict(),
                "memory": self.memory,
            }
            if self.accelerator.scaler is not None:
                states["scaler"] = self.accelerator.scaler.state_dict()
            self.folder.save_metrics(self.position.history)
            self.folder.save(self.position, states)

    def _restore(self) -> None:
        found = self.folder.load()
        if found is None:
            return
        self.position, states = found
        self.network.load_state_dict(states["network"])
        self.companions.load_state_dict(states["companions"])
        self.updates.load_state_dict(states["optimizers"])
        self.memory = states["memory"]
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(states["scaler"])

    def _check_weights(self) -> None:
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise self._diverged(f"the weights {name} are not finite")

    def _diverged(self, what: str) -> RobustVideoError:
        kept = (
            f"the last good checkpoint is {self.folder.last}" if self.folder.last.exists() else "nothing is saved yet"
        )
        return RobustVideoError(
            f"Training stopped in epoch {self.position.epoch + 1}, batch {self.position.batch + 1}: {what}; {kept}; "
            "lower lr, or use precision: fp32."
        )


def _accelerator(recipe: Recipe, folder: Folder) -> Accelerator:
    AcceleratorState._reset_state()  # another run of this process may have had another precision
    try:
        precision = _ACCELERATE[recipe.precision]
        return Accelerator(mixed_precision=precision, log_with="tensorboard", project_dir=folder.path)
    except ValueError as error:
        raise InputError(f"precision: {recipe.precision} cannot be had on this device: {error}") from error


def _drawn(available: int, wanted: int, seed: int) -> list[int]:
    """``wanted`` of the numbers below ``available``, drawn by ``seed``, in rising order."""
    random = torch.Generator().manual_seed(seed)
    drawn: list[int] = torch.randperm(available, generator=random)[:wanted].tolist()
    return sorted(drawn)
