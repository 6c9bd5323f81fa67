"""Resubmission: what a defence that draws at random is worth when a clip may be tried again.

Every statistic of adversarial clips stands beside the same one of the clean clips: a defence that errs 3 % of the time,
whatever the clip, loses 46 % of all clips in the worst of 20 without any attack.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.errors import RobustVideoError
from robustvideo.evaluation.metrics import CONFIDENCE, Interval, paired_difference, wilson
from robustvideo.model import Model, at_rest, classify
from robustvideo.purification import Defended
from robustvideo.purification.votes import majority

DRAWS = 20
"""Submissions of every clip, unless said otherwise."""


@dataclass(frozen=True)
class Resubmitted:
    """Accuracy over m submissions of every clip.

    Attributes:
        mean: probability that one submission is classified correctly; what one evaluation per clip estimates.
        worst: share of clips classified correctly in all m (the attacker may try again).
        majority: share of clips whose most frequent class is the true one (the defender may ask again); ties as in
            `robustvideo.purification.votes`.
    """

    mean: Interval
    worst: Interval
    majority: Interval


@dataclass(frozen=True)
class Resubmission:
    """The accuracies of a defence over m submissions, adversarial beside clean.

    Attributes:
        draws: m; 1 for a defence that always answers the same.
        clips: how many.
        adversarial, clean: accuracy on the attacked clips, and on the same clips before.
        lost: what the attack took, clean minus adversarial, with intervals for differences on the same clips.
    """

    draws: int
    clips: int
    adversarial: Resubmitted
    clean: Resubmitted
    lost: Resubmitted


def resubmit(clip: Clip, number: int) -> Clip:
    """A clip under the name of its submission ``number``, under which a model that draws draws afresh.

    No attack uses these names, so no gradient has seen the draws.
    """
    return replace(clip, ids=tuple(f"{name}/submission/{number}" for name in clip.ids))


def submissions(model: Model, clip: Clip, draws: int) -> Tensor:
    """Logits (B, m, K) of m submissions of every clip, each in the model's own precision."""
    with at_rest(model):
        return torch.stack([classify(model, resubmit(clip, number)) for number in range(draws)], dim=1)


def mean_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) share of the submissions (B, m, K) that are classified correctly."""
    return (logits.argmax(2) == labels[:, None]).double().mean(1)


def worst_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) bool: every submission is classified correctly."""
    return (logits.argmax(2) == labels[:, None]).all(1)


def majority_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) bool: the majority class of the submissions is the true one."""
    return majority(logits) == labels


def measure_resubmission(
    model: Model, batches: Iterable[tuple[Clip, Clip, Tensor]], draws: int = DRAWS
) -> Resubmission:
    """Submit clean and adversarial clips several times.

    Args:
        model: the defended model, which draws from the names of its clips.
        batches: clean clips, what an attack made of them, and labels, batch by batch.
        draws: m. A `robustvideo.purification.Defended` whose purifier does not draw has one by definition; that two
            submissions agree is checked.

    Raises:
        RobustVideoError: a purifier that says that it does not draw answers the same clip in two ways.
    """
    fixed = isinstance(model, Defended) and not model.purifier.random
    found: dict[str, list[Tensor]] = {"clean": [], "adversarial": []}
    truth = []
    for clean, adversarial, labels in batches:
        truth.append(labels.cpu())
        for name, clip in (("clean", clean), ("adversarial", adversarial)):
            logits = submissions(model, clip, 2 if fixed else draws).cpu()
            if fixed and not torch.equal(logits[:, 0].argmax(1), logits[:, 1].argmax(1)):
                raise RobustVideoError(f"{type(model).__name__} does not draw, but answers the same clip in two ways.")
            found[name].append(logits[:, :1] if fixed else logits)
    return compared(torch.cat(found["clean"]), torch.cat(found["adversarial"]), torch.cat(truth))


def compared(clean: Tensor, adversarial: Tensor, labels: Tensor) -> Resubmission:
    """The statistics of submissions, clean and adversarial.

    Args:
        clean, adversarial: logits (N, m, K) of m submissions of the same clips.
        labels: (N,).
    """
    accuracy = {name: _accuracy(logits, labels) for name, logits in (("clean", clean), ("attacked", adversarial))}
    lost = Resubmitted(
        mean=_mean(mean_correct(clean, labels) - mean_correct(adversarial, labels)),
        worst=_difference(worst_correct(adversarial, labels), worst_correct(clean, labels)),
        majority=_difference(majority_correct(adversarial, labels), majority_correct(clean, labels)),
    )
    return Resubmission(clean.shape[1], len(labels), accuracy["attacked"], accuracy["clean"], lost)


def _accuracy(logits: Tensor, labels: Tensor) -> Resubmitted:
    shares = (measure(logits, labels) for measure in (mean_correct, worst_correct, majority_correct))
    return Resubmitted(*(wilson(float(share.double().sum()), len(labels)) for share in shares))


def _mean(differences: Tensor) -> Interval:
    """The mean of differences in [-1, 1], with the normal interval; [-1, 1] where one clip cannot tell."""
    estimate = float(differences.mean())
    if len(differences) < 2:
        return Interval(-1.0, estimate, 1.0)
    half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * float(differences.std()) / len(differences) ** 0.5
    return Interval(max(-1.0, estimate - half), estimate, min(1.0, estimate + half))


def _difference(first: Tensor, second: Tensor) -> Interval:
    return paired_difference(zip(first.tolist(), second.tolist(), strict=True))
