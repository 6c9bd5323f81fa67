"""The lines of the trust protocol that need a model and a few clips: convergence, and what its gradient is worth."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from robustvideo.attacks.attack import AttackResult
from robustvideo.attacks.objectives import Margin
from robustvideo.evaluation.trust.check import (
    CONVERGENCE,
    DIFFERENCES,
    GRADIENTS,
    Check,
    at_least,
    at_most,
    count,
    not_applicable,
)
from robustvideo.evaluation.trust.from_records import DOUBTFUL, TOLERANCE
from robustvideo.evaluation.trust.subject import Subject
from robustvideo.model import Purified
from robustvideo.randomness import ClipRandom, seed_for

SATURATED = 17.0
"""A margin from which the softmax of fp32 is exactly 1 (``exp(-17)`` is below half its rounding unit)."""

DIRECTIONS = 6
"""Random directions per clip along which a gradient is compared with finite differences."""


def convergence(subject: Subject, base: AttackResult) -> Check:
    """Twice the steps and two more starts find nothing new; the number is the share of clips that they do find.

    Args:
        subject: what is examined.
        base: what its attack found.
    """
    attack = subject.attack
    starts = attack.restarts + 2 if attack.random_start else 1
    stronger = replace(attack, steps=2 * attack.steps, restarts=starts)
    standing = (~base.success).nonzero()[:, 0]
    gained = int(subject.select(standing).run(stronger).success.sum()) if len(standing) else 0
    share = gained / len(subject)
    meaning = (
        f"{gained} of {count(len(subject), 'clip')} stand against {attack.steps} steps and fall to {stronger.steps} "
        f"steps{f' from {starts} starts' if starts > 1 else ''}."
    )
    grade = at_most(share, TOLERANCE, DOUBTFUL) if gained != 1 else "warn"  # one clip of a few is no trend
    advice = f"Give {attack.registered_name} more steps and restarts, until doubling them changes nothing."
    return Check(CONVERGENCE, grade, share, TOLERANCE, meaning, "" if grade == "pass" else advice, "%")


def gradient_health(subject: Subject) -> Check:
    """The attack's gradient is there; the number is the share of clips whose gradient is zero or not finite.

    Looked at where attacks start: at the clean clip and at a random point of its ball; the cross-entropy's, which most
    attacks climb. Clips whose margin saturates the softmax are a warning: half of their gradient is lost in rounding.
    """
    lost = torch.zeros_like(subject.clean.success)
    for clip in (subject.clip, subject.start()):
        gradient = subject.gradient(clip).flatten(1)
        lost |= ~gradient.isfinite().all(1) | (gradient == 0).all(1)
    share = float(lost.double().mean())
    saturated = float((subject.clean.margin < -SATURATED).double().mean())
    meaning = (
        f"The gradient is zero or not finite on {int(lost.sum())} of {count(len(subject), 'clip')}; the softmax is "
        f"exactly 1 on {saturated:.0%} of them."
    )
    grade = at_most(share, 0.0, DOUBTFUL)
    if grade == "pass" and saturated > 0.5:
        grade = "warn"
    advice = (
        "No attack that follows this gradient means anything. Attack a loss that does not saturate (the margin, DLR), "
        "and differentiate through every part of the model, or put a stand-in where that is impossible (BPDA)."
    )
    return Check(GRADIENTS, grade, share, 0.0, meaning, "" if grade == "pass" else advice, "%")


def finite_differences(subject: Subject) -> Check:
    """The gradient says what the model does; the number is a cosine, the median over clips.

    Between the slopes that the margin's gradient predicts along random directions ``d`` of signs, ``<g, d>``, and those
    that the model under test has, ``(m(x + h d) - m(x - h d)) / 2h``, at the better of h = eps/32 and eps/4 (a
    network's slope has kinks, so the small one is right; rounding favours the large one). Pixels that ``x +- h d``
    would take out of the range stay: no clip lies there, and a model that clamps has half its slope at the end of it.
    """
    model = subject.model
    if isinstance(model, Purified) and model.gradient_mode != "exact":
        return not_applicable(
            DIFFERENCES,
            f"The gradient passes the purifier in mode {model.gradient_mode}: it is a stand-in by design, and has a "
            "line of its own.",
        )
    clip = subject.clip
    gradient = torch.nan_to_num(subject.gradient(clip, Margin()), nan=0.0, posinf=0.0, neginf=0.0).double()
    predicted: dict[float, list[Tensor]] = {subject.eps / 32: [], subject.eps / 4: []}
    seen: dict[float, list[Tensor]] = {h: [] for h in predicted}
    free = torch.zeros_like(subject.clean.success)
    for number in range(DIRECTIONS):
        streams = ClipRandom(seed_for(subject.attack.seed, "trust direction", number, name) for name in clip.ids)
        signs = (streams.uniform(clip.video) < 0.5).to(clip.video.dtype) * 2 - 1
        for h, slopes in seen.items():
            direction = signs * ((clip.video >= h) & (clip.video <= 1 - h))
            free |= (direction != 0).flatten(1).any(1)
            predicted[h].append((gradient * direction).flatten(1).sum(1))
            ahead, behind = (clip.with_signal("video", clip.video + side * h * direction) for side in (1, -1))
            slopes.append((subject.margin(ahead) - subject.margin(behind)) / (2 * h))
    if not free.any():
        return not_applicable(DIFFERENCES, "Every pixel is at an end of the range, where a slope has one side only.")
    cosines = [_cosine(torch.stack(predicted[h], 1), torch.stack(slopes, 1)) for h, slopes in seen.items()]
    agreement = float(torch.stack(cosines).amax(0)[free].median())
    meaning = (
        f"Along {DIRECTIONS} random directions per clip, the gradient's slopes and the model's own have a cosine of "
        f"{agreement:.2f} (median of {count(int(free.sum()), 'clip')}; 1 is agreement)."
    )
    advice = (
        "The gradient is not the model's: look for detached parts, rounding, or draws that change between two passes, "
        "and differentiate through them."
    )
    grade = at_least(agreement, 0.95, 0.8)
    return Check(DIFFERENCES, grade, agreement, 0.95, meaning, "" if grade == "pass" else advice, bound="at least")


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """(B,) cosine of rows; 0 where one of them is zero."""
    return torch.nn.functional.cosine_similarity(first, second, dim=1, eps=1e-12)
