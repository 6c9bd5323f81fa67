"""`Collection`: a way of finding labelled video files; and the numbering of their classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustvideo.errors import InputError, unknown


@dataclass(frozen=True)
class Listed:
    """One clip as it is listed.

    Attributes:
        id: unique name.
        label: class name, or class index as text.
        path: its file, which need not exist.
        where: where it was listed, for messages.
        start, end: the part of the file that it is, in seconds; None is the file's end.
        named: whether somebody chose the id, rather than that it follows from the path.
    """

    id: str
    label: str
    path: Path
    where: str
    start: float = 0.0
    end: float | None = None
    named: bool = False


@dataclass(frozen=True)
class Listing:
    """The clips of one split, and the classes of all splits.

    Attributes:
        entries: the clips, in the order of their list.
        labels: class names by index; the same for every split.
    """

    entries: tuple[Listed, ...]
    labels: tuple[str, ...]


class Collection(ABC):
    """A way of finding labelled video files. Subclasses are dataclasses whose fields are the spec's options."""

    @abstractmethod
    def listing(self, name: str) -> Listing:
        """What is found under the name that follows the scheme in a spec.

        Raises:
            InputError: a list is missing, unreadable or wrong.
        """


@dataclass(frozen=True)
class Classes:
    """Which classes there are, and how they are numbered.

    Attributes:
        labels: class names in the order of their index. Default: all that the collection has, sorted.
        exclude: classes to leave out, before the others are numbered.
    """

    labels: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def apply(self, listing: Listing, labels: Sequence[str] | None = None) -> Listing:
        """The listing without the excluded classes, and with ids that differ.

        Of files that differ in their suffix alone the ids get the suffix (``run.avi``), and of several parts of one
        file the times in seconds (``run#0-2.5``); an id that was chosen stays.

        Args:
            listing: what was found.
            labels: class names by index; they replace this object's own and the collection's.

        Raises:
            InputError: an excluded class that does not exist, or two clips of one id, or none at all.
        """
        for name in self.exclude:
            if name not in listing.labels:
                raise unknown("class to exclude:", name, listing.labels)
        entries = _told_apart([e for e in listing.entries if e.label not in self.exclude])
        if not entries:
            raise InputError("The data spec selects no clip: check split= and exclude=.")
        id_, count = Counter(e.id for e in entries).most_common(1)[0]
        if count > 1:
            twice = [e.where for e in entries if e.id == id_]
            raise InputError(
                f"The clip id {id_!r} is given twice ({twice[0]} and {twice[1]}): ids must be unique, and a manifest's "
                "column id gives every row its own."
            )
        found = tuple(name for name in listing.labels if name not in self.exclude)
        return Listing(entries, tuple(labels or self.labels or found))


@dataclass(frozen=True)
class Amount:
    """How much of a list is taken.

    Attributes:
        clips: at most so many of its videos, evenly spread over it, so that of a list that goes by classes every class
            has its share. Default: all.

    Raises:
        InputError: less than one.
    """

    clips: int | None = None

    def __post_init__(self) -> None:
        if self.clips is not None and self.clips < 1:
            raise InputError(f"clips= is at least 1, got {self.clips}.")

    def apply(self, listing: Listing) -> Listing:
        """The listing with the middle clip of each equal stretch of it."""
        total = len(listing.entries)
        if self.clips is None or self.clips >= total:
            return listing
        chosen = ((2 * i + 1) * total // (2 * self.clips) for i in range(self.clips))
        return replace(listing, entries=tuple(listing.entries[i] for i in chosen))


def _told_apart(entries: Sequence[Listed]) -> tuple[Listed, ...]:
    """Entries with their suffix in the id, then with their times, where ids that follow from the path are shared."""
    files: dict[str, set[Path]] = {}
    for entry in entries:
        files.setdefault(entry.id, set()).add(entry.path)
    entries = [replace(e, id=f"{e.id}{e.path.suffix}") if len(files[e.id]) > 1 and not e.named else e for e in entries]
    count = Counter(entry.id for entry in entries)
    return tuple(replace(e, id=f"{e.id}{_times(e)}") if count[e.id] > 1 and not e.named else e for e in entries)


def _times(entry: Listed) -> str:
    if not entry.start and entry.end is None:
        return ""
    return f"#{entry.start:g}-{'' if entry.end is None else f'{entry.end:g}'}"


def class_index(entry: Listed, labels: Sequence[str]) -> int:
    """The index of a clip's class.

    Raises:
        InputError: the class is none of ``labels``.
    """
    if entry.label in labels:
        return labels.index(entry.label)
    if is_index(entry.label) and int(entry.label) < len(labels):
        return int(entry.label)
    raise unknown(f"label ({entry.where})", entry.label, labels)


def is_index(label: str) -> bool:
    """Is it a whole number?"""
    return label.isascii() and label.isdigit()


_MOST_CLASSES = 100_000


def label_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names by index for the labels of a collection: sorted; whole numbers are indices themselves.

    Raises:
        InputError: an index that cannot be one.
    """
    distinct = sorted(set(labels))
    if not distinct or not all(is_index(label) for label in distinct):
        return tuple(distinct)
    largest = max(int(label) for label in distinct)
    if largest >= _MOST_CLASSES:
        raise InputError(f"The label {largest} is no class index: there are at most {_MOST_CLASSES} classes.")
    return tuple(str(index) for index in range(largest + 1))
