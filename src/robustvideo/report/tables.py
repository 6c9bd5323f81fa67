"""Tables: robust accuracy by attack and budget, in full at one budget, and across series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustvideo.evaluation.metrics import AttackSummary, Interval, UnionSummary, success_after_codecs
from robustvideo.evaluation.records import CLEAN
from robustvideo.report.series import Budget, Series


@dataclass(frozen=True)
class BudgetRows:
    """The rows of a results table at one budget, the strongest attack first; no union of a single attack."""

    budget: Budget
    is_headline: bool
    summaries: tuple[AttackSummary, ...]
    union: UnionSummary | None

    @property
    def heard(self) -> bool:
        """Whether some attack changed sound."""
        return not all(math.isnan(summary.audio_snr_db) for summary in self.summaries)


@dataclass(frozen=True)
class Overview:
    """Robust accuracy at every budget of a norm.

    Attributes:
        norm: the norm.
        budgets: the columns.
        rows: one attack each, the strongest first, then the worst case over them; for several series, the worst
            case of each. None where something was not measured.
    """

    norm: str
    budgets: tuple[float, ...]
    rows: tuple[OverviewRow, ...]


@dataclass(frozen=True)
class OverviewRow:
    """A row of an `Overview`; ``kind`` is "clean" (a single cell), "attack", "union" or "series"."""

    name: str
    kind: str
    style: int
    cells: tuple[Interval | None, ...]


@dataclass(frozen=True)
class ComparedRow:
    """One attack at one budget across series; None where a series has not met it."""

    attack: str
    accuracies: tuple[Interval | None, ...]
    is_union: bool = False


def overviews(series: Sequence[Series], chosen: Budget | None) -> list[Overview]:
    """One overview per norm that was measured at several budgets."""
    norms: dict[str, list[float]] = {}
    for norm, eps in sorted({b for one in series for b in one.unions}):
        norms.setdefault(norm, []).append(eps)
    return [_overview(series, norm, tuple(all_eps), chosen) for norm, all_eps in norms.items() if len(all_eps) > 1]


def _overview(series: Sequence[Series], norm: str, budgets: tuple[float, ...], chosen: Budget | None) -> Overview:
    unions = [
        tuple(u.robust_accuracy if (u := one.unions.get((norm, eps))) else None for eps in budgets) for one in series
    ]
    if len(series) > 1:
        rows = [OverviewRow(s.name, "series", s.style, cells) for s, cells in zip(series, unions, strict=True)]
        return Overview(norm, budgets, tuple(rows))
    (one,) = series
    known = {(s.title, s.eps): s.robust_accuracy for s in one.attacked if s.norm == norm}
    decisive = chosen if chosen and chosen[0] == norm else (norm, budgets[-1])
    strongest = [s.title for s in one.at(decisive)]
    names = dict.fromkeys([*strongest, *(attack for attack, _ in known)])
    rows = [OverviewRow("", "clean", 0, (one.clean,))]
    rows += [OverviewRow(name, "attack", 0, tuple(known.get((name, eps)) for eps in budgets)) for name in names]
    if len(names) > 1:
        rows.append(OverviewRow("", "union", 0, unions[0]))
    return Overview(norm, budgets, tuple(rows))


def budget_rows(one: Series, chosen: Budget) -> tuple[BudgetRows, ...]:
    """The results of a series at every budget."""
    return tuple(
        BudgetRows(budget, budget == chosen, tuple(one.at(budget)), union if len(union.attacks) > 1 else None)
        for budget, union in one.unions.items()
    )


def comparison(series: Sequence[Series]) -> list[tuple[Budget, list[ComparedRow]]]:
    """For every budget, the attacks and then their union, across all series; empty for a single series."""
    if len(series) == 1:
        return []
    groups = []
    for budget in sorted({b for one in series for b in one.unions}):
        known = [{s.title: s.robust_accuracy for s in one.at(budget)} for one in series]
        rows = [
            ComparedRow(attack, tuple(own.get(attack) for own in known))
            for attack in dict.fromkeys(a for own in known for a in own)
        ]
        unions = tuple(u.robust_accuracy if (u := one.unions.get(budget)) else None for one in series)
        groups.append((budget, [*rows, ComparedRow("", unions, is_union=True)]))
    return groups


@dataclass(frozen=True)
class Reencoding:
    """Whether attacks survive re-encoding, at one budget.

    Attributes:
        codecs: the columns, after that of the clips as stored.
        rows: name (empty for undisturbed clips) and share of the attacked clips on which the attack succeeds
            (undisturbed: the model errs), as stored and after every codec.
    """

    codecs: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Interval | None, ...]], ...]


def reencoding(one: Series, chosen: Budget) -> Reencoding | None:
    """The table of a series at a budget; None when nothing was re-encoded."""
    groups = [s for s in one.summaries if s.attack == CLEAN] + one.at(chosen)
    after = [success_after_codecs(one.of(summary)) for summary in groups]
    codecs = tuple(dict.fromkeys(codec for own in after for codec in own))
    if not codecs:
        return None
    rows = []
    for summary, own in zip(groups, after, strict=True):
        stored = summary.fooling_rate
        if summary.attack == CLEAN:
            right = summary.clean_accuracy
            stored = Interval(1 - right.high, 1 - right.estimate, 1 - right.low)
        elif summary.target_rate is not None:
            stored = summary.target_rate
        name = "" if summary.attack == CLEAN else summary.title
        rows.append((name, (stored, *(own.get(codec) for codec in codecs))))
    return Reencoding(codecs, tuple(rows))


@dataclass(frozen=True)
class Transfer:
    """What one attack, crafted on some models, does to others, at one budget.

    Attributes:
        attack: the attack.
        targets: names of the columns.
        rows: per surrogate its name, the fooling rate on every target, and their mean over the targets that are not
            the surrogate itself (None without any).
        own: per row, which column is the surrogate itself: a white-box attack, not a transfer; -1 for none.
    """

    attack: str
    targets: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Interval | None, ...], float | None], ...]
    own: tuple[int, ...]


def transfers(series: Sequence[Series], chosen: Budget | None) -> list[Transfer]:
    """One matrix per attack that was crafted on a surrogate, at a budget."""
    if chosen is None:
        return []
    models = [str(one.run.manifest.model.get("spec", "")) for one in series]
    names = tuple(one.name or model for one, model in zip(series, models, strict=True))
    known = [{(s.attack, s.surrogate): s.fooling_rate for s in one.at(chosen) if s.surrogate} for one in series]
    attacks = dict.fromkeys(attack for own in known for attack, _ in own)
    matrices = []
    for attack in attacks:
        surrogates = dict.fromkeys(surrogate for own in known for name, surrogate in own if name == attack)
        rows, places = [], []
        for surrogate in surrogates:
            cells = tuple(own.get((attack, surrogate)) for own in known)
            others = [c.estimate for c, model in zip(cells, models, strict=True) if c and model != surrogate]
            rows.append((surrogate, cells, sum(others) / len(others) if others else None))
            places.append(models.index(surrogate) if surrogate in models else -1)
        matrices.append(Transfer(attack, names, tuple(rows), tuple(places)))
    return matrices
