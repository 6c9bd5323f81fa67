"""`examine`: the eleven lines of the trust protocol for one model, from its records and a few clips of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from robustvideo.attacks import FGSM, Square
from robustvideo.attacks.attack import Attack, AttackResult
from robustvideo.attacks.noise import Noise
from robustvideo.data.dataset import VideoDataset
from robustvideo.evaluation.crafting import clean_verdict, craft_for_others, transferred
from robustvideo.evaluation.metrics import is_recognised
from robustvideo.evaluation.records import CLEAN, Record
from robustvideo.evaluation.run import Run
from robustvideo.evaluation.trust import from_defense, from_model, from_records
from robustvideo.evaluation.trust.check import LINES, Check, load_checks, not_applicable, save_checks
from robustvideo.evaluation.trust.sides import QUERY_ATTACKS, falls_to_gradient, kind_of, lineup
from robustvideo.evaluation.trust.subject import Subject, at_budget, find_subject
from robustvideo.model import Model
from robustvideo.progress import track
from robustvideo.purification import Defended

CLIPS = 8
"""Clips that are looked at, unless said otherwise."""

QUERIES = 200
"""Forward passes per clip of the black-box attack that is run where the run had none."""


def examine(
    model: Model,
    data: VideoDataset,
    records: Sequence[Record],
    attacks: Sequence[Attack] = (),
    *,
    run: Run | None = None,
    defense: str = "none",
    clips: int = CLIPS,
    queries: int = QUERIES,
    seed: int = 0,
) -> list[Check]:
    """The eleven lines of the trust protocol.

    What the records lack (noise, one gradient step, an iterated attack, one without gradients, clips crafted on the
    undefended model, budgets at which everything falls) is run on the sample, and counts in these lines only.

    Args:
        model: the model, behind its defence, on its device.
        data: its data.
        records: the run's records behind this defence; may be empty.
        attacks: the run's attacks; the strongest iterated Linf gradient attack among them is what is examined.
        run: the run, for its provenance.
        defense: the defence's spec.
        clips: clips to look at; those that the model does not recognise are left out. Default 8.
        queries: forward passes per clip of the black-box attack. Default 200.
        seed: seeds the attacks and directions that the lines add.

    Returns:
        One check per line of `LINES`, in that order.
    """
    manifest = None if run is None else run.manifest
    subject = find_subject(model, data, attacks, records, clips=clips, defense=defense, seed=seed)
    if subject is None:
        why = f"Fewer than two of {min(clips, len(data))} clips are recognised without an attack."
        found = [
            from_records.ladder(records),
            from_records.budget_curve(records),
            from_records.black_box(records),
            from_records.provenance(records, manifest),
        ]
        known = {check.name: check for check in found}
        return [known.get(name, not_applicable(name, why)) for name in LINES]
    base = subject.run()
    undefended = "" if manifest is None else str(manifest.model.get("spec", ""))
    added = missing_records(subject, base, records, queries=queries, seed=seed, undefended=undefended)
    rows = [*records, *added]
    return [
        from_records.ladder(rows),
        from_records.budget_curve(rows),
        from_model.convergence(subject, base),
        from_records.black_box(rows),
        from_model.gradient_health(subject),
        from_model.finite_differences(subject),
        from_defense.randomness(subject, base),
        from_defense.substitution(subject, base),
        from_defense.ablation(subject, base),
        from_records.survival(records, stored_again(subject, base)),
        from_records.provenance(records or rows, manifest),
    ]


def examine_run(
    run: Run,
    models: Mapping[str, Model],
    data: VideoDataset,
    attacks: Sequence[Attack],
    *,
    clips: int = CLIPS,
    quiet: bool = False,
) -> dict[str, list[Check]]:
    """Examine every defence of a finished run, and keep the lines in its ``trust.json``.

    A defence whose lines are on disk is not examined again.

    Args:
        run: the run.
        models: the model behind each defence, by the defence's spec.
        data: the run's data.
        attacks: the run's attacks.
        clips: clips to look at per defence.
        quiet: show no progress.
    """
    found = load_checks(run.path)
    missing = [name for name in models if name not in found]
    if not missing:
        return found
    records = run.records()
    with track("trust", len(models), done=len(models) - len(missing), quiet=quiet) as advance:
        for name in missing:
            own = [r for r in records if r.defense == name]
            found[name] = examine(models[name], data, own, attacks, run=run, defense=name, clips=clips)
            save_checks(run.path, found)
            advance(1, name)
    return found


def missing_records(
    subject: Subject,
    base: AttackResult,
    records: Sequence[Record],
    *,
    queries: int,
    seed: int,
    undefended: str = "",
) -> list[Record]:
    """The records of the attacks that the lines on records need and the run has not, on the subject's clips.

    An attack by queries and a transfer from the undefended model do not stand in for each other: each is run where it
    is missing. Clips crafted on any other model stand in for neither.

    Args:
        subject: what is examined.
        base: what its attack found.
        records: the run's.
        queries: of the black-box attack.
        seed: of the attacks added.
        undefended: spec of the model without its defence, as records name those they were crafted on; empty when
            unknown.
    """
    attack = subject.attack
    here = [r for r in records if r.attack != CLEAN and not r.surrogate and _is_at(r, attack)]
    kinds = {kind_of(r) for r in here}
    added = subject.records(attack, base)
    for rung in (Noise(threat=attack.threat, seed=seed), FGSM(threat=attack.threat, seed=seed)):
        if rung.registered_name not in kinds:
            added += subject.probe(rung)
    fallen = {r.sample_id for r in [*here, *added] if falls_to_gradient(r)}
    standing = [i for i, name in enumerate(subject.clip.ids) if name not in fallen]
    if standing:  # whoever fell with a gradient need not fall without
        few = subject.select(torch.tensor(standing, device=subject.labels.device))
        if not any(call.name in QUERY_ATTACKS for r in here for call in lineup(r.attack)):
            added += few.probe(Square(threat=attack.threat, queries=queries, seed=seed))
        if not any(r.surrogate and r.surrogate == undefended for r in records if _is_at(r, attack)):
            added += _from_undefended(few)
    anywhere = {r.sample_id for r in records if r.attack != CLEAN and falls_to_gradient(r)}
    return added + _larger_budgets(subject, fallen | anywhere)


def stored_again(subject: Subject, base: AttackResult) -> list[bool]:
    """Per adversarial clip: written as 8-bit values and read back, it is still misclassified."""
    won = base.success.nonzero()[:, 0]
    if len(won) == 0:
        return []
    clip = base.clip.select(won)
    stored = (clip.video * 255).round().to(torch.uint8)
    again = clip.with_signal("video", stored.to(clip.video.dtype) / 255)
    return clean_verdict(subject.model, again, subject.labels[won]).success.tolist()


def _is_at(record: Record, attack: Attack) -> bool:
    return record.eps == attack.threat.parts[0].eps and record.attack != CLEAN


def _from_undefended(subject: Subject) -> list[Record]:
    """Clips crafted on the model without its defence and tried on it: by somebody who knows less."""
    if not isinstance(subject.model, Defended):
        return []
    crafted = craft_for_others(subject.attack, subject.model.undefended, subject.clip, subject.labels)
    moved = transferred(crafted, subject.model, subject.labels, targeted=False)
    return [replace(row, surrogate="the undefended model") for row in subject.records(subject.attack, moved)]


def _larger_budgets(subject: Subject, fallen: set[str]) -> list[Record]:
    """The attack at four times its budget, eight times, ... up to half the range, until every clip has fallen once."""
    added: list[Record] = []
    eps = 4 * subject.eps
    while not fallen.issuperset(subject.clip.ids) and eps <= 0.5:
        rows = subject.probe(at_budget(subject.attack, eps))
        fallen = fallen | {r.sample_id for r in rows if not is_recognised(r)}
        added += rows
        eps *= 2
    return added
