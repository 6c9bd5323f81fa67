"""`reproduce`: run a study, row by row, and write down what came out."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
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
from robustvideo.reproduction.outcomes import MEASURES, Values, cell, compared, in_common, measured
from robustvideo.reproduction.study import Claim, Column, Network, Row, Setting, Study, merged
from robustvideo.storage import slug, write_text
from robustvideo.training.recipe import make_recipe
from robustvideo.training.trainer import train


@dataclass(frozen=True)
class RowResult:
    """What a row measured.

    Attributes:
        cells: what was measured, by column; None where a column does not apply.
        clips: usable test clips.
        epoch_seconds: the median epoch's updates (the first may also decode); None for a row that is not trained.
        epochs: how many there were.
    """

    cells: tuple[Interval | None, ...]
    clips: int
    epoch_seconds: float | None = None
    epochs: int = 0


@dataclass(frozen=True)
class ClaimResult:
    """What became of a claim.

    Attributes:
        claim: the claim.
        difference: by how much the better rows are better, averaged over rows and the claim's columns.
        verdict: "reproduced" when the interval lies above 0 (or minus the claim's margin), "contradicted" when below,
            else "undecided".
        clips: how many clips the difference is over.
    """

    claim: Claim
    difference: Interval
    clips: int = 0

    @property
    def verdict(self) -> str:
        if self.difference.low > -self.claim.margin:
            return "reproduced"
        return "contradicted" if self.difference.high < -self.claim.margin else "undecided"


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

    Leaves ``out/<row>/train`` and ``out/<row>/run`` (ordinary training and evaluation runs) and ``out/study.json``;
    trainings that are shared lie beside ``out``, in ``trained``.

    Args:
        study: what to do.
        out: new, empty, the directory of the very same study, or of one that failed before it had any row.
        device: where models live.
        quiet: show no progress.

    Raises:
        InputError: a model, data set, attack or recipe that cannot be had.
        RunConflict: ``out`` holds another study or other files.
    """
    _start(study, out)
    weights: dict[str, str] = {}
    for key, given in study.given.items():
        if isinstance(given, str):
            weights[key] = given
        else:
            path, _, _ = _trained(study, key, given, out / slug(key), weights, quiet)
            weights[key] = f"trained:{path}"
    outcome, values = Outcome(), dict[str, dict[str, Values]]()
    for key in study.asked_by_columns:
        weights[key] = str(_trained(study, key, study.rows[key], out / slug(key), weights, quiet)[0])
    for key, row in study.rows.items():
        folder = out / slug(key)
        seconds, epochs = None, 0
        if row.recipe is not None:  # one that is done already costs nothing
            path, seconds, epochs = _trained(study, key, row, folder, weights, quiet)
            weights[key] = str(path)
        own = values[key] = _measured(study, key, row, folder, weights, device, quiet)
        cells = tuple(
            cell(own[column.name], MEASURES[column.measure]) if column.name in own else None for column in study.columns
        )
        clips = max((len(column) for column in own.values()), default=0)
        outcome.rows[key] = RowResult(cells, clips, seconds, epochs)
        done = [c for c in study.claims if {*c.better, *c.worse} <= values.keys()]
        outcome.claims = [_result(study, c, values) for c in done]
        write_text(out / "results.json", json.dumps(_plain(outcome), indent=2) + "\n")
    return outcome


def filled(spec: str, weights: dict[str, str]) -> str:
    """A spec with every ``{key}`` replaced by the weights of that row, or by what the study gives under it.

    Raises:
        InputError: a row that comes later, or is not trained.
    """
    for key, text in weights.items():
        spec = spec.replace("{" + key + "}", text)
    if "{" in spec:
        raise InputError(f"{spec} refers to a row that is not trained before it, and to nothing that is given.")
    return spec


def _trained(
    study: Study, key: str, row: Row | Network, folder: Path, weights: dict[str, str], quiet: bool
) -> tuple[Path, float, int]:
    assert row.recipe is not None
    name = row.name if isinstance(row, Row) else key
    content = merged({"title": row.share or f"{study.title}: {name}", **study.base}, row.recipe)
    content |= {name: filled(str(content.get(name, "")), weights) for name in ("model", "training") if name in content}
    recipe = make_recipe(content, f"row {key}")
    folder = folder / "train"
    if row.share is not None:
        folder = folder.parents[2] / "trained" / slug(f"{row.share} {recipe.digest()}")
    outcome = train(recipe, folder, quiet=quiet)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return outcome.weights, statistics.median(line["seconds"] for line in lines), len(lines)


def _measured(
    study: Study, key: str, row: Row, folder: Path, weights: dict[str, str], device: str, quiet: bool
) -> dict[str, Values]:
    """Column -> clip -> value. Columns that share a model, a surrogate and a defence share a run."""
    groups: dict[Setting, list[Column]] = {}
    for column in study.columns:
        if column.name not in row.skip:
            groups.setdefault(_setting(key, row, column, weights), []).append(column)
    values: dict[str, Values] = {}
    for setting, columns in groups.items():
        own = setting == _setting(key, row, Column(name=""), weights)
        run = folder / ("run" if own else slug(setting.model_dump_json(exclude_none=True)))
        values |= _group(study, row, setting, columns, run, weights, device, quiet)
    return {column.name: values[column.name] for column in study.columns if column.name in values}


def _setting(key: str, row: Row, column: Column, weights: dict[str, str]) -> Setting:
    """The model, surrogate and defence of a cell."""
    trained = f"trained:{weights[key]}" if row.recipe is not None else None
    model, crafted_on = column.model or row.model or trained, column.crafted_on or row.crafted_on
    return Setting(
        model=None if model is None else filled(model, weights),
        crafted_on=None if crafted_on in (None, "none") else filled(crafted_on, weights),
        defense=_defense(row, column, weights),
    )


def _defense(row: Row, column: Column, weights: dict[str, str]) -> str:
    """The spec of a cell's defence, with the gradient that the cell says."""
    spec, gradient = filled(column.defense or row.defense or "none", weights), column.gradient or row.gradient
    if spec == "none" or gradient is None:
        return spec
    return replace(load_defense(spec), gradient=None if gradient == "none" else gradient).spec


def _group(
    study: Study,
    row: Row,
    setting: Setting,
    columns: Sequence[Column],
    folder: Path,
    weights: dict[str, str],
    device: str,
    quiet: bool,
) -> dict[str, Values]:
    attacks = {column.name: _attacks(study, row, column, weights) for column in columns}
    everything = list({attack.spec: attack for group in attacks.values() for attack in group}.values())
    surrogates = []
    if setting.crafted_on is not None:
        # what a surrogate crafts does not depend on the row
        surrogate = load_model(setting.crafted_on, device=device)
        surrogates = [Surrogate(setting.crafted_on, surrogate, folder.parents[1] / "crafted")]
    assert setting.model is not None
    assert setting.defense is not None
    run = evaluate(
        setting.model,
        study.evaluation.data,
        everything,
        out=folder,
        batch_size=study.evaluation.batch_size,
        save_clips=0,
        surrogates=surrogates,
        defenses=[None if setting.defense == "none" else load_defense(setting.defense)],
        title=f"{study.title}: {row.name}",
        device=device,
        quiet=quiet,
    )
    records = run.records()
    return {c.name: measured(records, attacks[c.name], MEASURES[c.measure]) for c in columns}


def _attacks(study: Study, row: Row, column: Column, weights: dict[str, str]) -> Sequence[Attack]:
    specs = row.attacks if column.attacks is None else column.attacks
    if not specs:
        return []
    suite = make_suite(
        {
            "models": ["none"],
            "data": study.evaluation.data,
            "attacks": [filled(spec, weights) for spec in specs],
            "eps": [column.eps or row.eps or study.evaluation.eps],
            "seed": study.evaluation.seed,
            "precision": study.evaluation.precision,
        },
        f"column {column.name}",
    )
    return suite.build_attacks()


def _result(study: Study, claim: Claim, values: dict[str, dict[str, Values]]) -> ClaimResult:
    better = [values[key][name] for key in claim.better for name in claim.columns]
    worse = [values[key][name] for key in claim.worse for name in claim.against or claim.columns]
    measure = next(c.measure for c in study.columns if c.name == claim.columns[0])
    return ClaimResult(claim, compared(better, worse, MEASURES[measure]), len(in_common(better, worse)))


def _start(study: Study, out: Path) -> None:
    manifest = out / "study.json"
    content = study.model_dump(mode="json", exclude_defaults=True)  # a key that a later version adds changes nothing
    if manifest.exists():
        known = json.loads(manifest.read_text(encoding="utf-8"))
        if known == content:
            return
        if any(path.is_file() and path != manifest for path in out.rglob("*")):
            changed = ", ".join(key for key in {**known, **content} if known.get(key) != content.get(key))
            raise RunConflict(f"{out} holds another study or scale (its {changed} differ): choose another --out.")
    elif out.exists() and any(out.iterdir()):
        raise RunConflict(f"{out} is not empty and holds no study: choose another --out.")
    write_text(manifest, json.dumps(content, indent=2) + "\n")


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "rows": {key: asdict(row) for key, row in outcome.rows.items()},
        "claims": [
            {
                "claim": result.claim.text,
                "difference": asdict(result.difference),
                "clips": result.clips,
                "verdict": result.verdict,
            }
            for result in outcome.claims
        ],
    }
