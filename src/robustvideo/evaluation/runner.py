"""The runner: work items, each a pure function of the run's configuration, executed once and never lost.

A work item is one fixed batch under one attack (or under none: the clean item). What an item yields depends on the
configuration alone, so a run that is killed and continued ends with the records of an undisturbed one.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from robustvideo.attacks.attack import Attack, AttackResult, Verdict, judge
from robustvideo.clip import Clip, concatenate
from robustvideo.data.dataset import UnusableClip, VideoDataset
from robustvideo.data.video_file import write_lossless
from robustvideo.evaluation.records import CLEAN, Record, write_shard
from robustvideo.evaluation.rows import attacked, under, undisturbed, unusable
from robustvideo.model import Model, at_rest, device_of, is_out_of_memory, uniform_indices
from robustvideo.progress import Advance
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.storage import slug


@dataclass(frozen=True)
class Item:
    """One fixed batch under one attack; attack None is the clean item."""

    batch: int
    number: int
    attack: Attack | None

    @property
    def name(self) -> str:
        return f"{self.batch:07d}-{self.number:03d}"


@dataclass(frozen=True, eq=False)
class _Batch:
    """A decoded batch with its clean verdict (None when no clip can be read).

    ``indices`` are the usable clips' places in the data; ``unusable`` says of the others why.
    """

    indices: list[int]
    labels: Tensor
    clean: Verdict | None
    unusable: dict[int, str]


class Runner:
    """Executes the items of one evaluation.

    Args:
        model: the model under attack; it stays on its device.
        data: clips and labels.
        attacks: what to attack with.
        out: the run directory.
        batch_size: clips per batch.
        save_clips: number of clips, spread evenly over the data, whose videos are kept.
        strict: an unusable clip ends the run instead of being recorded.
    """

    def __init__(
        self,
        model: Model,
        data: VideoDataset,
        attacks: Sequence[Attack],
        out: Path,
        *,
        batch_size: int,
        save_clips: int,
        strict: bool,
    ):
        self.model = model
        self.data = data
        self.attacks = list(attacks)
        self.out = out
        self.batch_size = batch_size
        self.strict = strict
        self.device = device_of(model)
        chosen = min(save_clips, len(data))
        self.saved = set(uniform_indices(len(data), chosen).tolist()) if chosen else set()
        self._current: tuple[int, _Batch] | None = None

    def items(self) -> Iterator[Item]:
        """Every work item, batch by batch, the clean one first."""
        for batch in range(-(-len(self.data) // self.batch_size)):
            yield Item(batch, 0, None)
            for number, attack in enumerate(self.attacks, start=1):
                yield Item(batch, number, attack)

    def members(self, batch: int) -> list[int]:
        """Indices into the data of one batch."""
        return list(range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.data))))

    def shard(self, item: Item) -> Path:
        """Where an item's records are written when it is done."""
        return self.out / "records" / f"{item.name}.parquet"

    def run(self, advance: Advance) -> None:
        """Execute every item that is not on disk yet."""
        for item in self.items():
            if not self.shard(item).exists():
                write_shard(self.shard(item), self.work(item))
                advance(len(self.members(item.batch)), item.attack.spec if item.attack else CLEAN)

    def work(self, item: Item) -> list[Record]:
        """The records of one item. Saves the videos of the clips that are to be kept."""
        batch = self._batch(item.batch)
        if item.attack is None:
            return self._clean_records(item, batch)
        return [] if batch.clean is None else self._attack_records(item, item.attack, batch, batch.clean)

    def _batch(self, number: int) -> _Batch:
        if self._current is None or self._current[0] != number:
            self._current = None  # let go of the old batch before the new one is decoded
            self._current = (number, self._load(number))
        return self._current[1]

    def _load(self, number: int) -> _Batch:
        clips, reasons = {}, {}
        for index in self.members(number):
            try:
                clips[index] = self.data.clip(index)
            except UnusableClip as error:
                if self.strict:
                    raise
                reasons[index] = str(error)
        labels = torch.tensor([self.data.samples[i].label for i in clips], device=self.device, dtype=torch.long)
        if not clips:
            return _Batch([], labels, None, reasons)
        clip = concatenate(list(clips.values())).to(self.device)
        with at_rest(self.model):
            clean = judge(self.model, clip, labels)
        return _Batch(list(clips), labels, clean, reasons)

    def _clean_records(self, item: Item, batch: _Batch) -> list[Record]:
        records = []
        for index in self.members(item.batch):
            sample = self.data.samples[index]
            if index in batch.unusable:
                records.append(unusable(sample.id, sample.label, batch.unusable[index], item.name))
        if batch.clean is not None:
            for row, index in enumerate(batch.indices):
                if index in self.saved:
                    self._save(batch.clean.clip.select([row]), "clean")
                records.append(undisturbed(batch.clean, row, int(batch.labels[row]), item.name))
        return records

    def _attack_records(self, item: Item, attack: Attack, batch: _Batch, clean: Verdict) -> list[Record]:
        clip, labels = clean.clip, batch.labels
        rows = [under(attack, undisturbed(clean, row, int(labels[row]), item.name)) for row in range(len(clip))]
        correct = (~clean.success).nonzero()[:, 0]
        if len(correct) == 0:
            return rows
        goals = labels
        if attack.targeted:
            goals = _random_targets(labels, clean.logits.shape[1], attack.seed, clip.ids)
        start = time.perf_counter()
        result = _in_pieces(attack, self.model, clip.select(correct), goals[correct])
        seconds = (time.perf_counter() - start) / len(correct)
        files = {}
        for i, row in enumerate(correct.tolist()):
            if batch.indices[row] in self.saved:
                files[i] = self._save(result.clip.select([i]), slug(attack.spec))
        found = attacked([rows[row] for row in correct.tolist()], clip.select(correct), result, seconds)
        for i, row in enumerate(correct.tolist()):
            target = int(goals[row]) if attack.targeted else -1
            rows[row] = replace(found[i], target=target, clip_file=files.get(i, ""))
        return rows

    def _save(self, clip: Clip, name: str) -> str:
        path = self.out / "clips" / slug(clip.ids[0]) / f"{name}.mkv"
        write_lossless(path, clip, fps=self.data.fps)
        return str(path.relative_to(self.out).as_posix())


