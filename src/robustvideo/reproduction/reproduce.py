"""`reproduce`: run a study, row by row, and write down what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robustvideo.attacks import Attack
from robustvideo.errors import InputError, RunConflict
from robustvideo.evaluation.crafting import Surrogate
from robustvideo.evaluation.evaluation import evaluate
from robustvideo.evaluation.metrics import Interval
from robustvideo.evaluation.suite import make_suite
from robustvideo.models import load_model
from robustvideo.purification import load_defense
from robustvideo.reproduction.outcomes import Recognised, compared, recognised, share
from robustvideo.reproduction.study import Claim, Column, Row, Study, merged
from robustvideo.storage import slug, write_text
from robustvideo.training.recipe import make_recipe
from robustvideo.training.trainer import train


@dataclass(frozen=True)
class RowResult:
    """What a row measured.

    Attributes:
        cells: accuracy by column; None where a column does not apply.
        clips: usable test clips.
        train_seconds: spent on updates over all epochs; None for a row that is not trained.
        epochs: how many there were.
    """

    cells: tuple[Interval | None, ...]
    clips: int
    train_seconds: float | None = None
    epochs: int = 0


@dataclass(frozen=True)
class ClaimResult:
    """What became of a claim.

    Attributes:
        claim: the claim.
        difference: accuracy of the better row minus that of the worse, averaged over the claim's columns.
        verdict: "reproduced" when the interval lies above 0, "contradicted" when below, else "undecided".
    """

    claim: Claim
    difference: Interval

    @property
    def verdict(self) -> str:
        if self.difference.low > 0:
            return "reproduced"
        return "contradicted" if self.difference.high < 0 else "undecided"


@dataclass
class Outcome:
    """A study's results so far.

    Attributes:
        rows: by key, in the study's order.
        claims: those whose rows are done.
    """

    rows: dict[str, RowResult] = field(default_factory=dict)
    claims: list[ClaimResult] = field(default_factory=list)


def reproduce(study: Study, out: Path, *, device: str = "cpu", quiet: bool = False) -> Outcome:
    """Train and measure every row of a study; the same call again continues where it stopped.

    Leaves ``out/<row>/train`` and ``out/<row>/run`` (ordinary training and evaluation runs) and ``out/study.json``.

    Args:
        study: what to do.
        out: new, empty, or the directory of the very same study.
        device: where models live.
        quiet: show no progress.

    Raises:
        InputError: a model, data set, attack or recipe that cannot be had.
        RunConflict: ``out`` holds another study or other files.
    """
    _start(study, out)
    weights: dict[str, Path] = {}
    outcome, verdicts = Outcome(), dict[str, dict[str, Recognised]]()
    for key, row in study.rows.items():
        folder = out / slug(key)
        seconds, epochs = None, 0
        if row.recipe is not None:
            weights[key], seconds, epochs = _trained(study, key, row, folder / "train", weights, quiet)
        verdicts[key] = _measured(study, key, row, folder / "run", weights, device, quiet)
        own = verdicts[key]
        cells = tuple(share(own[column.name]) if column.name in own else None for column in study.columns)
        clips = max(len(column) for column in own.values())
        outcome.rows[key] = RowResult(cells, clips, seconds, epochs)
        done = [c for c in study.claims if {c.better, c.worse} <= verdicts.keys()]
        outcome.claims = [ClaimResult(c, _difference(c, verdicts)) for c in done]
        write_text(out / "results.json", json.dumps(_plain(outcome), indent=2) + "\n")
    return outcome


def filled(spec: str, weights: dict[str, Path]) -> str:
    """A spec with every ``{key}`` replaced by the weights of that row.

    Raises:
        InputError: a row that comes later, or is not trained.
    """
    for key, path in weights.items():
        spec = spec.replace("{" + key + "}", str(path))
    if "{" in spec:
        raise InputError(f"{spec} refers to a row that is not trained before it.")
    return spec


def _trained(
    study: Study, key: str, row: Row, folder: Path, weights: dict[str, Path], quiet: bool
) -> tuple[Path, float, int]:
    assert row.recipe is not None
    content = merged({"title": f"{study.title}: {row.name}", **study.base}, row.recipe)
    content["model"] = filled(str(content.get("model", "")), weights)
    outcome = train(make_recipe(content, f"row {key}"), folder, quiet=quiet)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return outcome.weights, sum(line["seconds"] for line in lines), len(lines)


def _measured(
    study: Study, key: str, row: Row, folder: Path, weights: dict[str, Path], device: str, quiet: bool
) -> dict[str, Recognised]:
    """Column -> clip -> share of the column's attacks that the clip withstands."""
    chosen = study.evaluation
    own = weights.get(key)
    model = f"trained:{own}" if row.model is None else filled(row.model, weights)
    attacks = {column.name: _attacks(study, row, column) for column in study.columns if column.name not in row.skip}
    everything = list({attack.spec: attack for group in attacks.values() for attack in group}.values())
    surrogates = []
    if row.crafted_on is not None:
        spec = filled(row.crafted_on, weights)
        surrogates = [Surrogate(spec, load_model(spec, device=device), folder.parent / "crafted")]
    run = evaluate(
        model,
        chosen.data,
        everything,
        out=folder,
        batch_size=chosen.batch_size,
        save_clips=0,
        surrogates=surrogates,
        defenses=[load_defense(row.defense)] if row.defense != "none" else [None],
        title=f"{study.title}: {row.name}",
        device=device,
        quiet=quiet,
    )
    records = run.records()
    return {name: recognised(records, group) for name, group in attacks.items()}


def _attacks(study: Study, row: Row, column: Column) -> Sequence[Attack]:
    if not column.attacks:
        return []
    suite = make_suite(
        {
            "models": ["none"],
            "data": study.evaluation.data,
            "attacks": column.attacks,
            "eps": [row.eps or 8 / 255],
            "seed": study.evaluation.seed,
            "precision": study.evaluation.precision,
        },
        f"column {column.name}",
    )
    return suite.build_attacks()


def _difference(claim: Claim, verdicts: dict[str, dict[str, Recognised]]) -> Interval:
    better = [verdicts[claim.better][name] for name in claim.columns]
    worse = [verdicts[claim.worse][name] for name in claim.against or claim.columns]
    return compared(better, worse)


def _start(study: Study, out: Path) -> None:
    manifest = out / "study.json"
    content = study.model_dump(mode="json", exclude_defaults=True)  # a key that a later version adds changes nothing
    if manifest.exists():
        known = json.loads(manifest.read_text(encoding="utf-8"))
        if known != content:
            changed = ", ".join(key for key in {**known, **content} if known.get(key) != content.get(key))
            raise RunConflict(f"{out} holds another study or scale (its {changed} differ): choose another --out.")
        return
    if out.exists() and any(out.iterdir()):
        raise RunConflict(f"{out} is not empty and holds no study: choose another --out.")
    write_text(manifest, json.dumps(content, indent=2) + "\n")


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "rows": {key: asdict(row) for key, row in outcome.rows.items()},
        "claims": [
            {"claim": result.claim.text, "difference": asdict(result.difference), "verdict": result.verdict}
            for result in outcome.claims
        ],
    }
