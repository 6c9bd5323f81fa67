"""The runner: work items, each a pure function of the run's configuration, executed once and never lost.

A work item is one fixed batch behind one defence (or none) under one attack (or none: the clean item). What an item
yields depends on the configuration alone, so a run that is killed and continued ends with the records of an
undisturbed one.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, product
from pathlib import Path

import torch
from torch import Tensor

from robustvideo.attacks.attack import Attack, AttackResult, Verdict, judge
from robustvideo.clip import Clip, concatenate
from robustvideo.data.codec import reencode
from robustvideo.data.dataset import UnusableClip, VideoDataset
from robustvideo.data.video_file import write_lossless
from robustvideo.evaluation.answers import doubts
from robustvideo.evaluation.crafting import Surrogate, clean_verdict, craft, random_targets, select, transferred
from robustvideo.evaluation.records import CLEAN, Record, shard, write_shard
from robustvideo.evaluation.rows import attacked, under, undisturbed, unusable
from robustvideo.model import Model, Purified, at_rest, device_of, uniform_indices
from robustvideo.storage import slug

_PIECES_EACH = 8  # with so many for every worker, the last one to end does so an eighth later than the others

NO_DEFENSE = "none"
"""The ``defense`` of the model as it is."""


@dataclass(frozen=True)
class Item:
    """One fixed batch behind one defence under one attack, possibly crafted on a surrogate; attack None is clean."""

    batch: int
    number: int
    defense: str
    attack: Attack | None = None
    surrogate: Surrogate | None = None

    @property
    def name(self) -> str:
        """Sorts in the order of execution."""
        return f"{self.batch:07d}-{self.number:03d}"

    @property
    def title(self) -> str:
        """What is done to the batch, in words."""
        words = CLEAN if self.attack is None else self.attack.spec
        if self.surrogate is not None:
            words = f"{words} from {self.surrogate.name}"
        return words if self.defense == NO_DEFENSE else f"{words} on {self.defense}"


@dataclass(frozen=True, eq=False)
class _Batch:
    """A decoded batch (no clip when none can be read), with the clean verdicts that were asked for, by defence.

    ``indices`` are the usable clips' places in the data; ``unusable`` says of the others why.
    """

    indices: list[int]
    labels: Tensor
    clip: Clip | None
    unusable: dict[int, str]
    clean: dict[str, Verdict] = field(default_factory=dict)


class Runner:
    """Executes the items of one evaluation.

    Args:
        models: the model under attack behind each defence, by the defence's spec; all on one device, where they stay.
        data: clips and labels.
        attacks: what to attack with.
        out: the run directory.
        batch_size: clips per batch.
        save_clips: number of clips, spread evenly over the data, whose videos are kept.
        strict: an unusable clip ends the run instead of being recorded.
        surrogates: models that clips are crafted on, instead of the model itself.
        codecs: re-encodings after which every clip, clean and adversarial, is classified once more.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        data: VideoDataset,
        attacks: Sequence[Attack],
        out: Path,
        *,
        batch_size: int,
        save_clips: int,
        strict: bool,
        surrogates: Sequence[Surrogate] = (),
        codecs: Sequence[str] = (),
    ):
        self.models = dict(models)
        self.data = data
        self.attacks = list(attacks)
        self.out = out
        self.batch_size = batch_size
        self.strict = strict
        self.surrogates = list(surrogates)
        self.codecs = list(codecs)
        self.device = device_of(next(iter(self.models.values())))
        chosen = min(save_clips, len(data))
        self.saved = set(uniform_indices(len(data), chosen).tolist()) if chosen else set()
        self._current: tuple[int, _Batch] | None = None

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-len(self.data) // self.batch_size)

    @property
    def items_per_batch(self) -> int:
        """Number of work items of every batch."""
        return len(self.models) * (1 + max(len(self.surrogates), 1) * len(self.attacks))

    def items(self, batch: int) -> Iterator[Item]:
        """The work items of a batch, defence by defence, the clean one first."""
        crafters: list[Surrogate | None] = [*self.surrogates] or [None]
        numbers = count()
        for defense in self.models:
            yield Item(batch, next(numbers), defense)
            for surrogate, attack in product(crafters, self.attacks):
                yield Item(batch, next(numbers), defense, attack, surrogate)

    def portions(self, done: Container[str], workers: int = 1) -> Iterator[list[Item]]:
        """Everything there is to do, in pieces for workers who each take the next one when they are free.

        A piece is what is left of a batch, so that the batch is decoded once; where that makes too few pieces for
        the workers to end at about the same time, it is a single item. Pieces are as many, whatever is done.

        Args:
            done: names of items that are on disk.
            workers: how many will share it.
        """
        whole = workers == 1 or self.batches >= _PIECES_EACH * workers
        for batch in range(self.batches):
            items = list(self.items(batch))
            for piece in [items] if whole else [[item] for item in items]:
                yield [item for item in piece if item.name not in done]

    def members(self, batch: int) -> list[int]:
        """Indices into the data of one batch."""
        return list(range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.data))))

    def to(self, device: str) -> None:
        """Move every model to another device."""
        for model in (*self.models.values(), *(surrogate.model for surrogate in self.surrogates)):
            model.to(device)
        self.device = device_of(next(iter(self.models.values())))
        self._current = None

    def doubts(self) -> list[str]:
        """What the first batch says against the model, without its defences; see `answers.doubts`."""
        batch = self._batch(0)
        if batch.clip is None:
            return []
        model = next(iter(self.models.values()))
        while isinstance(model, Purified):
            model = model.undefended
        clean = self._clean(NO_DEFENSE, batch) if NO_DEFENSE in self.models else None
        if clean is None:
            clean = clean_verdict(model, batch.clip, batch.labels)
        return doubts(model, batch.clip, batch.labels, clean)

    def do(self, item: Item) -> None:
        """Work on an item and write its records."""
        write_shard(shard(self.out, item.name), self.work(item))

    def work(self, item: Item) -> list[Record]:
        """The records of one item. Saves the videos of the clips that are to be kept."""
        batch = self._batch(item.batch)
        clean = self._clean(item.defense, batch)
        if item.attack is None:
            return self._clean_records(item, batch, clean)
        return [] if clean is None else self._attack_records(item, item.attack, batch, clean)

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
        return _Batch(list(clips), labels, concatenate(list(clips.values())).to(self.device), reasons)

    def _clean(self, defense: str, batch: _Batch) -> Verdict | None:
        """The verdict on a batch without an attack, found once."""
        if batch.clip is not None and defense not in batch.clean:
            batch.clean[defense] = clean_verdict(self.models[defense], batch.clip, batch.labels)
        return batch.clean.get(defense)

    def _clean_records(self, item: Item, batch: _Batch, clean: Verdict | None) -> list[Record]:
        records = []
        for index in self.members(item.batch):
            sample = self.data.samples[index]
            if index in batch.unusable:
                records.append(unusable(sample.id, sample.label, batch.unusable[index], item.name, item.defense))
        if clean is not None:
            survival = self._reencoded(item.defense, clean.clip, batch.labels, targeted=False)
            for row, index in enumerate(batch.indices):
                if index in self.saved:
                    self._save(clean.clip.select([row]), CLEAN)
                record = undisturbed(clean, row, int(batch.labels[row]), item.name, item.defense)
                records.append(replace(record, codecs=self.codecs, codec_success=survival[row]))
        return records

    def _attack_records(self, item: Item, attack: Attack, batch: _Batch, clean: Verdict) -> list[Record]:
        clip, labels = clean.clip, batch.labels
        rows = [
            replace(
                under(attack, undisturbed(clean, row, int(labels[row]), item.name, item.defense)),
                surrogate=item.surrogate.name if item.surrogate else "",
            )
            for row in range(len(clip))
        ]
        correct = (~clean.success).nonzero()[:, 0]
        if len(correct) == 0:
            return rows
        goals = labels
        if attack.targeted:
            goals = random_targets(labels, clean.logits.shape[1], attack.seed, clip.ids)
        start = time.perf_counter()
        result = self._find(item, attack, clip, goals, correct)
        seconds = (time.perf_counter() - start) / len(correct)
        places = correct.tolist()
        found = attacked([rows[row] for row in places], clip.select(correct), result, seconds)
        survival = self._reencoded(item.defense, result.clip, goals[correct], attack.targeted)
        for i, row in enumerate(places):
            saved = batch.indices[row] in self.saved
            rows[row] = replace(
                found[i],
                target=int(goals[row]) if attack.targeted else -1,
                clip_file=self._save(result.clip.select([i]), slug(item.title)) if saved else "",
                codecs=self.codecs,
                codec_success=survival[i],
            )
        return rows

    def _find(self, item: Item, attack: Attack, clip: Clip, goals: Tensor, correct: Tensor) -> AttackResult:
        model = self.models[item.defense]
        if item.surrogate is None:
            return craft(attack, model, clip.select(correct), goals[correct])
        crafted = select(item.surrogate.craft(attack, clip, goals), correct)
        return transferred(crafted, model, goals[correct], attack.targeted)

    def _reencoded(self, defense: str, clip: Clip, labels: Tensor, targeted: bool) -> list[list[bool]]:
        """Per clip, whether an attack succeeds after each of the codecs."""
        model, columns = self.models[defense], []
        for codec in self.codecs:
            with at_rest(model):
                columns.append(judge(model, reencode(clip, codec), labels, targeted).success.tolist())
        return [[column[i] for column in columns] for i in range(len(clip))]

    def _save(self, clip: Clip, name: str) -> str:
        path = self.out / "clips" / slug(clip.ids[0]) / f"{name}.mkv"
        write_lossless(path, clip, fps=_playback_rate(clip))
        return str(path.relative_to(self.out).as_posix())


def _playback_rate(clip: Clip) -> float:
    """Frames per second at which a saved clip plays: in step with its sound, or else twelve."""
    if clip.audio is None or clip.sample_rate is None or clip.audio.shape[2] == 0:
        return 12.0
    return clip.frames * clip.sample_rate / clip.audio.shape[2]
