"""Previews of saved clips: clean, adversarial and their amplified difference, side by side in one video.

One video for all three panels keeps them on the same frame whatever the browser does; the page cuts it apart. It
is slower than what was recorded, so sound is beside it, not in it (`report.sound`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from robustvideo.errors import InputError, RobustVideoError
from robustvideo.evaluation.records import Record
from robustvideo.report.picture import jpeg
from robustvideo.report.series import Budget, Series
from robustvideo.report.sound import SoundPreview, make_sound_preview
from robustvideo.storage import local_copy

if TYPE_CHECKING:
    from torch import Tensor

FPS = 8.0
"""Frames per second of a preview: slow enough to see what happens in a clip of 16 frames."""

KEY_FRAMES = 4
"""Frames of a clip on paper."""

_SIDE = 128  # a panel is enlarged by a whole factor up to this, so that chroma subsampling spares small clips
_LARGEST = 224  # and made smaller above this: perturbations are noise, which no codec makes small
_BLOCK = 16  # side of a macroblock: a panel that fills whole ones takes nothing from its neighbour
_PAPER_SIDE = 112
_THUMBNAIL_SIDE = 128


@dataclass(frozen=True)
class Preview:
    """What the page needs of one saved clip.

    Attributes:
        video: H.264 in MP4; three panels in a row.
        width, height: of a panel.
        stride: from one panel to the next.
        frames: number of frames.
        factor: by which the difference is multiplied; 0 when nothing differs.
        key_frames: the frames on paper, from 0: evenly spread, with the most disturbed one among them.
        sheet: JPEG of the key frames; rows are clean, adversarial, difference.
        thumbnail: JPEG of the most disturbed frame, adversarial.
        sound: of both clips; None where they have none.
    """

    video: bytes
    width: int
    height: int
    stride: int
    frames: int
    factor: int
    key_frames: tuple[int, ...]
    sheet: bytes
    thumbnail: bytes
    sound: SoundPreview | None = None


def choose(series: Series, budget: Budget | None, count: int) -> list[Record]:
    """Saved clips worth looking at: at ``budget`` first, every attack, fooled and not, different clips and classes."""
    saved = series.rows.where((series.rows.clip_file != "") & (series.rows.status == "ok")).records()
    at_budget = {(s.attack, s.surrogate, s.eps) for s in (series.at(budget) if budget else [])}
    inside = [(r.attack, r.surrogate, r.eps) in at_budget for r in saved]
    used: Counter[str] = Counter()
    seen: Counter[int] = Counter()
    chosen: list[Record] = []
    for wanted in (True, False):
        kinds: dict[tuple[bool, str], list[Record]] = {}
        for record in (r for r, here in zip(saved, inside, strict=True) if here is wanted):
            kinds.setdefault((not record.success, record.attack), []).append(record)
        while len(chosen) < count and any(kinds.values()):
            for kind in sorted(kinds):
                if kinds[kind] and len(chosen) < count:
                    best = min(kinds[kind], key=lambda r: (used[r.sample_id], seen[r.label]))
                    kinds[kind].remove(best)
                    used[best.sample_id] += 1
                    seen[best.label] += 1
                    chosen.append(best)
    return chosen


def load_preview(run: Path, record: Record) -> Preview:
    """The preview of a record's saved clip.

    Args:
        run: the run directory.
        record: one with a ``clip_file``; ``clean.mkv`` lies beside it.

    Raises:
        InputError: a file is missing, damaged, outside the run, or does not fit the other.
    """
    from robustvideo.data.video_file import read_lossless

    adversarial = run / record.clip_file
    clean = adversarial.with_name("clean.mkv")
    for file in (clean, adversarial):
        if not file.resolve().is_relative_to(run.resolve()):  # links are followed: either may be one
            raise InputError(
                f"The clip {record.clip_file}, or the clean one beside it, lies outside the run directory."
            )
        if not file.is_file():
            raise InputError(f"The saved clip {file.relative_to(run).as_posix()} is missing.")
    try:
        with local_copy(clean) as first, local_copy(adversarial) as second:
            before, after = read_lossless(first), read_lossless(second)
    except RobustVideoError as error:
        raise InputError(f"The saved clip {record.clip_file} cannot be read: {error}") from error
    if before.video.shape != after.video.shape:
        raise InputError(f"The saved clip {record.clip_file} has another size than the clean one beside it.")
    preview = make_preview(before.video[0], after.video[0])
    if before.audio is None or after.audio is None or before.audio.shape != after.audio.shape:
        return preview
    return replace(preview, sound=make_sound_preview(before.audio[0], after.audio[0], before.sample_rate or 1))


def make_preview(clean: Tensor, adversarial: Tensor) -> Preview:
    """A preview from two videos (C, T, H, W) in [0, 1] of the same shape."""
    import torch

    from robustvideo.data.video_file import write_preview
    from robustvideo.distances import frame_rms

    delta = adversarial - clean
    factor = amplification(float(delta.abs().max()))
    videos = [clean, adversarial, (0.5 + factor * delta).clamp(0, 1)]
    rms = frame_rms(delta[None])[0].tolist()
    keys = key_frames(rms)
    panels = [_resized(v, _SIDE, _LARGEST, smooth=v is not videos[2]) for v in videos]
    height, width = panels[0].shape[2:]
    padded = [_padded(p) for p in panels]
    small = [_resized(v[:, list(keys)], _PAPER_SIDE, _PAPER_SIDE, smooth=v is not videos[2]) for v in videos]
    peak = max(range(len(rms)), key=lambda i: rms[i])
    return Preview(
        video=write_preview(None, torch.cat(padded, dim=3), FPS, min_side=1),
        width=width,
        height=height,
        stride=padded[0].shape[3],
        frames=clean.shape[1],
        factor=factor,
        key_frames=keys,
        sheet=jpeg(torch.cat([torch.cat(list(v.unbind(1)), dim=2) for v in small], dim=1)),
        thumbnail=jpeg(_resized(adversarial[:, [peak]], _THUMBNAIL_SIDE, _THUMBNAIL_SIDE, smooth=True)[:, 0]),
    )


def amplification(largest: float) -> int:
    """The whole factor that shows a largest change as nearly black or white around grey; 0 for no change."""
    return max(1, int(0.5 / largest + 1e-6)) if largest > 0 else 0


def key_frames(rms: Sequence[float], count: int = KEY_FRAMES) -> tuple[int, ...]:
    """Frames to show on paper: spread evenly over the clip, the nearest replaced by the most disturbed one.

    Args:
        rms: root mean square change of each frame.
        count: how many at most.
    """
    total = len(rms)
    if total <= count:
        return tuple(range(total))
    spread = {round(i * (total - 1) / (count - 1)) for i in range(count)}
    peak = max(range(total), key=lambda i: rms[i])
    if peak not in spread:
        spread.remove(min(spread, key=lambda i: abs(i - peak)))
        spread.add(peak)
    return tuple(sorted(spread))


def _resized(video: Tensor, side: int, largest: int, *, smooth: bool) -> Tensor:
    """(C, T, H, W) enlarged by a whole factor to at most ``side``, or made smaller to ``largest``; as 3 channels.

    Smoothing a picture is right; smoothing a perturbation would average it away.
    """
    import torch.nn.functional as F

    longest = max(video.shape[2:])
    if longest > largest:
        size = [max(2, round(extent * largest / longest)) for extent in video.shape[2:]]
        frames = video.transpose(0, 1)
        small = (
            F.interpolate(frames, size, mode="bilinear", align_corners=False, antialias=True)
            if smooth
            else F.interpolate(frames, size, mode="nearest-exact")
        )
        video = small.transpose(0, 1)
    else:
        factor = max(1, side // longest)
        video = video.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return video.expand(3, -1, -1, -1)


def _padded(panel: Tensor) -> Tensor:
    """A panel whose edges are repeated until it fills whole macroblocks."""
    import torch.nn.functional as F

    bottom, right = (-extent % _BLOCK for extent in panel.shape[2:])
    return F.pad(panel, (0, right, 0, bottom), mode="replicate")
