"""Assembling the report: one self-contained HTML file from one or several run directories."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from robustvideo import __version__
from robustvideo.errors import InputError
from robustvideo.evaluation.metrics import norm_of, titled
from robustvideo.evaluation.records import Record, finished_items
from robustvideo.evaluation.run import Run, places, runs_in
from robustvideo.report import figures, tables, wording
from robustvideo.report.clips import FPS, Preview, choose, load_preview
from robustvideo.report.findings import Headline, cautions, difference_phrase, headline
from robustvideo.report.series import Budget, Series, load_series
from robustvideo.report.trust import trust_tables
from robustvideo.storage import is_local, place, write_text

CLIPS = 12
"""Saved clips that a page shows."""

_LEAST_CLIPS_EACH = 3


@dataclass(frozen=True)
class ShownClip:
    """A saved clip on the page.

    Attributes:
        series: where it belongs.
        record: its row.
        preview: its pictures; None when the files cannot be read.
        problem: why there is no preview.
        attack: the attack's title.
        true, before, after: names of the true class and of the two predictions.
    """

    series: Series
    record: Record
    preview: Preview | None
    problem: str
    attack: str
    true: str
    before: str
    after: str


@dataclass(frozen=True)
class Details:
    """One series in full.

    Attributes:
        series: which.
        rows: its results table.
        standing, losses: the convergence figures at the headline's budget.
        confusion: which class is taken for which.
        reencoding: whether the attacks survive it.
        budget: the budget of the last four, in words; empty without an attack.
    """

    series: Series
    rows: tuple[tables.BudgetRows, ...]
    standing: figures.Chart | None
    losses: tuple[figures.Chart, ...]
    confusion: figures.Confusion | None
    reencoding: tables.Reencoding | None
    budget: str


def build_report(runs: str | Path | Iterable[str | Path], out: str | Path | None = None) -> Path:
    """Write one self-contained page about one run, or one that compares several.

    The page needs no network and no file beside it; previews of saved clips are inside it.

    Args:
        runs: a run directory or several, or their addresses; unfinished ones are reported as far as they have come. Of
            a directory with the runs of several models, which `evaluate_suite` writes, these are compared.
        out: the file to write, or a directory for a ``report.html``. Default: ``report.html`` in the directory, or
            ``comparison.html`` beside the first of several.

    Returns:
        The file.

    Raises:
        InputError: no run, or a directory that is not one.
        RunConflict: a run written by a newer version.
        RobustVideoError: the page cannot be written.
    """
    given = places(runs)
    if not given:
        raise InputError("There is no run to report: give at least one run directory.")
    if out is None:
        page = given[0] / "report.html" if len(given) == 1 else given[0].resolve().parent / "comparison.html"
    else:
        page = place(out)
        page = page / "report.html" if page.is_dir() else page
    write_text(page, render(load_series(runs_in(given)), page.parent))
    return page


def render(series: Sequence[Series], folder: Path) -> str:
    """The page's text.

    Args:
        series: what to show, at least one.
        folder: where the page will lie; links to the raw data are relative to it.
    """
    summary = headline(series)
    return fill(
        "report.html.j2",
        title=_title(series),
        headline=summary,
        trust=trust_tables(series),
        series=series,
        single=series[0] if len(series) == 1 else None,
        runs=[_run_facts(run, series, folder) for run in _runs(series)],
        overviews=tables.overviews(series, summary.budget),
        comparison=tables.comparison(series),
        transfers=tables.transfers(series, summary.budget),
        curves=figures.budget_charts(series),
        details=[_details(one, summary) for one in series],
        cautions=cautions(series),
        clips=_shown_clips(series, summary.budget),
        saved=sum(int(((s.rows.clip_file != "") & (s.rows.status == "ok")).sum()) for s in series),
        fps=FPS,
    )


def fill(template: str, *, title: str, **values: Any) -> str:
    """A whole page from a template that extends ``shell.html.j2``.

    Args:
        template: its file name.
        title: of the page.
        values: what else the template names.
    """
    script = _asset("report.js")
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            style=Markup(_asset("style.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            version=__version__,
            **values,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bounds": wording.bounds,
        "day": wording.day,
        "defense": wording.defense_name,
        "difference": difference_phrase,
        "duration": wording.duration,
        "figure": wording.figure,
        "magnitude": wording.magnitude,
        "norm": wording.norm_name,
        "number": wording.number,
        "percent": wording.percent,
        "tenths": wording.tenths,
        "base64": lambda data: base64.b64encode(data).decode(),
    }
    environment.globals |= {"budget": wording.budget, "infinity": math.inf, "nan": math.nan, "norm_of": norm_of}
    return environment


def _asset(name: str) -> str:
    return (files("robustvideo.report") / "templates" / name).read_text(encoding="utf-8")


def _title(series: Sequence[Series]) -> str:
    titles = dict.fromkeys(s.run.manifest.title for s in series)
    return next(iter(titles)) if len(titles) == 1 else "Robustness comparison"


def _runs(series: Sequence[Series]) -> list[Run]:
    return list({s.run.path: s.run for s in series}.values())


def _run_facts(run: Run, series: Sequence[Series], folder: Path) -> Mapping[str, Any]:
    own = [s for s in series if s.run.path == run.path]
    manifest = run.manifest
    raw = str(run.path)
    if is_local(run.path) and is_local(folder):
        raw = quote(os.path.relpath(run.path.resolve(), folder.resolve()).replace(os.sep, "/"))
    return {
        "manifest": manifest,
        "name": run.path.resolve().name,
        "names": [s.name for s in own],
        "model": str(manifest.model.get("spec", "")) or "unknown model",
        "data": str(manifest.data.get("spec", "")) or "unknown data",
        "parameters": manifest.model.get("parameters"),
        "classes": len(own[0].labels),
        "input": _input_size(manifest.model),
        "clips": max(s.clips for s in own),
        "unusable": len({clip for s in own for clip in s.rows.sample_id[s.rows.status != "ok"]}),
        "shards": len(finished_items(run.path)),
        "defenses": [s.defense for s in own],
        "attacks": list(dict.fromkeys(a.title for s in own for a in s.attacked)),
        "budgets": list(dict.fromkeys((a.eps, a.norm) for s in own for a in s.attacked)),
        "device": str(manifest.environment.get("device", "")),
        "command": reproduction(run),
        "configuration": json.dumps(manifest.configuration, indent=2, ensure_ascii=False),
        "manifest_link": f"{raw}/run.json",
        "records_link": f"{raw}/records/",
    }


def reproduction(run: Run) -> str:
    """The command that makes the run again: the one it was started with, else one put together from its manifest.

    Empty for a model or data that only Python knows.
    """
    if run.manifest.command:
        return run.manifest.command
    configuration = run.manifest.configuration
    model, data = (str(configuration.get(key, "")) for key in ("model", "data"))
    if ":" not in model or ":" not in data:
        return ""
    words = ["robustvideo", "evaluate", "--model", model, "--data", data]
    for attack in configuration.get("attacks", []):
        words += ["--attack", str(attack)]
    return shlex.join([*words, "--out", run.path.name])


def _input_size(model: Mapping[str, Any]) -> str:
    frames, size = model.get("frames"), model.get("size")
    side = " \u00d7 ".join(str(s) for s in size) if isinstance(size, list | tuple) else str(size or "")
    return ", ".join([*([f"{frames} frames"] if frames else []), *([f"{side} pixels"] if side else [])])


def _details(one: Series, summary: Headline) -> Details:
    chosen = summary.budget if summary.budget in one.unions else next(iter(one.unions), None)
    if chosen is None:
        return Details(one, (), None, (), None, None, "")
    return Details(
        series=one,
        rows=tables.budget_rows(one, chosen),
        standing=figures.standing_chart(one, chosen),
        losses=tuple(figures.loss_charts(one, chosen)),
        confusion=figures.confusion(one, chosen),
        reencoding=tables.reencoding(one, chosen),
        budget=f"{wording.norm_name(chosen[0])} {wording.budget(chosen[1], chosen[0])}",
    )


def _shown_clips(series: Sequence[Series], budget: Budget | None) -> list[ShownClip]:
    each = max(_LEAST_CLIPS_EACH, CLIPS // len(series))
    return [_shown(one, record) for one in series for record in choose(one, budget, each)]


def _shown(one: Series, record: Record) -> ShownClip:
    preview, problem = None, ""
    try:
        preview = load_preview(one.run.path, record)
    except InputError as error:
        problem = str(error)
    true, before, after = (
        wording.class_name(one.labels, index)
        for index in (record.label, record.clean_prediction, record.adversarial_prediction)
    )
    attack = titled(record.attack, record.surrogate)
    return ShownClip(one, record, preview, problem, attack, true, before, after)
