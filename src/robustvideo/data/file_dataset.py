"""`FileDataset`: clips from video files, whoever listed them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustvideo.clip import Clip
from robustvideo.data.cache import cached
from robustvideo.data.dataset import Sample, UnusableClip, VideoDataset
from robustvideo.data.decode import Stretch
from robustvideo.data.listing import Listing, class_index
from robustvideo.data.reading import Reading, Recorded, read_clip


@dataclass(frozen=True)
class FileSample(Sample):
    """A clip in a file.

    Attributes:
        stretch: the part of the file to take it from.
        view: which of several windows.
    """

    stretch: Stretch = Stretch()  # noqa: RUF009  # frozen
    view: int = 0


class FileDataset(VideoDataset):
    """Clips from video files.

    Args:
        spec: the spec it was loaded from.
        listing: files and class names.
        reading: how a clip is made from a file.
        cache: folder in which decoded clips are kept; None keeps none.

    Raises:
        InputError: a clip's class is not among the class names.
    """

    def __init__(self, spec: str, listing: Listing, reading: Reading, cache: Path | None = None):
        self._spec = spec
        self._labels = listing.labels
        self._reading = reading
        self._cache = cache
        views = reading.sampling.views
        self._samples = tuple(
            FileSample(
                id=entry.id if views == 1 else f"{entry.id}#v{view}",
                label=class_index(entry, listing.labels),
                path=entry.path,
                stretch=Stretch(entry.start, entry.end),
                view=view,
            )
            for entry in listing.entries
            for view in range(views)
        )

    @property
    def spec(self) -> str:
        return self._spec

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @property
    def samples(self) -> Sequence[FileSample]:
        return self._samples

    @property
    def recipe(self) -> str:
        stretches = hashlib.blake2b(repr([s.stretch for s in self._samples]).encode(), digest_size=8)
        return f"{self._reading} {stretches.hexdigest()}"

    def clip(self, index: int) -> Clip:
        sample = self._samples[index]
        path = sample.path
        assert path is not None

        def decode() -> Recorded:
            return read_clip(path, self._reading, sample.stretch, sample.view)

        if self._cache is None:
            return decode().clip(sample.id)
        if not path.is_file():
            raise UnusableClip(f"{path} does not exist.")
        return cached(self._cache, path, f"{self._reading} {sample.stretch} {sample.view}", decode).clip(sample.id)
