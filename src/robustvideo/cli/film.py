"""What `attack` and `purify`, which make one video out of another, ask of both files."""

from __future__ import annotations

import sys
from pathlib import Path

from robustvideo.errors import InputError
from robustvideo.storage import check_writable


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
