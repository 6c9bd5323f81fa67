"""`folder:<dir>`: one sub-folder of video files per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustvideo.data.catalog import collections
from robustvideo.data.container import SUFFIXES
from robustvideo.data.listing import Collection, Listed, Listing
from robustvideo.errors import InputError


@collections.register("folder")
@dataclass(frozen=True)
class Folder(Collection):
    """A folder with one sub-folder of video files per class, however deep inside it."""

    def listing(self, name: str) -> Listing:
        """All video files; an id is the path below the folder, without suffix.

        Raises:
            InputError: no such folder, or no video file in its sub-folders.
        """
        root = Path(name)
        if not root.is_dir():
            raise InputError(f"{root} is not a folder.")
        found = [(c.name, p) for c in sorted(root.iterdir()) if c.is_dir() for p in videos(c)]
        if not found:
            raise InputError(f"{root} has no video files in sub-folders: put those of each class into one of its name.")
        entries = (Listed(p.relative_to(root).with_suffix("").as_posix(), label, p, str(p)) for label, p in found)
        return Listing(tuple(entries), tuple(sorted({label for label, _ in found})))


def videos(folder: Path) -> list[Path]:
    """Video files by their suffix in a folder and below it, sorted; hidden ones are left out."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
