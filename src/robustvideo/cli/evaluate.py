"""``robustvideo evaluate``: attack a model on a data set and write a report."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from robustvideo.evaluation.metrics import AttackSummary
    from robustvideo.evaluation.run import Run
    from robustvideo.evaluation.suite import Suite
    from robustvideo.report.series import Series


class Engine(StrEnum):
    """Who works on the evaluation."""

    local = "local"
    ray = "ray"


def evaluate(
    suite: Annotated[Path | None, typer.Argument(help="A suite in YAML. Options override what it says.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Model spec; repeat for several.")] = None,
    data: Annotated[str | None, typer.Option(help="Data spec.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Attack spec; repeat for several.")] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(help="Purifier in front of every model; repeat for several, none is the model as it is."),
    ] = None,
    eps: Annotated[
        list[str] | None, typer.Option(help="Budget for attacks that name none, e.g. 8/255; repeat.")
    ] = None,
    transfer_from: Annotated[
        list[str] | None,
        typer.Option(
            help="Craft on this model (or several: A + B), by all steps, test on the others; repeat for a matrix."
        ),
    ] = None,
    codec: Annotated[
        list[str] | None, typer.Option(help="Classify again after re-encoding, e.g. h264:23 or mjpeg:5; repeat.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Run directory, or an address (s3://bucket/run). Default: runs/, named after what is run."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Clips per batch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seeds every random draw.")] = None,
    precision: Annotated[str | None, typer.Option(help="Gradient passes in fp32, bf16 or fp16.")] = None,
    save_clips: Annotated[int | None, typer.Option(min=0, help="Clips whose videos are kept and shown.")] = None,
    trust: Annotated[
        bool | None,
        typer.Option(
            "--trust/--no-trust",
            help="Examine whether the numbers may be believed, on a few clips. Default: where there is a defence.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the report.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    engine: Annotated[
        Engine, typer.Option(help="local: this process, or those of torchrun; ray: a Ray cluster.")
    ] = Engine.local,
    strict: Annotated[bool, typer.Option(help="Stop at the first clip that cannot be read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Attack a model on a data set, and write a run directory with a report.

    Without arguments it runs the embedded demo (two minutes on two cores). The same command again continues an
    interrupted run. Several processes share the work under `torchrun` or `accelerate launch`.

    **Examples**

    `robustvideo evaluate`

    `robustvideo evaluate --model 'torchvision:r3d_18?weights=KINETICS400_V1' --data 'folder:clips?frames=16&size=112'`

    `robustvideo evaluate --model file:my_model.py:build --data 'manifest:clips.csv?frames=20&size=128'
    --attack 'pgd(eps=4/255)' --attack 'pgd(eps=8/255, steps=20)' --out runs/mine`

    `robustvideo evaluate --model embedded:r3d --data embedded:kinetic --defense none --defense 'jpeg(quality=50)'`

    `robustvideo evaluate suite.yaml --device cuda --precision bf16`

    `torchrun --nproc-per-node 8 -m robustvideo evaluate suite.yaml --out runs/large`
    """
    from robustvideo.cli.device import resolve
    from robustvideo.cli.untrained import warn_of_untrained
    from robustvideo.errors import InputError
    from robustvideo.evaluation.engine import load_engine
    from robustvideo.evaluation.evaluation import evaluate_suite
    from robustvideo.evaluation.suite import default_suite, load_suite, make_suite
    from robustvideo.report import build_report
    from robustvideo.report.series import load_series
    from robustvideo.spec import parse_value
    from robustvideo.storage import is_local, place

    given = {
        "models": model or None,
        "data": data,
        "attacks": attack or None,
        "defenses": defense or None,
        "eps": [parse_value(e) for e in eps] if eps else None,
        "transfer_from": transfer_from or None,
        "codecs": codec or None,
        "batch_size": batch_size,
        "seed": seed,
        "precision": precision,
        "save_clips": save_clips,
        "title": title,
        "trust": trust,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if suite is not None:
        base = load_suite(suite).model_dump()
    elif model or data:
        base = {"attacks": ["noise", "fgsm", "pgd(steps=20)"]}
    else:
        base = default_suite().model_dump()
    chosen = make_suite({**base, **changes}, "The command line")
    folder = place(out) if out else Path("runs") / _default_name(suite, chosen)
    if is_local(folder) and folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file: name a folder, new or of the same run.")
    command = shlex.join(["robustvideo", *sys.argv[1:]])
    if os.environ.get("RANK", "0") == "0":  # of several processes, one tells
        warn_of_untrained(*chosen.models, *chosen.transfer_from)
        if eps and not chosen.uses_eps:
            reason = "every attack names its own budget, or has one of another unit"
            print(f"Warning: --eps {', '.join(eps)} changes nothing: {reason}.", file=sys.stderr)
    runs = evaluate_suite(
        chosen,
        folder,
        device="cpu" if engine is Engine.ray and device == "auto" else resolve(device),
        strict=strict,
        command=command,
        engine=engine.value,
    )
    if not load_engine(engine.value).is_main:
        return
    tell_of_unusable([run.path for run in runs])
    page = build_report([run.path for run in runs], folder / "report.html")
    series = load_series([run.path for run in runs])
    print_summary(series, as_json=as_json)
    warn_of_doubts(series)
    if not as_json:
        print_trust([run.path for run in runs])
        print(f"\nReport: {page}")


def tell_of_unusable(runs: list[Path]) -> None:
    """Say on stderr how many clips of each run count nowhere, and why the first does not.

    Raises:
        InputError: a run has no other clips, so there is nothing to tell of it.
    """
    from robustvideo.errors import InputError
    from robustvideo.evaluation.run import open_run

    told = set()
    for path in runs:
        run = open_run(path)
        rows, data = run.columns(), run.manifest.data
        lost = rows.where(rows.status != "ok")
        if not len(lost):
            continue
        reason = f"the first, {lost.sample_id[0]}: {str(lost.message[0]).rstrip('.') or 'no message'}"
        if len(lost) == len(rows):
            raise InputError(f"None of the {data.get('clips')} clips of {data.get('spec')} could be read; {reason}.")
        count = len(set(lost.sample_id))
        sentence = f"{count} of {data.get('clips')} clips could not be read and count nowhere; {reason}."
        if sentence not in told:
            print(f"Warning: {sentence}", file=sys.stderr)
        told.add(sentence)


def _default_name(path: Path | None, suite: Suite) -> str:
    from robustvideo.evaluation.suite import default_suite
    from robustvideo.spec import format_value
    from robustvideo.storage import slug

    if path is not None:
        return path.stem
    if suite == default_suite():
        return "demo"
    eps = format_value(suite.eps)  # 8/255, not its decimals
    return slug(f"{'-'.join(suite.models)} {suite.data} {suite.attacks} {suite.defenses} {eps} {suite.seed}")


def print_summary(series: Sequence[Series], *, as_json: bool) -> None:
    """Print robust accuracy per attack and budget, a table per model.

    As JSON, every row has the grades of the trust checks, and what weakens its number (`report.findings.cautions`).
    """
    import json
    from dataclasses import asdict
    from itertools import groupby

    from rich.box import HEAVY_HEAD
    from rich.console import Console
    from rich.table import Table

    from robustvideo.evaluation.trust import load_checks
    from robustvideo.report.findings import cautions, of_comparison
    from robustvideo.report.wording import bounds, percent
    from robustvideo.spec import format_value

    summaries = [(one.run, row) for one in series for row in one.summaries]
    if as_json:
        graded = {
            (path, defense): {check.name: check.grade for check in checks}
            for path in dict.fromkeys(one.run.path for one in series)
            for defense, checks in load_checks(path).items()
        }
        compared = list(of_comparison(series))
        doubted = {
            (one.run.path, one.defense): [asdict(caution) for caution in [*cautions([one]), *compared]]
            for one in series
        }
        rows = [
            {
                "model": run.manifest.model.get("spec", ""),
                **asdict(row),
                "trust": graded.get((run.path, row.defense)),
                "cautions": doubted[run.path, row.defense],
            }
            for run, row in summaries
        ]
        print(json.dumps(_finite(rows), indent=2, allow_nan=False))
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    for victim, group in groupby(summaries, lambda pair: _victim(*pair)):
        table = Table("attack", box=HEAVY_HEAD if sys.stdout.isatty() else None)
        for column in ("budget", "robust accuracy", "95 % interval", "clips", "forward + backward per clip"):
            table.add_column(column, justify="right")
        table.columns[0].overflow = "fold"  # the end of a long spec is what tells it from the next
        for _, row in group:
            table.add_row(
                row.title,
                format_value(row.eps),
                percent(row.robust_accuracy.estimate),
                bounds(row.robust_accuracy),
                str(row.clips),
                f"{row.forward_passes / max(row.clips, 1):.1f} + {row.backward_passes / max(row.clips, 1):.1f}",
            )
        console.print(f"\n{victim}", markup=False, highlight=False, soft_wrap=True)
        console.print(table)


def warn_of_doubts(series: Sequence[Series]) -> None:
    """Say on stderr what puts the numbers themselves in doubt: the serious cautions of the report."""
    from robustvideo.report.findings import cautions

    for caution in cautions(series):
        if caution.serious:
            said = " ".join(part for part in (f"{caution.title}.", caution.text, *caution.details) if part)
            print(f"Warning: {said}", file=sys.stderr)


def print_trust(runs: list[Path]) -> None:
    """Print the lines of the trust checks that do not pass; nothing for runs that were not examined."""
    from robustvideo.evaluation.run import open_run
    from robustvideo.evaluation.trust import load_checks

    for path in runs:
        model = str(open_run(path).manifest.model.get("spec", ""))
        for defense, checks in load_checks(path).items():
            doubts = [check for check in checks if check.grade in ("warn", "fail")]
            passed = sum(check.grade == "pass" for check in checks)
            print(f"\nTrust in {_defended(model, defense)}: {passed} of {passed + len(doubts)} applicable checks pass.")
            for check in doubts:
                print(f"  {check.grade}: {check.name}. {check.meaning}")


def _victim(run: Run, row: AttackSummary) -> str:
    return _defended(str(run.manifest.model.get("spec", "")), row.defense)


def _defended(model: str, defense: str) -> str:
    return model if defense == "none" else f"{model} behind {defense}"


def _finite(value: Any) -> Any:
    """A value as JSON knows it: what is not a finite number becomes null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
