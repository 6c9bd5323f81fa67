"""Metrics: pure functions on records. Rates come with their Wilson intervals, and every denominator is a field.

A clip is one statistical unit, however many rows it has: several seeds of one attack are averaged per clip before
clips are counted, so that repeating an attack does not make an interval narrower. Unusable clips are counted, and
are in no denominator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean

from robustvideo.evaluation.records import CLEAN, Record
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
        norm: what ``eps`` bounds: "linf", "l2", "l21" or "flow", with " audio" for sound; a joint threat's spec.
        clips: usable clips: the denominator of the accuracies and of the costs per clip.
        unusable: clips that could not be read; in no denominator.
        clean_accuracy: share of clips recognised without an attack.
        robust_accuracy: share of clips recognised after it (misclassified without an attack counts as wrong).
        correct: clips recognised without an attack: the denominator of the fooling rate.
        fooling_rate: share of ``correct`` clips that end misclassified.
        target_rate: share of ``correct`` clips that end as the target; None for an untargeted attack.
        successes: rows of ``correct`` clips on which the attack reached its goal: the denominator of what follows.
        iterations: mean steps to the first success; NaN without a success.
        linf, l2, l21, ssim, psnr, frames_touched: mean stored change over the successes; NaN without one.
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


def summarise(records: Iterable[Record]) -> list[AttackSummary]:
    """One summary per defence, norm, budget and attack, in that order; budgets rise, attacks as first recorded.

    The same attack crafted on another model is another attack.
    """
    groups: dict[tuple[str, str, float, str, str], list[Record]] = {}
    for record in records:
        key = (record.defense, norm_of(record), record.eps, record.attack, record.surrogate)
        groups.setdefault(key, []).append(record)
    order = {defense: i for i, defense in enumerate(dict.fromkeys(key[0] for key in groups))}
    keys = sorted(groups, key=lambda k: (order[k[0]], k[1], k[2]))
    return [_summary(*key, groups[key]) for key in keys]


def union(records: Iterable[Record]) -> list[UnionSummary]:
    """The ensemble's robust accuracy for every defence, norm and budget; budgets rise.

    A clip that some member has not attacked yet (an unfinished run) is left out of its ``clips``.
    """
    groups: dict[tuple[str, str, float], list[Record]] = {}
    for record in records:
        if record.attack != CLEAN:
            groups.setdefault((record.defense, norm_of(record), record.eps), []).append(record)
    order = {defense: i for i, defense in enumerate(dict.fromkeys(key[0] for key in groups))}
    summaries = []
    for defense, norm, eps in sorted(groups, key=lambda k: (order[k[0]], k[1], k[2])):
        rows = groups[defense, norm, eps]
        stood = worst_case(rows)
        attacks = tuple(dict.fromkeys(titled(r.attack, r.surrogate) for r in rows))
        accuracy = wilson(sum(stood.values()), len(stood))
        summaries.append(UnionSummary(defense, eps, norm, attacks, len(stood), accuracy))
    return summaries


def worst_case(records: Iterable[Record]) -> dict[str, bool]:
    """Clip -> whether it is recognised in every row; only usable clips that every attack among the rows has met."""
    rows = [r for r in records if r.status == "ok"]
    attacks = {(r.attack, r.surrogate) for r in rows}
    met: dict[str, set[tuple[str, str]]] = {}
    stood: dict[str, bool] = {}
    for row in rows:
        met.setdefault(row.sample_id, set()).add((row.attack, row.surrogate))
        stood[row.sample_id] = stood.get(row.sample_id, True) and is_recognised(row)
    return {sample: whole for sample, whole in stood.items() if met[sample] == attacks}


def titled(attack: str, surrogate: str) -> str:
    """The title of an attack (see `AttackSummary.title`)."""
    return f"{attack} from {surrogate}" if surrogate else attack


def is_recognised(record: Record) -> bool:
    """Whether the model names the true class of the stored clip."""
    return record.adversarial_prediction == record.label


def needed_attack(record: Record) -> bool:
    """Whether a usable clip was recognised before the attack."""
    return record.status == "ok" and record.clean_prediction == record.label


def norm_of(record: Record) -> str:
    """What the record's budget bounds (see `AttackSummary`); empty for undisturbed clips."""
    return "" if record.attack == CLEAN else _norm(record.threat)


def confusions(records: Iterable[Record]) -> Counter[tuple[int, int]]:
    """(true class, class said under attack) -> number of rows, over the clips recognised without the attack.

    Pairs of equal classes are the clips that stood.
    """
    return Counter((r.label, r.adversarial_prediction) for r in records if needed_attack(r))


