"""Data sets that are told by ear as well as by eye: Kinetics-Sounds and MIT-MUSIC.

Read them with their sound: ``kinetics_sounds:<root>?fps=0.8&frames=8&stride=1&pad=loop&size=224&audio_rate=16000`` is 8
frames of 10 seconds and the sound of the same 10. Neither has an official split; where there is none, videos are drawn
into train, val and test by their names, the same way everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robustvideo.data.catalog import collections
from robustvideo.data.folder import videos
from robustvideo.data.listing import Collection, Listed, Listing
from robustvideo.data.official import Kinetics
from robustvideo.errors import InputError
from robustvideo.randomness import seed_for

Split = Literal["train", "val", "test"]

KINETICS_SOUNDS = (
    *("blowing nose", "bowling", "chopping wood", "laughing", "playing accordion", "playing bagpipes"),
    *("playing bass guitar", "playing clarinet", "playing drums", "playing guitar", "playing harmonica"),
    *("playing keyboard", "playing organ", "playing piano", "playing saxophone", "playing trombone"),
    *("playing trumpet", "playing violin", "playing xylophone", "ripping paper", "shoveling snow"),
    *("shuffling cards", "singing", "tap dancing", "tapping guitar", "tapping pen", "tickling"),
)
"""The 27 of its 34 classes that later Kinetics editions have under the same name; AV has 27."""

RENAMED = ("blowing out candles", "dribbling basketball", "mowing lawn", "stomping grapes")
"""Four more that later editions have under another name; with them there are the 31 of other papers."""

INSTRUMENTS = (
    *("accordion", "acoustic_guitar", "cello", "clarinet", "erhu", "flute", "saxophone", "trumpet", "tuba"),
    *("violin", "xylophone"),
)
"""The 11 classes of MIT-MUSIC."""


@collections.register("kinetics_sounds")
@dataclass(frozen=True)
class KineticsSounds(Collection):
    """Kinetics-Sounds (Arandjelovic and Zisserman 2017): the classes of Kinetics that can be told by ear.

    A folder with Kinetics' annotation files (``train.csv``, ``val.csv``, ...) is read by them, as ``kinetics:`` does. A
    folder with one sub-folder of videos per class is divided 7 : 2 : 1 into train, val and test, as AV does; parts of
    one video (``<youtube id>_<start>_<end>``) stay together. A class may be spelt with underscores.

    Attributes:
        split: "train", "val" or "test".
        classes: 27 (AV's number) or 31, with four classes that later Kinetics editions renamed. Default 27.
    """

    split: Split = "test"
    classes: int = 27

    def __post_init__(self) -> None:
        if self.classes not in (27, 31):
            raise InputError(f"Kinetics-Sounds has 27 classes here, or 31 with renamed ones; got {self.classes}.")

    def listing(self, name: str) -> Listing:
        """The clips of the split.

        Raises:
            InputError: no such folder, or none of the classes in it.
        """
        root = Path(name)
        wanted = tuple(sorted(KINETICS_SOUNDS + (RENAMED if self.classes == 31 else ())))
        if any(root.glob("*.csv")) or any(root.glob("annotations/*.csv")):
            listed = Kinetics(self.split).listing(name)
            entries = tuple(e for e in listed.entries if e.label in wanted)
            return Listing(entries, tuple(label for label in wanted if label in listed.labels))
        found = _by_class(root, {label.replace(" ", "_"): label for label in wanted})
        return _divided(found, wanted, self.split, (7, 2, 1))


@collections.register("music")
@dataclass(frozen=True)
class Music(Collection):
    """MIT-MUSIC (Zhao et al. 2018): solos on 11 instruments, divided 7 : 1 : 2 as AV does.

    The list ``MUSIC_solo_videos.json`` is looked for in the folder itself and in ``MUSIC_dataset/``; a video of it may
    lie anywhere below the folder, named after its YouTube id. Without a list, the sub-folders named after instruments
    are taken, wherever they are (``solo/violin/...``). Duets have two classes and are left out.

    Attributes:
        split: "train", "val" or "test".
    """

    split: Split = "test"

    def listing(self, name: str) -> Listing:
        """The videos of the split.

        Raises:
            InputError: no such folder, an unreadable list, or no instrument in it.
        """
        root = Path(name)
        tables = [root / folder / "MUSIC_solo_videos.json" for folder in (".", "MUSIC_dataset")]
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            found = _by_class(root, {label: label for label in INSTRUMENTS}, but="duet")
        else:
            files = {path.stem: path for path in videos(root)}
            found = [
                Listed(id_, label, files.get(id_, root / f"{id_}.mp4"), table.name)
                for label, ids in _solos(table).items()
                for id_ in ids
            ]
        return _divided(found, INSTRUMENTS, self.split, (7, 1, 2))


def _solos(table: Path) -> Mapping[str, Sequence[str]]:
    try:
        content: Any = json.loads(table.read_text(encoding="utf-8"))
        listed = {str(label).replace(" ", "_"): list(map(str, ids)) for label, ids in content["videos"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{table} is no list of MIT-MUSIC: it has no videos by instrument.") from error
    return {label: ids for label, ids in listed.items() if label in INSTRUMENTS}


def _by_class(root: Path, folders: Mapping[str, str], but: str = "") -> list[Listed]:
    """Videos in folders named after classes, however deep; ids are paths below the root, without suffix.

    Args:
        root: where to look.
        folders: folder, with underscores for spaces -> class.
        but: leave out what lies in folders that hold this in their name.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder.")
    found = []
    for path in videos(root):
        within = [part.replace(" ", "_") for part in path.relative_to(root).parts[:-1]]
        label = next((folders[part] for part in reversed(within) if part in folders), None)
        if label is not None and not (but and any(but in part for part in within)):
            found.append(Listed(path.relative_to(root).with_suffix("").as_posix(), label, path, str(path)))
    return found


def _divided(found: Sequence[Listed], labels: Sequence[str], split: Split, shares: tuple[int, int, int]) -> Listing:
    """The part of a split, class by class: videos in an order drawn from their names, cut in proportion.

    Raises:
        InputError: nothing was found.
    """
    if not found:
        raise InputError("There is no video in a folder named after one of the classes: unpack the set there.")
    chosen = []
    for label in labels:
        entries = [entry for entry in found if entry.label == label]
        names = sorted({_video(entry) for entry in entries}, key=lambda name: seed_for("split", name))
        edges = [round(len(names) * sum(shares[:i]) / sum(shares)) for i in range(len(shares) + 1)]
        part = ("train", "val", "test").index(split)
        own = set(names[edges[part] : edges[part + 1]])
        chosen += [entry for entry in entries if _video(entry) in own]
    return Listing(tuple(chosen), tuple(labels))


def _video(entry: Listed) -> str:
    """The video that a clip is a part of: its name without the two times of six digits that Kinetics appends."""
    stem = entry.id.rpartition("/")[2]
    name, *times = stem.rsplit("_", 2)
    return name if len(times) == 2 and all(len(t) == 6 and t.isdigit() for t in times) else stem
