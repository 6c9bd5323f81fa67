"""`Series`: one defence of one run, the unit that a report shows or compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path

from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.metrics import AttackSummary, Interval, UnionSummary, summarise, union, wilson
from robustvideo.evaluation.records import CLEAN
from robustvideo.evaluation.run import Run, open_run
from robustvideo.report.wording import defense_name, in_levels

USUAL_BUDGET = 8 / 255
"""The field's usual Linf budget, about which a report speaks when it was measured."""

Budget = tuple[str, float]
"""A norm and its budget."""


@dataclass(frozen=True)
class Series:
    """One defence of one run.

    Attributes:
        name: how the page calls it; empty when there is only one.
        run: the run.
        defense: the defence's spec.
        labels: class names by index; empty when unknown.
        rows: its records.
        style: number of its colour.
    """

    name: str
    run: Run
    defense: str
    labels: tuple[str, ...]
    rows: Columns
    style: int = 0

    @cached_property
    def summaries(self) -> list[AttackSummary]:
        """Every attack at every budget, the undisturbed clips among them."""
        return summarise(self.rows)

    @cached_property
    def attacked(self) -> list[AttackSummary]:
        """Every attack at every budget."""
        return [s for s in self.summaries if s.attack != CLEAN]

    @cached_property
    def unions(self) -> dict[Budget, UnionSummary]:
        """The worst case per clip at every norm and budget."""
        return {(u.norm, u.eps): u for u in union(self.rows)}

    @cached_property
    def clean(self) -> Interval:
        """Accuracy without an attack, from the undisturbed rows where there are any."""
        own = [s for s in self.summaries if s.attack == CLEAN] or self.attacked
        return max(own, key=lambda s: s.clips).clean_accuracy if own else wilson(0, 0)

    @cached_property
    def clips(self) -> int:
        """Number of usable clips."""
        return len(set(self.rows.sample_id[self.rows.status == "ok"]))

    def at(self, budget: Budget) -> list[AttackSummary]:
        """The attacks at one budget, the strongest first."""
        own = [s for s in self.attacked if (s.norm, s.eps) == budget]
        return sorted(own, key=lambda s: s.robust_accuracy.estimate)

    def of(self, summary: AttackSummary) -> Columns:
        """The records behind a summary of this series."""
        return self._by_attack[summary.attack, summary.surrogate, summary.eps]

    @cached_property
    def _by_attack(self) -> dict[tuple[str, str, float], Columns]:
        return self.rows.groups("attack", "surrogate", "eps")


def load_series(paths: Sequence[Path]) -> list[Series]:
    """The series of some runs, in the order of the runs and of their defences; a run without rows has one, empty.

    Raises:
        InputError: a path that is not a run.
        RunConflict: a run written by a newer version.
    """
    found: list[Series] = []
    for path in paths:
        run = open_run(path)
        rows = run.columns()
        for defense, own in by_defense(rows).items() or [("none", rows)]:
            found.append(Series("", run, defense, class_names(run), own))
    if len(found) == 1:
        return found
    names = _names(found)
    return [
        Series(name, s.run, s.defense, s.labels, s.rows, style)
        for style, (name, s) in enumerate(zip(names, found, strict=True))
    ]


def by_defense(rows: Columns) -> dict[str, Columns]:
    """The records of every defence, in the order of their first."""
    return {defense: own for (defense,), own in rows.groups("defense").items()}


def class_names(run: Run) -> tuple[str, ...]:
    """The names that the model, or else the data, gives its classes."""
    for facts in (run.manifest.model, run.manifest.data):
        for key in ("labels", "classes", "class_names"):
            if isinstance(facts.get(key), list):
                return tuple(str(name) for name in facts[key])
    return ()


def headline_budget(series: Sequence[Series]) -> Budget | None:
    """The budget that the page speaks about: 8/255 where it was measured, else the one nearest below it.

    Budgets that every series has come first; pixel-wise (Linf) ones before those that bound the sound as well, and
    these before others. None without any attack.
    """
    shared = set.intersection(*(set(s.unions) for s in series)) if series else set()
    known = shared or {budget for s in series for budget in s.unions}
    if not known:
        return None
    pixelwise = {b for b in known if b[0] == "linf"} or {b for b in known if in_levels(b[0])}
    if not pixelwise:
        return min(known)
    below = [b for b in pixelwise if b[1] <= USUAL_BUDGET * (1 + 1e-6)]
    return max(below, key=itemgetter(1)) if below else min(pixelwise, key=itemgetter(1))


def _names(found: Sequence[Series]) -> list[str]:
    """The shortest names that tell the series apart: by model, by defence, by directory, or by all of them."""
    models = [str(s.run.manifest.model.get("spec", "")) for s in found]
    defenses = [defense_name(s.defense) for s in found]
    folders = [s.run.path.resolve().name for s in found]
    everything = [f"{folder} · {defense}" for folder, defense in zip(folders, defenses, strict=True)]
    for names in (models, defenses, folders, everything):
        if all(names) and len(set(names)) == len(names):
            return names
    return [f"{place}. {name}" for place, name in enumerate(everything, 1)]
