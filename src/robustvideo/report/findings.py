"""What a report concludes: the headline, and what a reader must know before quoting it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from robustvideo.evaluation.metrics import (
    AttackSummary,
    Interval,
    by_budget,
    needed_attack,
    paired_difference,
    standing_by_step,
    tells_its_steps,
    worst_case,
)
from robustvideo.evaluation.trust.from_records import DOUBTFUL, TOLERANCE
from robustvideo.evaluation.trust.sides import GRADIENT_FREE, blind_part, only_without_gradient, sides
from robustvideo.report.series import Budget, Series, headline_budget
from robustvideo.report.wording import (
    THIN,
    bounds,
    budget,
    changes,
    listed,
    norm_name,
    percent,
    points,
)
from robustvideo.spec import parse_call

WIDE = 0.2
"""An interval from which one should not quote a single number: 20 percentage points."""

CONVERGED = 0.01
"""An attack that fools a larger share of the clips than this in its last tenth of steps would find more."""

LISTED = 20
"""How many unusable clips are named."""


@dataclass(frozen=True)
class Standing:
    """One series in the headline.

    Attributes:
        series: which.
        clean: accuracy without an attack.
        robust: accuracy in the worst case per clip over the attacks at the headline budget; None without attacks.
        attacks: number of attacks in that worst case.
        clips: number of clips.
    """

    series: Series
    clean: Interval
    robust: Interval | None
    attacks: int
    clips: int


@dataclass(frozen=True)
class Headline:
    """The first thing a reader sees.

    Attributes:
        budget: norm and budget it speaks about; None without any attack.
        changes: what the budget allows, as the middle of a sentence.
        standings: one per series.
        difference: for two series on the same clips: the second's robust accuracy minus the first's.
        shared: number of clips that every series has met attacks on at that budget; None for a single series.
    """

    budget: Budget | None
    changes: str
    standings: tuple[Standing, ...]
    difference: Interval | None = None
    shared: int | None = None


@dataclass(frozen=True)
class Caution:
    """Something to know before quoting a number.

    Attributes:
        title: in a few words.
        text: what was seen, and what to do.
        serious: the number itself is in doubt, not only its precision.
        details: single cases, such as unusable clips with their messages.
    """

    title: str
    text: str
    serious: bool = False
    details: tuple[str, ...] = field(default=())


def headline(series: Sequence[Series]) -> Headline:
    """The headline over all series."""
    chosen = headline_budget(series)
    standings = []
    for one in series:
        union = one.unions.get(chosen) if chosen else None
        standings.append(
            Standing(
                one,
                one.clean,
                union.robust_accuracy if union and union.clips else None,
                len(union.attacks) if union else 0,
                one.clips,
            )
        )
    difference, shared = None, None
    if chosen and len(series) > 1 and all(s.robust for s in standings):
        stood = [worst_case(by_budget(s.rows)[s.defense, *chosen]) for s in series]
        common = set.intersection(*map(set, stood))
        shared = len(common)
        if common and len(stood) == 2:
            difference = paired_difference((stood[0][clip], stood[1][clip]) for clip in common)
    return Headline(chosen, changes(chosen[1], chosen[0]) if chosen else "", tuple(standings), difference, shared)


def cautions(series: Sequence[Series]) -> list[Caution]:
    """Everything that weakens the numbers, the serious ones first."""
    own = [(one.name, caution) for one in series for caution in _of_series(one)]
    found = _merged(own) if len(series) > 1 else [caution for _, caution in own]
    found += of_comparison(series)
    return sorted(found, key=lambda c: not c.serious)


def _merged(own: Sequence[tuple[str, Caution]]) -> list[Caution]:
    """The same caution about several series, said once."""
    groups: dict[str, list[tuple[str, Caution]]] = {}
    for name, caution in own:
        groups.setdefault(caution.title, []).append((name, caution))
    merged = []
    for title, members in groups.items():
        if len(members) == 1:
            name, caution = members[0]
            merged.append(replace(caution, title=f"{name}: {title[0].lower()}{title[1:]}"))
            continue
        same = len({caution.text for _, caution in members}) == 1
        lines = [] if same else [f"{name}: {caution.text}" for name, caution in members]
        lines += [f"{name}: {detail}" for name, caution in members for detail in caution.details]
        merged.append(
            Caution(
                f"{title} ({listed([name for name, _ in members])})",
                members[0][1].text if same else "",
                any(caution.serious for _, caution in members),
                tuple(lines),
            )
        )
    return merged


def _of_series(one: Series) -> Iterator[Caution]:
    yield from _unusable(one)
    yield from _unfinished(one)
    if not one.clips:
        yield Caution("No results", "No clip has been evaluated yet, so there is nothing to conclude.", True)
        return
    chosen = headline_budget([one])
    if chosen is None:
        yield Caution("No attack", "Only undisturbed clips were classified: nothing is known of robustness.", True)
    else:
        yield from _about_attacks(one, chosen)
    yield from _about_sample(one, chosen)
    yield from _unnamed_classes(one)
    for said in one.run.manifest.model.get("doubts", ()):
        yield Caution("The model's answers", said, serious=True)


def _unusable(one: Series) -> Iterator[Caution]:
    unusable = one.rows.where(one.rows.status != "ok")
    messages = dict(zip(unusable.sample_id, unusable.message, strict=True))
    if messages:
        named = [f"{sample}: {message or 'no message'}" for sample, message in sorted(messages.items())]
        more = (f"… and {len(named) - LISTED} more",) if len(named) > LISTED else ()
        yield Caution(
            "Unusable clips",
            f"{_count(len(messages), 'clip')} could not be read and count in no percentage on this page. If such "
            "clips are of one kind, the rest may not be representative.",
            details=(*named[:LISTED], *more),
        )


def _unfinished(one: Series) -> Iterator[Caution]:
    seen = len(set(one.rows.sample_id))
    whole = one.run.manifest.data.get("clips")
    if isinstance(whole, int) and 0 < seen < whole:
        yield Caution(
            "Unfinished",
            f"{seen} of {whole} clips have been evaluated; the same command goes on. The first may be of one kind.",
            serious=True,
        )


def _about_sample(one: Series, chosen: Budget | None) -> Iterator[Caution]:
    union = one.unions.get(chosen) if chosen else None
    found = [(one.clean, one.clips, "accuracy without an attack")]
    if union and union.clips:
        found.append((union.robust_accuracy, union.clips, "robust accuracy"))
    known, clips, share = max(found, key=lambda item: item[0].high - item[0].low)
    if known.high - known.low > WIDE:
        yield Caution(
            "Few clips",
            f"With {_count(clips, 'clip')} the 95{THIN}% interval of {share}, {bounds(known)}, spans "
            f"{100 * (known.high - known.low):.0f} points. About 100 clips bring it near 20 points, 400 near 10.",
        )
    if one.clean.estimate < 0.5:
        yield Caution(
            "Low accuracy without an attack",
            f"Only {percent(one.clean.estimate)} of the undisturbed clips are recognised: check that frames, size, "
            "normalisation and class order are those the model was trained with.",
            serious=True,
        )


def _unnamed_classes(one: Series) -> Iterator[Caution]:
    model, names = one.run.manifest.model, one.run.manifest.data.get("labels")
    if "labels" in model and not model["labels"] and isinstance(names, list) and names:
        first = ", ".join(f"class {index} is {name}" for index, name in enumerate(names[:3]))
        yield Caution(
            "The order of the classes is that of the data",
            f"The model does not name its classes, so its answers are read in the order of the data ({first}"
            f"{', …' if len(names) > 3 else ''}). If it was trained with another order, every number here is wrong: "
            "give it its names, wrap(..., labels=[...]).",
        )


def _about_attacks(one: Series, chosen: Budget) -> Iterator[Caution]:
    here = one.at(chosen)
    size = f"{norm_name(chosen[0])} {budget(chosen[1], chosen[0])}"
    yield from _without_gradient(one)
    yield from _noise_as_strong(one, here, size)
    yield from _masking(one, here, chosen, size)
    yield from _not_falling(one)
    yield from _not_converged(one, here, size)
    yield from _blind_to_defense(one)
    yield from _transferred_only(one)
    yield from _partial(one, chosen, size)
    budgets = {b for b in one.unions if b[0] == chosen[0]}
    if len(budgets) == 1:
        yield Caution(
            "A single budget",
            f"Only {size} was tried. Accuracy that does not fall towards 0 as the budget grows would reveal an "
            "attack that is too weak; one budget cannot show it.",
        )
    real = [s for s in here if _kind(s) != "noise"]
    if len(real) == 1:
        yield Caution(
            "A single attack",
            f"Robust accuracy is an upper bound: another attack than {real[0].title} may find more. An ensemble "
            "of different attacks is harder to pass.",
        )


def _without_gradient(one: Series) -> Iterator[Caution]:
    blind = [
        s.title
        for s in one.attacked
        if _kind(s) not in GRADIENT_FREE and not s.backward_passes and s.robust_accuracy.estimate > 0
    ]
    if blind:
        yield Caution(
            "No gradient reached the attack",
            f"{listed(list(dict.fromkeys(blind)))} climbs a gradient, but made no backward pass: something cuts the "
            "model's graph (detach, no_grad, NumPy). Clips that stand show that the attack did nothing, not that the "
            "model resists. Return logits that can be differentiated, or attack without gradients (square, nes).",
            serious=True,
        )


def _noise_as_strong(one: Series, here: Sequence[AttackSummary], size: str) -> Iterator[Caution]:
    noise = [s for s in here if _kind(s) == "noise"]
    for attack in here:
        if not noise or _kind(attack) == "noise" or attack.robust_accuracy.estimate == 0:
            continue
        least = min(s.robust_accuracy.estimate for s in noise)
        if attack.robust_accuracy.estimate >= least:
            reason, serious = _why_weak(_frames(one, attack), _frames(one, noise[0]), attack.backward_passes)
            yield Caution(
                f"{attack.title} is no stronger than random noise",
                f"At {size} it leaves {percent(attack.robust_accuracy.estimate)}, random noise "
                f"{percent(least)}. {reason}",
                serious=serious,
            )


def _why_weak(frames: float, noisy: float, backward_passes: int) -> tuple[str, bool]:
    """What it means that an attack does no better than noise, and whether its number is in doubt for it."""
    failed = "the number measures the attack's failure, not the model's robustness."
    if not backward_passes:
        return (
            f"It made no backward pass, and what it tried found no more than chance: {failed} An attack by queries "
            "needs more of them.",
            True,
        )
    if 0 < frames < noisy:
        return (
            f"It changes {frames:.3g} frames of a clip, the noise {noisy:.3g}: the two are not allowed the same, so "
            "this alone is no sign that it fails. Compare it with noise on as many frames.",
            False,
        )
    return f"Gradients that carry no information do this: {failed}", True


def _frames(one: Series, summary: AttackSummary) -> float:
    """Frames of a clip that an attack changes, on average over the clips that it attacked; 0 without any."""
    rows = one.of(summary)
    touched = rows.frames_touched[needed_attack(rows)]
    return float(touched.mean()) if len(touched) else 0.0


def _masking(one: Series, here: Sequence[AttackSummary], chosen: Budget, size: str) -> Iterator[Caution]:
    """Clips that fall only to attacks without the model's gradient; noise has a caution of its own.

    In doubt from the same shares as the trust protocol's line on the black box.
    """
    real = [s for s in here if _kind(s) != "noise"]
    blind = [part for s in real if (part := blind_part(s.title, s.attack, s.surrogate))]
    seeing = [s.title for s in real if sides(s.attack, s.surrogate, "").seeing]
    rows = next(own for (_, *at), own in by_budget(one.rows).items() if tuple(at) == chosen)
    rows = rows.where(needed_attack(rows) & np.isin(rows.attack, [s.attack for s in real]))
    only, met = only_without_gradient(rows)
    if met and only / met > TOLERANCE:
        yield Caution(
            "Gradients may be masked",
            f"At {size}, {only} of {_count(met, 'clip')} ({percent(only / met)}) fall to what sees no gradient "
            f"({listed(blind)}) and stand against every attack that sees it ({listed(seeing)}). Attack the model "
            "through what hides its gradient.",
            serious=only / met > DOUBTFUL,
        )


def _not_falling(one: Series) -> Iterator[Caution]:
    lines: dict[tuple[str, str], list[AttackSummary]] = {}
    for summary in one.attacked:
        lines.setdefault((summary.norm, summary.title), []).append(summary)
    for (norm, attack), budgets in lines.items():
        for small, large in pairwise(budgets):
            if large.robust_accuracy.estimate > small.robust_accuracy.estimate:
                yield Caution(
                    f"{attack} gets weaker with a larger budget",
                    f"It leaves {percent(small.robust_accuracy.estimate)} at {budget(small.eps, norm)} but "
                    f"{percent(large.robust_accuracy.estimate)} at {budget(large.eps, norm)}, although every smaller "
                    "change is allowed there too: step size or number of steps do not fit the budget.",
                    serious=True,
                )
                break


def _not_converged(one: Series, here: Sequence[AttackSummary], size: str) -> Iterator[Caution]:
    unfinished = []
    for summary in here:
        rows = one.of(summary)
        standing = standing_by_step(rows)
        tail = max(1, len(standing) // 10)
        enough_steps = len(standing) > 5
        if (
            enough_steps
            and tells_its_steps(rows)
            and standing[-1] > 0
            and standing[-1 - tail] - standing[-1] > CONVERGED
        ):
            unfinished.append(summary.title)
    if unfinished:
        yield Caution(
            "Not converged",
            f"At {size}, {listed(unfinished)} still fooled clips in the last tenth of the steps: more steps "
            "would find more.",
        )


def _blind_to_defense(one: Series) -> Iterator[Caution]:
    spec = str(one.run.manifest.model.get("spec", ""))
    blind = [s for s in (one.defense, spec) if "gradient=none" in s.replace(" ", "")]
    if blind:
        yield Caution(
            "The attacks did not see the defence",
            f"{blind[0]} was left out of the gradient. Only attacks that know a defence measure it: "
            "use gradient=exact, or gradient=bpda where it cannot be differentiated.",
            serious=True,
        )


def _transferred_only(one: Series) -> Iterator[Caution]:
    crafted_on = dict.fromkeys(s.surrogate for s in one.attacked)
    if not {"", str(one.run.manifest.model.get("spec", ""))} & set(crafted_on):
        yield Caution(
            "Only transferred clips",
            f"Every clip was crafted on {listed(list(crafted_on))}, by an adversary who does not know this model. One "
            "who does will find more: these numbers are no measure of the worst case.",
        )


def _partial(one: Series, chosen: Budget, size: str) -> Iterator[Caution]:
    missing = one.clips - one.unions[chosen].clips
    if missing:
        yield Caution(
            "The worst case is of fewer clips",
            f"{_count(missing, 'clip')} have not met every attack at {size} and are left out of it.",
        )


def of_comparison(series: Sequence[Series]) -> Iterator[Caution]:
    """What weakens a comparison of several series, beside what weakens each."""
    sets = [set(s.rows.sample_id[s.rows.status == "ok"]) for s in series if s.clips]
    if len(sets) < 2:
        return
    shared = set.intersection(*sets)
    if any(s != shared for s in sets):
        yield Caution(
            "Different clips",
            f"Only {_count(len(shared), 'clip')} are in every run: differences between the rest may come from "
            "the clips.",
            serious=True,
        )
    attacks = [{(s.title, s.norm, s.eps) for s in one.attacked} for one in series if one.clips]
    if any(own != attacks[0] for own in attacks):
        common = set.intersection(*attacks)
        odd = sorted({title for own in attacks for title, _, _ in own - common})
        yield Caution(
            "Different attacks",
            f"Not every run has met {listed(odd)} at every budget, so their worst cases are not of the same attacks.",
            serious=True,
        )


def difference_phrase(difference: Interval) -> str:
    """A difference of shares with its interval: "+12 points [+4, +20]"."""
    span = f"[{points(difference.low)}, {points(difference.high)}]"
    return f"{points(difference.estimate)} points {span}"


def _kind(summary: AttackSummary) -> str:
    return parse_call(summary.attack).name


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
