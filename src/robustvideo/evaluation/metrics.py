"""Metrics: pure functions on the columns of records. Rates have Wilson intervals, and every denominator is a field.

A clip is one statistical unit, however many rows it has: several seeds of one attack are averaged per clip before
clips are counted, so that repeating an attack does not make an interval narrower. Unusable clips are counted, and
are in no denominator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from robustvideo.evaluation.columns import Coded, Columns
from robustvideo.evaluation.records import CLEAN, TRACE_POINTS, Record
from robustvideo.registry import construct
from robustvideo.spec import format_value, parse_call

CONFIDENCE = 0.95
"""Coverage of the intervals, unless said otherwise."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; the estimate is NaN where there is nothing to estimate from."""

    low: float
    estimate: float
    high: float


def wilson(successes: float, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion.

    Holds its coverage for few clips and for proportions near 0 and 1, where the normal interval collapses.
    Source: Wilson 1927; Brown, Cai & DasGupta 2001.

    Args:
        successes: how many of ``total``; a fraction where a clip counts in part (several seeds).
        total: number of clips. 0 yields the interval [0, 1] without an estimate.
        confidence: coverage in (0, 1). Default 0.95.
    """
    if total == 0:
        return Interval(0.0, math.nan, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # at 0 and 1 the bound equals the estimate exactly; rounding must not move it past it
    return Interval(max(0.0, min(share, centre - half)), share, min(1.0, max(share, centre + half)))


def paired_difference(pairs: Iterable[tuple[bool, bool]], confidence: float = CONFIDENCE) -> Interval:
    """The second proportion minus the first on the same clips, with the Agresti-Min interval.

    Much narrower than the difference of two separate intervals, because both are measured on the same clips.
    Source: Agresti & Min 2005 (Wald's interval after adding half a clip to each of the four cells).

    Args:
        pairs: per clip, whether the first and whether the second is right.
        confidence: coverage in (0, 1). Default 0.95.
    """
    counts = Counter(pairs)
    total, gained, lost = sum(counts.values()), counts[False, True], counts[True, False]
    if total == 0:
        return Interval(-1.0, math.nan, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    estimate = (gained - lost) / total
    centre = (gained - lost) / (total + 2)
    half = z * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / (total + 2)) / (total + 2)
    return Interval(max(-1.0, min(estimate, centre - half)), estimate, min(1.0, max(estimate, centre + half)))


@dataclass(frozen=True)
class AttackSummary:
    """One attack at one budget against one defence.

    Attributes:
        defense, attack, eps: what was measured; `CLEAN` at 0 for the undisturbed clips.
        surrogate: the model that the clips were crafted on; empty for the model under test itself.
        norm: what ``eps`` bounds: "linf", "l2", "l21" or "flow", with " audio" for sound; of pixels and sound at once
            "audio_visual(audio=0.3825*eps)", with the sound's share; else a joint threat's spec.
        clips: usable clips: the denominator of the accuracies and of the costs per clip.
        unusable: clips of the defence that could not be read, which no attack has met; in no denominator.
        clean_accuracy: share of clips recognised without an attack.
        robust_accuracy: share of clips recognised after it (misclassified without an attack counts as wrong).
        correct: clips recognised without an attack: the denominator of the fooling rate.
        fooling_rate: share of ``correct`` clips that end misclassified.
        target_rate: share of ``correct`` clips that end as the target; None for an untargeted attack.
        successes: rows of ``correct`` clips on which the attack reached its goal: the denominator of what follows.
        iterations: mean steps to the first success; NaN without a success.
        linf, l2, l21, ssim, frames_touched: mean stored change of the picture over the successes; NaN without one.
        psnr: likewise over those whose picture changed; infinite when none did.
        audio_snr_db: mean signal-to-noise ratio of the sound over the successes whose sound changed and was not silent
            before; NaN without one.
        forward_passes, backward_passes, seconds: totals over the usable clips.
    """

    defense: str
    attack: str
    eps: float
    norm: str
    surrogate: str
    clips: int
    unusable: int
    clean_accuracy: Interval
    robust_accuracy: Interval
    correct: int
    fooling_rate: Interval
    target_rate: Interval | None
    successes: int
    iterations: float
    linf: float
    l2: float
    l21: float
    ssim: float
    psnr: float
    frames_touched: float
    audio_snr_db: float
    forward_passes: int
    backward_passes: int
    seconds: float

    @property
    def title(self) -> str:
        """The attack as people should read it: its spec, and where it was crafted if not on the model itself."""
        return titled(self.attack, self.surrogate)


@dataclass(frozen=True)
class UnionSummary:
    """The worst case per clip over all attacks at one budget: the robust accuracy of the ensemble.

    Attributes:
        defense, eps, norm: as in `AttackSummary`.
        attacks: the titles of the members.
        clips: usable clips that every member has attacked: the denominator.
        robust_accuracy: share of clips that stay recognised under every member.
    """

    defense: str
    eps: float
    norm: str
    attacks: tuple[str, ...]
    clips: int
    robust_accuracy: Interval


def summarise(rows: Columns) -> list[AttackSummary]:
    """One summary per defence, norm, budget and attack, in that order; budgets rise, attacks as first recorded.

    The same attack crafted on another model is another attack.
    """
    groups = rows.groups("defense", _norms(rows), "eps", "attack", "surrogate")
    lost = {defense: len(set(own.sample_id[own.status != "ok"])) for (defense,), own in rows.groups("defense").items()}
    return [_summary(own, lost[key[0]], *key) for key, own in _in_order(groups)]


def union(rows: Columns) -> list[UnionSummary]:
    """The ensemble's robust accuracy for every defence, norm and budget; budgets rise.

    A clip that some member has not attacked yet (an unfinished run) is left out of its ``clips``.
    """
    summaries = []
    for (defense, norm, eps), own in _in_order(by_budget(rows)):
        stood = worst_case(own)
        attacks = tuple(titled(*key) for key in own.groups("attack", "surrogate"))
        accuracy = wilson(sum(stood.values()), len(stood))
        summaries.append(UnionSummary(defense, eps, norm, attacks, len(stood), accuracy))
    return summaries


def by_budget(rows: Columns) -> dict[tuple[Any, ...], Columns]:
    """The attacked clips by defence, norm and budget."""
    rows = rows.where(rows.attack != CLEAN)
    return rows.groups("defense", _norms(rows), "eps")


def worst_case(rows: Columns) -> dict[str, bool]:
    """Clip -> whether it is recognised in every row; only usable clips that every attack among the rows has met."""
    rows = rows.where(rows.status == "ok")
    clip, names = rows.coded("sample_id")
    met, fell = np.zeros(len(names), np.int64), np.zeros(len(names), bool)
    attacks = rows.groups("attack", "surrogate").values()
    for own in attacks:
        met[np.unique(own.coded("sample_id")[0])] += 1
    fell[clip[~is_recognised(rows)]] = True
    whole = np.flatnonzero((met == len(attacks)) & (met > 0)).tolist()
    return {str(names[i]): not fell[i] for i in whole}


def titled(attack: str, surrogate: str) -> str:
    """The title of an attack (see `AttackSummary.title`)."""
    return f"{attack} from {surrogate}" if surrogate else attack


@overload
def is_recognised(row: Record) -> bool: ...
@overload
def is_recognised(row: Columns) -> NDArray[np.bool_]: ...
def is_recognised(row: Any) -> Any:
    """Whether the model names the true class of the stored clip: of one row, or of each of many."""
    return row.adversarial_prediction == row.label


@overload
def needed_attack(row: Record) -> bool: ...
@overload
def needed_attack(row: Columns) -> NDArray[np.bool_]: ...
def needed_attack(row: Any) -> Any:
    """Whether a usable clip was recognised before the attack: of one row, or of each of many."""
    return (row.status == "ok") & (row.clean_prediction == row.label)


def norm_of(record: Record) -> str:
    """What the record's budget bounds (see `AttackSummary`); empty for undisturbed clips."""
    return "" if record.attack == CLEAN else _norm(record.threat)


def confusions(rows: Columns) -> Counter[tuple[int, int]]:
    """(true class, class said under attack) -> number of rows, over the clips recognised without the attack.

    Pairs of equal classes are the clips that stood.
    """
    rows = rows.where(needed_attack(rows))
    return Counter(zip(rows.label.tolist(), rows.adversarial_prediction.tolist(), strict=True))


def success_after_codecs(rows: Columns) -> dict[str, Interval]:
    """Codec -> share of the clips on which the attack succeeds after it (undisturbed: the model errs).

    The clips are those that were re-encoded: the attacked ones, or all when undisturbed.
    """
    codecs, row = rows.flattened("codecs")
    succeeds, _ = rows.flattened("codec_success")
    clips = rows.coded("sample_id")[0][row]
    return {codec: _share(clips[codecs == codec], succeeds[codecs == codec]) for codec in dict.fromkeys(codecs)}


def standing_by_step(rows: Columns) -> list[float]:
    """Share of the clips that the attack has not yet turned after 0, 1, 2, ... steps.

    The curve of an attack that had enough steps is flat at its end. It ends with the last step that was taken, or
    earlier where the rows do not say which that was (`tells_its_steps`). Clips misclassified without an attack are
    turned from the start, so the first value is at most the clean accuracy. Empty without usable rows.
    """
    rows = rows.where(rows.status == "ok")
    if not len(rows):
        return []
    told = np.nan_to_num(_told(rows.steps, rows), nan=TRACE_POINTS)  # what early versions thinned had as many at least
    steps = max(int(told.max()), rows.first_success_step.max())
    turned = rows.first_success_step[rows.success & (rows.first_success_step >= 0)]
    standing = len(rows) - np.bincount(turned, minlength=steps + 1).cumsum()
    return (standing / len(rows)).tolist()  # type: ignore[no-any-return]


def tells_its_steps(rows: Columns) -> bool:
    """Whether the rows say how many steps an attack took: those of early versions do not where there were many."""
    rows = rows.where(rows.status == "ok")
    return not bool(np.isnan(_told(rows.steps, rows)).any())


def mean_loss(rows: Columns) -> list[float]:
    """Mean objective per step over the attacked clips.

    A clip that is done early keeps its last value: a mean over the clips that are left would move because easy
    clips leave, not because the attack progresses; between the points of a thinned trace it keeps the last one.
    Steps before a clip's first finite value do not count it. Empty where a trace of an early version was thinned:
    nothing tells of how many steps.
    """
    rows = rows.where(needed_attack(rows))
    length = _told(rows.trace_steps, rows)
    if np.isnan(length).any():
        return []
    losses, row = rows.flattened("loss_trace")
    _, _, points = rows.lists("loss_trace")
    place = np.arange(len(row)) - (np.cumsum(points) - points)[row]
    step = np.rint(place * (length - 1)[row] / np.maximum(points - 1, 1)[row])  # see `records.thinned_steps`
    order = np.argsort(step, kind="stable")
    ends = np.searchsorted(step[order], np.arange(1, int(length.max(initial=0)) + 1))
    last = np.full(len(rows), math.nan)
    means = []
    for at in np.split(order, ends)[:-1]:
        finite = at[np.isfinite(losses[at])]
        last[row[finite]] = losses[finite]
        known = last[~np.isnan(last)]
        means.append(float(known.mean()) if len(known) else math.nan)
    return means


def _told(steps: NDArray[Any], rows: Columns) -> NDArray[np.float64]:
    """Numbers of steps; where they are missing, those of a trace, or NaN if it may have been thinned."""
    _, _, points = rows.lists("loss_trace")
    given = steps.astype(np.float64)
    return np.where(np.isnan(given), np.where(points < TRACE_POINTS, points, math.nan), given)


def _norms(rows: Columns) -> Coded:
    """`norm_of` every row."""
    codes, threats = rows.coded("threat")
    names = [_norm(str(threat)) for threat in threats]
    known = list(dict.fromkeys(["", *names]))
    places = np.array([known.index(name) for name in names], np.int64)
    return np.where(rows.attack == CLEAN, 0, places[codes]), known


def _in_order(groups: dict[tuple[Any, ...], Columns]) -> list[tuple[tuple[Any, ...], Columns]]:
    """Groups by defence, norm, budget, ...: defences as first recorded, norms in order, budgets rising."""
    order = {defense: i for i, defense in enumerate(dict.fromkeys(key[0] for key in groups))}
    return sorted(groups.items(), key=lambda group: (order[group[0][0]], *group[0][1:3]))


def _summary(
    rows: Columns, unusable: int, defense: str, norm: str, eps: float, attack: str, surrogate: str
) -> AttackSummary:
    rows = rows.where(rows.status == "ok")
    correct = rows.where(needed_attack(rows))
    successes = correct.where(correct.success & (attack != CLEAN))
    targeted = (rows.target >= 0).any()

    def rate(of: Columns, holds: NDArray[np.bool_]) -> Interval:
        return _share(of.coded("sample_id")[0], holds)

    return AttackSummary(
        defense=defense,
        attack=attack,
        eps=eps,
        norm=norm,
        surrogate=surrogate,
        clips=len(set(rows.sample_id)),
        unusable=unusable,
        clean_accuracy=rate(rows, rows.clean_prediction == rows.label),
        robust_accuracy=rate(rows, is_recognised(rows)),
        correct=len(set(correct.sample_id)),
        fooling_rate=rate(correct, ~is_recognised(correct)),
        target_rate=rate(correct, correct.adversarial_prediction == correct.target) if targeted else None,
        successes=len(successes),
        iterations=_mean(successes.first_success_step),
        linf=_mean(successes.linf),
        l2=_mean(successes.l2),
        l21=_mean(successes.l21),
        ssim=_mean(successes.ssim),
        psnr=_mean_of_finite(successes.psnr),
        frames_touched=_mean(successes.frames_touched),
        audio_snr_db=_mean_of_finite(successes.audio_snr_db),
        forward_passes=int(rows.forward_passes.sum()),
        backward_passes=int(rows.backward_passes.sum()),
        seconds=math.fsum(rows.seconds.tolist()),
    )


def _share(clips: NDArray[np.int64], verdicts: NDArray[np.bool_]) -> Interval:
    """The share of true verdicts, each clip counting once however many it has."""
    several, right = np.bincount(clips), np.bincount(clips, verdicts)
    shares = right[several > 0] / several[several > 0]
    return wilson(math.fsum(shares.tolist()), len(shares))


def _mean(values: NDArray[Any]) -> float:
    """Exact before it is rounded, so that it does not depend on the order of the rows; NaN of nothing."""
    return fmean(values.tolist()) if len(values) else math.nan


def _mean_of_finite(values: NDArray[Any]) -> float:
    """The mean of the finite values; where there is none, of all."""
    finite = values[np.isfinite(values)]
    return _mean(finite if len(finite) else values)


@cache
def _norm(threat: str) -> str:
    if not threat:
        return "linf"
    call = parse_call(threat)
    if "members" in call.arguments:
        return threat
    if call.name == "audio_visual":
        from robustvideo.threat import AudioVisual  # torch, which reading records does not need otherwise

        budgets = construct(AudioVisual, call)
        if budgets.eps and budgets.audio:  # in a sweep, the sound's stays the same multiple of the picture's
            return f"audio_visual(audio={format_value(float(f'{budgets.audio / budgets.eps:.10g}'))}*eps)"
        return "linf" if budgets.eps else "linf audio"
    return f"{call.name} audio" if call.arguments.get("modality") == "audio" else call.name
