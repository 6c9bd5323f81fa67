"""What `attack` and `purify`, which make one video out of another, have to do with both files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from robustvideo.errors import InputError
from robustvideo.storage import check_writable

if TYPE_CHECKING:
    from robustvideo.clip import Clip


_CHANNELS = 2
"""Channels of sound that a clip keeps of a film."""


def check_out(out: Path, video: Path) -> None:
    """Refuse an ``--out`` that is no place for the result, before any work.

    Raises:
        InputError: another suffix than ``.mkv``, the video itself, or something that is no file.
        RobustVideoError: nothing can be written there.
    """
    if out.suffix.lower() != ".mkv":
        raise InputError(f"--out {out} must end in .mkv: only Matroska holds the lossless FFV1 that is written.")
    if out.exists() and video.exists() and out.samefile(video):
        raise InputError(f"--out {out} is the video itself, which would be lost: name another file.")
    check_writable(out)


def read_film(video: Path, size: int | None) -> tuple[Clip, float]:
    """All frames of a video with its sound, if it has any, as a batch of one; and its frames per second.

    Args:
        video: the file. Uneven times of its frames, and sound of more than two channels, are told on stderr.
        size: side of the square frames; None keeps the video's own shape.

    Raises:
        UnusableClip: the file is missing or damaged, or has no video.
    """
    from robustvideo.data.decode import probe
    from robustvideo.data.picture import Picture
    from robustvideo.data.reading import Reading, read_clip
    from robustvideo.data.sampling import Sampling
    from robustvideo.data.sound import Sound

    facts = probe(video)
    tell_of_uneven_times(video, facts.fps)
    sound = Sound()
    if facts.audio_rate is not None:
        sound = Sound(True, facts.audio_rate, min(_CHANNELS, facts.audio_channels), facts.duration)
        if facts.audio_channels > _CHANNELS:
            print(
                f"The sound of {video} has {facts.audio_channels} channels; the result has them mixed down to stereo.",
                file=sys.stderr,
            )
    reading = Reading(Sampling(frames=facts.frames, stride=1), Picture(size=size), sound)
    return read_clip(video, reading).clip(video.name), facts.fps


def tell_of_uneven_times(video: Path, fps: float) -> None:
    """Say so where the frames of a video do not come at a constant rate, as those of the result do."""
    from robustvideo.data.container import has_even_times

    if not has_even_times(video):
        print(
            f"The frames of {video} come at uneven times; the result shows them at a constant {fps:.4g} per second.",
            file=sys.stderr,
        )


def counted(frames: int) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{frames} frame{'' if frames == 1 else 's'}"
