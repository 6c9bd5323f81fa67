"""Purifying videos of any length in overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.models.windowed import window_starts
from robustvideo.progress import Advance
from robustvideo.purification.purifier import Purifier
from robustvideo.randomness import seed_for
from robustvideo.threat import GRID


def purify_video(
    purifier: Purifier,
    clip: Clip,
    *,
    window: int | None = None,
    overlap: int | None = None,
    advance: Advance | None = None,
) -> Clip:
    """A purified clip as a file holds it: one vote (`Purifier.single`), on the 8-bit grid.

    Of the other votes nothing is computed that need not be: blended over windows, each would hold a whole video.

    Args:
        purifier: its network is loaded once, onto the clip's device.
        clip: in range.
        window, overlap, advance: see `purify_in_windows`.

    Raises:
        InputError: see `purify_in_windows`; or a clip out of range.
    """
    clip.check_range()
    purifier = purifier.single()
    network = purifier.network()
    if network is not None:
        network.to(clip.device)
    with torch.no_grad():
        answer = purify_in_windows(
            purifier, clip, purifier.seeds(clip), network, window=window, overlap=overlap, advance=advance
        )[0]
    grid = GRID["video"]
    return answer.with_signal("video", (answer.video * grid).round_().div_(grid))


def purify_in_windows(
    purifier: Purifier,
    clip: Clip,
    seeds: Sequence[int],
    network: nn.Module | None = None,
    *,
    window: int | None = None,
    overlap: int | None = None,
    advance: Advance | None = None,
) -> tuple[Clip, ...]:
    """What `Purifier.purify` returns, for a video longer than the purifier takes at once.

    Windows overlap; where they do, one fades into the next linearly, so that no seam is seen. A video no longer than a
    window is purified whole. Each window has draws of its own.

    Args:
        purifier, clip, seeds, network: see `Purifier.purify`.
        window: frames per window; 0 for the whole video. Default: the purifier's own (`Purifier.window`).
        overlap: frames that neighbours share, less than a window. Default: a quarter of the window. The last window
            ends with the video and may share more.
        advance: told of every window's new frames.

    Raises:
        InputError: a window or an overlap that cannot be, or a clip that the purifier cannot take.
    """
    length = purifier.window if window is None else window
    if not length or clip.frames <= length:
        whole_clip = purifier.purify(clip, seeds, network)
        if advance is not None:
            advance(clip.frames, "")
        return whole_clip
    shared = length // 4 if overlap is None else overlap
    if length < 1 or not 0 <= shared < length:
        raise InputError(f"Windows of {length} frames cannot overlap by {shared}: give less than a window, at least 0.")
    starts = window_starts(clip.frames, length, length - shared)
    weights = _weights(clip.frames, length, starts).to(clip.video)
    blended: list[Tensor] = []
    done = 0
    for number, start in enumerate(starts):
        view = clip.with_signal("video", clip.video[:, :, start : start + length])
        answers = purifier.purify(view, [seed_for(seed, "window", start) for seed in seeds], network)
        blended = blended or [torch.zeros_like(clip.video) for _ in answers]
        for whole, answer in zip(blended, answers, strict=True):
            whole[:, :, start : start + length] += answer.video * weights[number, :, None, None]
        if advance is not None:
            advance(start + length - done, "")
            done = start + length
    return tuple(clip.with_signal("video", whole.clamp_(0, 1)) for whole in blended)


def _weights(frames: int, length: int, starts: Sequence[int]) -> Tensor:
    """(windows, length) the share of each window in each of its frames; the shares of a frame add up to 1.

    A window rises where it overlaps with the one before and falls where it overlaps with the next.
    """
    shares = torch.ones(len(starts), length, dtype=torch.float64)
    for number, (before, after) in enumerate(pairwise(starts)):
        shared = before + length - after
        rise = torch.arange(1, shared + 1, dtype=torch.float64) / (shared + 1)
        shares[number + 1, :shared] *= rise
        shares[number, length - shared :] *= 1 - rise
    total = torch.zeros(frames, dtype=torch.float64)
    for start, share in zip(starts, shares, strict=True):
        total[start : start + length] += share
    return torch.stack([share / total[s : s + length] for s, share in zip(starts, shares, strict=True)])