def success_after_codecs(records: Iterable[Record]) -> dict[str, Interval]:
    """Codec -> share of the clips on which the attack succeeds after it (undisturbed: the model errs).

    The clips are those that were re-encoded: the attacked ones, or all when undisturbed.
    """
    rows: dict[str, dict[str, list[bool]]] = {}
    for record in records:
        for codec, success in zip(record.codecs, record.codec_success, strict=True):
            rows.setdefault(codec, {}).setdefault(record.sample_id, []).append(success)
    return {codec: _share(list(verdicts.values())) for codec, verdicts in rows.items()}


def standing_by_step(records: Iterable[Record]) -> list[float]:
    """Share of the clips that the attack has not yet turned after 0, 1, 2, ... steps.

    The curve of an attack that had enough steps is flat at its end. Clips misclassified without an attack are
    turned from the start, so the first value is at most the clean accuracy. Empty without usable rows.
    """
    rows = [r for r in records if r.status == "ok"]
    if not rows:
        return []
    steps = max(max(len(r.loss_trace), r.first_success_step) for r in rows)
    turned = Counter(r.first_success_step for r in rows if r.success)
    shares, standing = [], len(rows)
    for step in range(steps + 1):
        standing -= turned[step]
        shares.append(standing / len(rows))
    return shares


def mean_loss(records: Iterable[Record]) -> list[float]:
    """Mean objective per step over the attacked clips.

    A clip that is done early keeps its last value: a mean over the clips that are left would move because easy
    clips leave, not because the attack progresses. Steps before a clip's first finite value do not count it.
    """
    traces = [_carried(r.loss_trace) for r in records if needed_attack(r)]
    length = max((len(t) for t in traces), default=0)
    means = []
    for step in range(length):
        values = [t[min(step, len(t) - 1)] for t in traces if t]
        finite = [v for v in values if math.isfinite(v)]
        means.append(fmean(finite) if finite else math.nan)
    return means


def _summary(
    defense: str, norm: str, eps: float, attack: str, surrogate: str, records: Sequence[Record]
) -> AttackSummary:
    rows = [r for r in records if r.status == "ok"]
    correct = [r for r in rows if needed_attack(r)]
    successes = [r for r in correct if r.success and attack != CLEAN]
    targeted = any(r.target >= 0 for r in rows)

    def over_successes(value: Callable[[Record], float]) -> float:
        return fmean(value(r) for r in successes) if successes else math.nan

    return AttackSummary(
        defense=defense,
        attack=attack,
        eps=eps,
        norm=norm,
        surrogate=surrogate,
        clips=len({r.sample_id for r in rows}),
        unusable=len({r.sample_id for r in records} - {r.sample_id for r in rows}),
        clean_accuracy=_rate(rows, lambda r: r.clean_prediction == r.label),
        robust_accuracy=_rate(rows, is_recognised),
        correct=len({r.sample_id for r in correct}),
        fooling_rate=_rate(correct, lambda r: not is_recognised(r)),
        target_rate=_rate(correct, lambda r: r.adversarial_prediction == r.target) if targeted else None,
        successes=len(successes),
        iterations=over_successes(lambda r: r.first_success_step),
        linf=over_successes(lambda r: r.linf),
        l2=over_successes(lambda r: r.l2),
        l21=over_successes(lambda r: r.l21),
        ssim=over_successes(lambda r: r.ssim),
        psnr=over_successes(lambda r: r.psnr),
        frames_touched=over_successes(lambda r: r.frames_touched),
        forward_passes=sum(r.forward_passes for r in rows),
        backward_passes=sum(r.backward_passes for r in rows),
        seconds=sum(r.seconds for r in rows),
    )


def _rate(rows: Iterable[Record], holds: Callable[[Record], bool]) -> Interval:
    """The share of clips for which ``holds``."""
    verdicts: dict[str, list[bool]] = {}
    for row in rows:
        verdicts.setdefault(row.sample_id, []).append(holds(row))
    return _share(list(verdicts.values()))


def _share(verdicts: Sequence[Sequence[bool]]) -> Interval:
    """The share of true verdicts, each clip counting once however many it has."""
    # a mean of one verdict stays a whole number, so that a run with one seed counts exactly
    successes = sum(v[0] if len(v) == 1 else fmean(v) for v in verdicts)
    return wilson(min(successes, len(verdicts)), len(verdicts))


def _carried(trace: Sequence[float]) -> list[float]:
    carried: list[float] = []
    for value in trace:
        carried.append(value if math.isfinite(value) or not carried else carried[-1])
    return carried


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
        if budgets.eps and budgets.audio:
            return f"audio_visual(audio={format_value(budgets.audio)})"
        return "linf" if budgets.eps else "linf audio"
    return f"{call.name} audio" if call.arguments.get("modality") == "audio" else call.name
