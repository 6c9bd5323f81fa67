"""``robustvideo reproduce``: tables of papers, trained, measured, and set beside the papers' numbers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustvideo.errors import InputError, RobustVideoError

if TYPE_CHECKING:
    from robustvideo.report.studies import Attempt
    from robustvideo.reproduction.reproduce import Outcome
    from robustvideo.reproduction.study import Study


def reproduce(
    study: Annotated[
        Path | None,
        typer.Argument(
            help="A study in YAML, or the name of a packaged one: video_at/table1. A folder of studies, or a packaged "
            "one such as video_at: all of them.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every packaged study.")] = False,
    scale: Annotated[str, typer.Option(help="smoke, embedded, small or full: see the study's file.")] = "smoke",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory; of several studies, that of all their directories and of the index page. "
            "Default: runs/, with a directory per study, of its name and scale.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Reproduce a table of a paper at some scale, and write one page with its numbers beside ours.

    `smoke` takes minutes and shows that the machinery works; `embedded` and `small` are sized for two cores, on
    procedural clips and on a small real data set (in the folder that ROBUSTVIDEO_DATA names); `full` is the paper's
    own setting, for a GPU. The same command again continues an interrupted one.

    Several studies run one after another; one that fails stops no other, and makes the command fail at its end. An
    `index.html` leads to their pages.

    **Examples**

    `robustvideo reproduce video_at/table1`

    `ROBUSTVIDEO_DATA=data robustvideo reproduce video_at/table3 --scale small`

    `robustvideo reproduce video_at --out runs/video_at`

    `robustvideo reproduce --all --scale smoke`
    """
    if (study is None) != everything:
        raise InputError("Name one study or one folder of studies, or else say --all for every packaged study.")
    from robustvideo.cli.device import resolve
    from robustvideo.reproduction.study import load_study, studies_in

    names, device = studies_in(study), resolve(device)
    if study is not None and not names:
        _run(load_study(study, scale), scale, out or Path("runs") / _folder(study, scale), device)
    elif not _run_each(names, scale, out or Path("runs"), device):
        raise typer.Exit(1)


def _folder(name: Path, scale: str) -> str:
    return f"{name.as_posix().replace('/', '-').removesuffix('.yaml')}-{scale}"


def _run(study: Study, scale: str, folder: Path, device: str) -> Outcome:
    """Run one study, and print and write what came out."""
    from robustvideo.report.study import build_study_page
    from robustvideo.report.study_text import study_text
    from robustvideo.reproduction.reproduce import reproduce as run
    from robustvideo.storage import write_text

    outcome = run(study, folder, device=device)
    text = study_text(study, outcome)
    write_text(folder / "results.md", text)
    print(text)
    print(build_study_page(study, scale, outcome, folder / "report.html"))
    return outcome


def _run_each(names: Sequence[Path], scale: str, parent: Path, device: str) -> bool:
    """Run studies one after another, each in a folder below ``parent``; whether all of them came to an end."""
    from robustvideo.report.studies import build_studies_page, studies_text

    attempts: list[Attempt] = []
    for name in names:
        print(f"\n{name.as_posix()}", flush=True)
        attempts.append(_attempt(name, scale, parent, device))
        page = build_studies_page(attempts, scale, parent / "index.html")
    print(f"\n{studies_text(attempts)}\n\n{page}")
    return all(attempt.outcome for attempt in attempts)


def _attempt(name: Path, scale: str, parent: Path, device: str) -> Attempt:
    """Run one study of several, whatever becomes of it; with ROBUSTVIDEO_DEBUG=1 an error stops the others as well."""
    from robustvideo.report.studies import Attempt
    from robustvideo.reproduction.study import load_study

    start, folder = time.perf_counter(), _folder(name, scale)
    study, outcome, problem = None, None, ""
    try:
        study = load_study(name, scale)
        outcome = _run(study, scale, parent / folder, device)
    except Exception as error:
        if os.environ.get("ROBUSTVIDEO_DEBUG"):
            raise
        own = isinstance(error, RobustVideoError)
        problem = str(error) if own else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        print(f"Error: {problem}", file=sys.stderr)
    return Attempt(name.as_posix(), folder, time.perf_counter() - start, study, outcome, problem)
