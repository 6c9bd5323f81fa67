"""The lines of the trust protocol that records decide: ladder, budget curve, black box, survival, provenance.

Only clips recognised without an attack are counted; what is compared is compared on the clips that both sides met.
A clip is standing at a budget when no attack of the side broke it there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.metrics import is_recognised, needed_attack, success_after_codecs
from robustvideo.evaluation.records import CLEAN, Record
from robustvideo.evaluation.run import Manifest
from robustvideo.evaluation.trust.check import (
    BLACK_BOX,
    CURVE,
    LADDER,
    PROVENANCE,
    SURVIVAL,
    Check,
    at_least,
    at_most,
    count,
    not_applicable,
)
from robustvideo.evaluation.trust.sides import blind_part, falls_to_gradient, kind_of, only_without_gradient
from robustvideo.spec import Call, format_call, parse_call

TOLERANCE = 0.01
"""One percentage point: the change below which the protocol calls two robust accuracies the same."""

DOUBTFUL = 0.05
"""Five percentage points: a violation of more is a failure, not a warning."""

Cell = dict[str, bool]
"""Clip -> whether it stands."""


def ladder(records: Sequence[Record]) -> Check:
    """Noise, one gradient step, many gradient steps: each leaves at most as many clips as the one before.

    What an ensemble breaks without gradients stands against its gradient steps (see `sides`).

    The number is the largest share of clips by which a stronger rung leaves more than a weaker one, over all budgets.
    A gradient attack that breaks nothing that noise does not break at the largest budget is a warning.
    """
    worst, where, idle = -math.inf, "", ""
    for (threat, eps), rows in _by_budget(r for r in records if not r.surrogate).items():
        rungs = [
            ("random noise", _standing((r for r in rows if kind_of(r) == "noise"), _falls)),
            ("one gradient step", _standing((r for r in rows if kind_of(r) == "fgsm"), _falls)),
            ("the iterated attacks", _standing((r for r in rows if kind_of(r) != "fgsm"), falls_to_gradient)),
        ]
        present = [(name, cell) for name, cell in rungs if cell]
        for (weak, first), (strong, second) in pairwise(present):
            before, after, clips = _shared(first, second)
            if clips and after - before > worst:
                worst = after - before
                where = f"At {_budget(threat, eps)}, {weak} leaves {before:.0%} of {clips} clips, {strong} {after:.0%}."
        if len(present) > 1 and present[0][0] == "random noise":
            before, after, _ = _shared(present[0][1], present[-1][1])
            idle = where if after == before > 0 else ""  # budgets rise: the last word is the largest budget's
    if worst == -math.inf:
        return not_applicable(LADDER, "Fewer than two of noise, one gradient step and iterated attacks were run.")
    grade = at_most(worst, TOLERANCE, DOUBTFUL)
    if grade == "pass" and idle:
        grade = "warn"
    advice = (
        "A stronger attack that finds less is misled: look at the lines on gradients, and give it another loss, a "
        "larger step or a start of its own. If no attack finds more than noise, raise the budget until one does."
    )
    return Check(LADDER, grade, worst, TOLERANCE, where, "" if grade == "pass" else advice, "%")


def budget_curve(records: Sequence[Record]) -> Check:
    """With a budget large enough every clip falls; the number is the share left at the largest one tried.

    A clip that falls at a budget has fallen at every larger one, which allows the same change.
    """
    budgets = _by_budget(r for r in records if not r.surrogate and kind_of(r) != "noise")
    if not budgets:
        return not_applicable(CURVE, "No attack on the model itself was run.")
    threats = [threat for threat, _ in budgets]
    threat = "linf" if "linf" in threats else max(threats, key=threats.count)
    cells = [(eps, _standing(rows, _falls)) for (own, eps), rows in budgets.items() if own == threat]
    fallen = {clip for _, cell in cells for clip, stands in cell.items() if not stands}
    eps, last = cells[-1]
    left = sum(clip not in fallen for clip in last) / len(last)
    rises = [b - a for (_, x), (_, y) in pairwise(cells) for a, b, clips in [_shared(x, y)] if clips]
    rise = max(rises, default=0.0)
    grade = at_most(left, TOLERANCE, 0.1)
    meaning = (
        f"At the largest budget tried, {_budget(threat, eps)}, {left:.0%} of {count(len(last), 'clip')} still stand."
    )
    if rise > DOUBTFUL:
        grade = "fail" if grade == "fail" else "warn"
        meaning += f" Between two budgets, {rise:.0%} more clips stood at the larger one."
    advice = (
        "An unbounded adversary always wins: clips that stand show that the attack fails, not that the model resists. "
        "Fix the attack's gradient, or its step size at large budgets, before quoting the small ones."
    )
    return Check(CURVE, grade, left, TOLERANCE, meaning, "" if grade == "pass" else advice, "%")


def black_box(records: Sequence[Record]) -> Check:
    """Whoever sees the gradient finds at least what others find.

    The number is the share of clips that fall to an attack without this model's gradient (square, other query
    attacks, noise, gradient-free members of an ensemble, clips crafted on another model) and stand against every attack
    with it, at the worst budget. Which clips an ensemble's members have met is told in `sides`.
    """
    worst, meaning = -1.0, ""
    for (threat, eps), rows in _by_budget(records).items():
        only, met = only_without_gradient(Columns.of(rows))
        if met and only / met > worst:
            worst = only / met
            names = dict.fromkeys(blind_part(r.surrogate or kind_of(r), r.attack, r.surrogate) for r in rows)
            meaning = (
                f"At {_budget(threat, eps)}, {only} of {count(met, 'clip')} fall only without the model's gradient "
                f"({', '.join(filter(None, names))})."
            )
    if worst < 0:
        return not_applicable(BLACK_BOX, "No attack without gradients and attack with them met the same clips.")
    grade = at_most(worst, TOLERANCE, DOUBTFUL)
    advice = (
        "Gradients are masked: quote the lower number, and attack through what hides the gradient (exact gradients, "
        "another loss, a stand-in for what cannot be differentiated)."
    )
    return Check(BLACK_BOX, grade, worst, TOLERANCE, meaning, "" if grade == "pass" else advice, "%")


def survival(records: Sequence[Record], stored_again: Sequence[bool]) -> Check:
    """Adversarial clips are what a file holds.

    Args:
        records: attacked clips; what re-encoding leaves of the attacks is told when codecs were tried.
        stored_again: per adversarial clip that was written as 8-bit values and read back: it still succeeds.
    """
    if not stored_again:
        return not_applicable(SURVIVAL, "No attack of the sample succeeded, so there is nothing to store.")
    share = sum(stored_again) / len(stored_again)
    meaning = f"{sum(stored_again)} of {count(len(stored_again), 'adversarial clip')} succeed when stored in 8 bits."
    successes = [r for r in records if r.attack != CLEAN and needed_attack(r) and r.success]
    outlived = success_after_codecs(Columns.of(successes))
    if outlived:
        parts = [f"{interval.estimate:.0%} after {codec}" for codec, interval in outlived.items()]
        meaning += f" Of the successful clips, {', '.join(parts)} still succeed."
    else:
        meaning += " Re-encoding was not tried (codecs)."
    advice = (
        "A success that storage undoes is none: verify stored clips, and where the same clip gets two answers, fix "
        "the model's draws."
    )
    grade = at_least(share, 1.0, 0.9)
    return Check(SURVIVAL, grade, share, 1.0, meaning, "" if grade == "pass" else advice, "%", "at least")


def provenance(records: Sequence[Record], manifest: Manifest | None) -> Check:
    """Whether somebody else can repeat the run, and at what cost; the number counts what is missing."""
    attacked = [r for r in records if r.attack != CLEAN and needed_attack(r)]
    known = manifest or Manifest()
    wanted = {
        "attacks": attacked,
        "passes of every attacked clip": attacked and all(r.forward_passes + r.backward_passes for r in attacked),
        "the clips' names": all(r.sample_id for r in records),
        "the model": known.model.get("spec"),
        "the model's digest": known.configuration.get("model_digest"),
        "the data's fingerprint": known.configuration.get("data_fingerprint"),
        "versions": known.environment.get("torch"),
    }
    missing = [name for name, value in wanted.items() if not value]
    passes = sum(r.forward_passes + r.backward_passes for r in attacked) / max(len(attacked), 1)
    seconds = sum(r.seconds for r in attacked)
    seeds = sorted({r.seed for r in attacked})
    meaning = (
        f"{passes:.1f} passes per clip and attack, {seconds:.1f} s in all, on "
        f"{known.environment.get('device', 'an unknown device')}; {'seed' if len(seeds) == 1 else 'seeds'} "
        f"{', '.join(map(str, seeds)) or 'unknown'}."
    )
    if missing:
        meaning += f" Missing: {', '.join(missing)}."
    grade = at_most(len(missing), 0, 2)
    advice = "Run it through `robustvideo evaluate`, which records all of it."
    return Check(PROVENANCE, grade, float(len(missing)), 0.0, meaning, "" if grade == "pass" else advice)


def _by_budget(records: Iterable[Record]) -> dict[tuple[str, float], list[Record]]:
    """The attacked clips by threat model and budget; threat models in order, budgets rise."""
    groups: dict[tuple[str, float], list[Record]] = {}
    for record in records:
        if record.attack != CLEAN and needed_attack(record):
            groups.setdefault((_threat(record), record.eps), []).append(record)
    return {key: groups[key] for key in sorted(groups)}


def _threat(record: Record) -> str:
    """The threat model without its budget: "linf" is every pixel, "linf(support=...)" some of them."""
    call = parse_call(record.threat or "linf")
    return format_call(Call(call.name, {key: value for key, value in call.arguments.items() if key != "eps"}))


def _standing(rows: Iterable[Record], falls: Callable[[Record], bool | None]) -> Cell:
    """Clip -> whether it stands in every row; rows that cannot tell (None) are left out."""
    cell: Cell = {}
    for row in rows:
        if (fell := falls(row)) is not None:
            cell[row.sample_id] = cell.get(row.sample_id, True) and not fell
    return cell


def _falls(record: Record) -> bool:
    return not is_recognised(record)


def _shared(first: Cell, second: Cell) -> tuple[float, float, int]:
    """The shares that stand on the clips of both, and how many these are."""
    both = [clip for clip in first if clip in second]
    if not both:
        return math.nan, math.nan, 0
    return sum(first[c] for c in both) / len(both), sum(second[c] for c in both) / len(both), len(both)


def _budget(threat: str, eps: float) -> str:
    """A budget in words: "L∞ 8/255"."""
    levels = eps * 255
    size = f"{round(levels)}/255" if eps <= 1 and abs(levels - round(levels)) < 1e-6 else f"{eps:.3g}"
    return f"{'L∞' if threat == 'linf' else threat} {size}"
