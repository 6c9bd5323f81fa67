"""Asking a model as a stranger: forward passes only, on what a file could hold, along chosen directions."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import Attack, Problem, Variables, Verdict, judge
from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.randomness import ClipRandom
from robustvideo.threat import GRID, ThreatModel

Space = Literal["lowres", "pixel", "frame", "flicker"]
"""Where search directions are drawn.

``pixel``: every value for itself, (C, T, H, W). ``lowres``: (C, T/4, H/8, W/8), enlarged trilinearly. ``frame``: one
picture (C, 1, H, W) for all frames. ``flicker``: one colour per frame, (C, T, 1, 1).
"""

VISIBLE = 2 / 255
"""A change that survives the rounding to 8 bits with some accuracy left."""


def ask(problem: Problem, variables: Variables, on_grid: bool, *, bounded: bool = True) -> Verdict:
    """One query: what the model says of the clips under ``variables``, in its own precision and without a gradient.

    Args:
        problem: the clips.
        variables: one tensor per part of the threat model.
        on_grid: show the clips as a file would hold them. Otherwise they are only clipped to the box.
        bounded: keep what is shown within the budget. A probe of the model need not be.
    """
    if on_grid and bounded:
        return problem.verdict(variables)
    return judge(problem.model, _shown(problem, variables, on_grid), problem.labels, problem.targeted)


def asks_on_grid(threat: ThreatModel, query_grid: bool | None) -> bool:
    """Whether queries are rounded: as said, or, where nothing is said, if verdicts are."""
    return all(part.stored for part in threat.parts) if query_grid is None else query_grid


def directions(like: Tensor, space: Space, random: ClipRandom) -> Tensor:
    """Normal noise in the shape of a variable (B, C, T, H, W), drawn in a search space.

    Anything but a video variable (sound) is drawn value by value.
    """
    if space == "pixel" or like.ndim != 5:
        return random.normal(like)
    batch, channels, frames, height, width = like.shape
    coarse = {
        "frame": (channels, 1, height, width),
        "flicker": (channels, frames, 1, 1),
        "lowres": (channels, math.ceil(frames / 4), math.ceil(height / 8), math.ceil(width / 8)),
    }[space]
    noise = random.normal(like.new_empty(batch, *coarse))
    if space == "lowres":
        return F.interpolate(noise, size=like.shape[2:], mode="trilinear", align_corners=False)
    return noise.expand_as(like)


def check_queries(attack: Attack, queries: int) -> None:
    """Refuse a number of queries that leaves nothing to search with.

    Raises:
        InputError: fewer than two: the last one confirms the result.
    """
    if queries < 2:
        raise InputError(f"{attack.registered_name} needs at least two queries, got queries={queries}.")


def check_space(space: str) -> None:
    """Raise `InputError` unless ``space`` is one of `Space`."""
    if space not in get_args(Space):
        raise unknown("search space", space, get_args(Space))


def _shown(problem: Problem, variables: Variables, on_grid: bool) -> Clip:
    """The perturbed clips, clipped to the box and, where asked for, rounded to what a file could hold."""
    clip = problem.threat.perturb(problem.clip, variables, problem.masks)
    for part in problem.threat.parts:
        clean, changed = (c.signal(part.modality) for c in (problem.clip, clip))
        signal, levels = changed.clamp(*part.box), GRID[part.modality]
        if on_grid:
            signal = torch.where(changed == clean, clean, (signal * levels).round() / levels)
        clip = clip.with_signal(part.modality, signal)
    return clip