def _in_pieces(attack: Attack, model: Model, clip: Clip, labels: Tensor) -> AttackResult:
    """Attack a batch; where memory runs out, in halves."""
    try:
        return attack(model, clip, labels)
    except (RuntimeError, MemoryError) as error:
        if len(clip) == 1 or not is_out_of_memory(error):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(clip) // 2
    parts = [torch.arange(half, device=labels.device), torch.arange(half, len(clip), device=labels.device)]
    return _join([_in_pieces(attack, model, clip.select(part), labels[part]) for part in parts])


def _join(results: Sequence[AttackResult]) -> AttackResult:
    return AttackResult(
        clip=concatenate([r.clip for r in results]),
        success=torch.cat([r.success for r in results]),
        first_success_step=torch.cat([r.first_success_step for r in results]),
        loss_trace=torch.cat([r.loss_trace for r in results]),
        forward_passes=torch.cat([r.forward_passes for r in results]),
        backward_passes=torch.cat([r.backward_passes for r in results]),
        logits=torch.cat([r.logits for r in results]),
        margin=torch.cat([r.margin for r in results]),
    )


def _random_targets(labels: Tensor, classes: int, seed: int, ids: Sequence[str]) -> Tensor:
    """For every clip a class other than its own, drawn from the clip's own stream."""
    shift = ClipRandom(seed_for(seed, "target", name) for name in ids).integers(1, classes)[:, 0]
    return (labels + shift.to(labels.device)) % classes
