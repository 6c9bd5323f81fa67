"""`VideoDataset`: labelled clips by index, each with a stable id."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from robustvideo.clip import Clip, concatenate
from robustvideo.errors import InputError
from robustvideo.model import named_once


class UnusableClip(InputError):
    """A file of a data set that gives no clip: missing, damaged, without video, or too short."""


@dataclass(frozen=True)
class Sample:
    """One labelled clip.

    Attributes:
        id: unique in its data set and the same on every machine: seeds and records derive from it.
        label: class index.
        path: its file; None when there is none.
    """

    id: str
    label: int
    path: Path | None = None


class VideoDataset(Dataset[tuple[Clip, int]], ABC):
    """Labelled clips of one shape.

    It is also a map-style data set of PyTorch whose items are (clip, label): give it to a ``DataLoader`` with
    `collate` as ``collate_fn``. Every data set can be pickled.
    """

    @property
    @abstractmethod
    def spec(self) -> str:
        """The spec it was loaded from."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Class names by index."""

    @property
    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """Ids, labels and files, by index."""

    @abstractmethod
    def clip(self, index: int) -> Clip:
        """One clip, as a batch of one whose id is the sample's.

        The video is float32 on the 8-bit grid, the sound (if any) float32 on the 16-bit grid.

        Raises:
            UnusableClip: the file is missing, damaged, without video, or too short.
        """

    @property
    def recipe(self) -> str:
        """Everything besides the samples that shapes a clip, for the fingerprint."""
        return self.spec

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        return self.clip(index), self.samples[index].label

    def subset(self, indices: Sequence[int]) -> VideoDataset:
        """The samples at ``indices``, in that order.

        Raises:
            InputError: an index out of range.
        """
        return Subset(self, indices)

    def relabelled(self, labels: Sequence[str]) -> VideoDataset:
        """The same clips, numbered by another list of class names (a model's).

        Raises:
            InputError: a class that has clips is not in the list, or a name is in it twice.
        """
        numbers = {name: i for i, name in enumerate(named_once(labels))}
        used = {self.labels[s.label] for s in self.samples}
        missing = sorted(used - numbers.keys())
        if missing:
            raise InputError(
                f"Class {missing[0]!r} of {self.spec} is none of the model's {len(labels)} classes "
                f"({', '.join(list(labels)[:5])}{', ...' if len(labels) > 5 else ''})."
            )
        return Subset(self, range(len(self)), tuple(labels))

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the ids, the labels or the way clips are made.

        No file is opened: a file whose content changed under the same name is not noticed.
        """
        digest = hashlib.blake2b(digest_size=8)
        for text in (self.recipe, "\x1f".join(self.labels), *(f"{s.id}\x1f{s.label}" for s in self.samples)):
            digest.update(f"{text}\x1e".encode())
        return digest.hexdigest()


class Subset(VideoDataset):
    """Some samples of another data set, possibly under other class numbers.

    Args:
        parent: where the clips come from.
        indices: which ones, in which order.
        labels: class names by index, holding every class in use; default: the parent's.

    Raises:
        InputError: an index out of range.
    """

    def __init__(self, parent: VideoDataset, indices: Sequence[int], labels: tuple[str, ...] | None = None):
        beyond = [i for i in indices if not 0 <= i < len(parent)]
        if beyond:
            raise InputError(f"There is no clip {beyond[0]} in {parent.spec}: it has {len(parent)}.")
        self._parent = parent
        self._indices = tuple(indices)
        self._labels = labels or parent.labels
        chosen = [parent.samples[i] for i in self._indices]
        if labels is not None:
            numbers = {name: i for i, name in enumerate(labels)}
            chosen = [replace(s, label=numbers[parent.labels[s.label]]) for s in chosen]
        self._samples = tuple(chosen)

    @property
    def spec(self) -> str:
        return self._parent.spec

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @property
    def samples(self) -> Sequence[Sample]:
        return self._samples

    @property
    def recipe(self) -> str:
        return self._parent.recipe

    def clip(self, index: int) -> Clip:
        return self._parent.clip(self._indices[index])


def collate(items: Sequence[tuple[Clip, int]]) -> tuple[Clip, Tensor]:
    """One batch and its labels (int64) out of items of a `VideoDataset`.

    Raises:
        InputError: clips of different shapes.
    """
    return concatenate([clip for clip, _ in items]), torch.tensor([label for _, label in items])


def usable_batches(
    data: VideoDataset, size: int, device: str | torch.device, unusable: dict[str, str]
) -> Iterator[tuple[Clip, Tensor]]:
    """Batches of the clips of a data set that can be read, with their labels (int64).

    Args:
        data: the clips, taken in order.
        size: clips of the data set per batch; unusable ones make it smaller.
        device: where the batches go.
        unusable: takes up the ids of the others, each with the reason.

    Raises:
        InputError: clips of different shapes; or, at the end, that not one could be read.
    """
    found = False
    for start in range(0, len(data), size):
        items = []
        for index in range(start, min(start + size, len(data))):
            try:
                items.append(data[index])
            except UnusableClip as error:
                unusable[data.samples[index].id] = str(error)
        if items:
            found = True
            clip, labels = collate(items)
            yield clip.to(device), labels.to(device)
    if not found:
        raise InputError(f"No clip of {data.spec} can be read: {next(iter(unusable.values()), 'it has none')}")
