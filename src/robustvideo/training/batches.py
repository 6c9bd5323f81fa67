"""Training batches: clips kept as integers, in an order that is a function of seed and epoch alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from robustvideo.clip import Clip
from robustvideo.data.dataset import UnusableClip, VideoDataset
from robustvideo.errors import InputError, RobustVideoWarning
from robustvideo.randomness import seed_for
from robustvideo.threat import GRID

_KEEP_BYTES = 4 * 2**30


@dataclass(frozen=True, eq=False)
class Stored:
    """A batch on the grid of what a file holds: a quarter of the memory and of the transfer of floats.

    Attributes:
        video: uint8 (B, C, T, H, W).
        audio: int16 (B, channels, samples), or None.
        sample_rate: of ``audio``.
        ids: the clips' names.
        labels: (B,) classes.
    """

    video: Tensor
    audio: Tensor | None
    sample_rate: int | None
    ids: tuple[str, ...]
    labels: Tensor

    @staticmethod
    def of(clip: Clip, label: int) -> Stored:
        """A clip of one on the grid."""
        video = (clip.video * GRID["video"]).round().to(torch.uint8)
        audio = None
        if clip.audio is not None:
            audio = (clip.audio * GRID["audio"]).round().clamp(max=GRID["audio"] - 1).to(torch.int16)
        return Stored(video, audio, clip.sample_rate, clip.ids, torch.tensor([label]))

    def restore(self, device: torch.device) -> tuple[Clip, Tensor]:
        """The clips as floats, and their labels, on a device."""
        audio = self.audio
        if audio is not None:
            audio = audio.to(device, non_blocking=True).float() / GRID["audio"]
        video = self.video.to(device, non_blocking=True).float() / GRID["video"]
        return Clip(video, audio, self.sample_rate, self.ids), self.labels.to(device)

    def pin_memory(self) -> Stored:
        """The batch in page-locked memory; a DataLoader calls it by this name."""
        audio = None if self.audio is None else self.audio.pin_memory()
        return Stored(self.video.pin_memory(), audio, self.sample_rate, self.ids, self.labels)


def join(items: Sequence[Stored]) -> Stored:
    """One batch out of several.

    Raises:
        InputError: clips of different shapes or sounds.
    """
    first = items[0]
    for item in items:
        same = item.video.shape[1:] == first.video.shape[1:] and item.sample_rate == first.sample_rate
        if not same or (item.audio is not None and first.audio is not None and item.audio.shape != first.audio.shape):
            raise InputError(
                f"Clips {first.ids[0]} and {item.ids[0]} differ in shape or sound, so they cannot share a batch: "
                "set frames= and size= in the data spec."
            )
    audios = [item.audio for item in items if item.audio is not None]
    return Stored(
        video=torch.cat([item.video for item in items]),
        audio=torch.cat(audios) if audios else None,
        sample_rate=first.sample_rate,
        ids=tuple(name for item in items for name in item.ids),
        labels=torch.cat([item.labels for item in items]),
    )


class Clips(Dataset[Stored]):
    """The clips of a data set as integers, kept in memory after the first reading where all of them fit in 4 GiB.

    A file that cannot be read ends no training: the next clip of its class takes its place, or, where there is none,
    the next of any, with one warning that names both. Batches stay full, and the same after a restart. Accuracy is
    counted without stand-ins, see `asked`.

    Args:
        data: where they come from.
        shared: several processes will read, and share what they keep.

    Raises:
        UnusableClip: no clip can be read.
    """

    def __init__(self, data: VideoDataset, shared: bool):
        self.data = data
        self._kept: list[Tensor] = []
        self._filled = torch.zeros(0, dtype=torch.bool)
        self._stand_ins = torch.full([len(data)], -1)
        first = self[0]
        self._rate = first.sample_rate
        tensors = [first.video] if first.audio is None else [first.video, first.audio]
        if sum(t.numel() * t.element_size() for t in tensors) * len(data) <= _KEEP_BYTES:
            self._kept = [torch.empty(len(data), *t.shape[1:], dtype=t.dtype) for t in tensors]
            self._filled = torch.zeros(len(data), dtype=torch.bool)
        if shared:
            for tensor in (*self._kept, self._filled, self._stand_ins):
                tensor.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Stored:
        place = int(self._stand_ins[index])
        try:
            return self._read(index if place < 0 else place)
        except UnusableClip as failure:
            return self._stand_in(index, failure)

    def asked(self, indices: Sequence[int], clip: Clip) -> list[int]:
        """Rows of a batch of the clips at ``indices`` that are those clips, and no stand-ins."""
        return [row for row, index in enumerate(indices) if self.data.samples[index].id == clip.ids[row]]

    def _stand_in(self, index: int, failure: UnusableClip) -> Stored:
        samples = self.data.samples
        after = [(index + step) % len(samples) for step in range(1, len(samples))]
        for place in sorted(after, key=lambda place: samples[place].label != samples[index].label):
            try:
                item = self._read(place)
            except UnusableClip:
                continue
            self._stand_ins[index] = place
            sentence = f"{failure} It is left out; {item.ids[0]} takes its place in training."
            warnings.warn(sentence, RobustVideoWarning, stacklevel=3)
            return item
        raise failure

    def _read(self, index: int) -> Stored:
        sample = self.data.samples[index]
        if self._kept and self._filled[index]:
            video, *audio = (tensor[index : index + 1] for tensor in self._kept)
            return Stored(video, audio[0] if audio else None, self._rate, (sample.id,), torch.tensor([sample.label]))
        item = Stored.of(self.data.clip(index), sample.label)
        tensors = [item.video] if item.audio is None else [item.video, item.audio]
        if [t.shape[1:] for t in tensors] == [t.shape[1:] for t in self._kept]:
            for kept, tensor in zip(self._kept, tensors, strict=True):
                kept[index] = tensor[0]
            self._filled[index] = True
        return item


@dataclass(frozen=True)
class Plan:
    """Which clips make which batch.

    Attributes:
        clips: size of the data set.
        batch_size: clips per update, over all processes; those of an incomplete last batch are left out.
        parts: equal parts that a batch is split into: processes times accumulated parts.
        seed: of the order.

    Raises:
        InputError: a batch larger than the data set, or one that does not split.
    """

    clips: int
    batch_size: int
    parts: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size > self.clips:
            raise InputError(f"batch_size={self.batch_size} is more than the {self.clips} clips there are to train on.")
        if self.batch_size % self.parts:
            raise InputError(
                f"batch_size={self.batch_size} does not split into {self.parts} equal parts "
                "(processes times accumulation)."
            )

    def __len__(self) -> int:
        return self.clips // self.batch_size

    def parts_of(self, epoch: int, first: int, own: Sequence[int]) -> list[list[int]]:
        """Indices of this process's ``own`` parts of every batch of an epoch, from batch ``first`` on."""
        order = self._order(epoch)
        starts = range(first * self.batch_size, len(self) * self.batch_size, self.batch_size)
        return [order[start + part : start + self.batch_size : self.parts] for start in starts for part in own]

    def _order(self, epoch: int) -> list[int]:
        random = torch.Generator().manual_seed(seed_for("order", self.seed, epoch))
        order: list[int] = torch.randperm(self.clips, generator=random).tolist()
        return order


def read(clips: Clips, batches: Sequence[Sequence[int]], device: torch.device, workers: int) -> Iterator[Stored]:
    """The batches of given indices, read ahead by ``workers`` processes."""
    loader = DataLoader(
        clips,
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of lists of indices
        collate_fn=join,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader would draw from the global random state otherwise
    )
    yield from loader
