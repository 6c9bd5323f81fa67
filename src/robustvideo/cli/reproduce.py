"""``robustvideo reproduce``: a table of a paper, trained, measured, and set beside the paper's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    study: Annotated[Path, typer.Argument(help="A study in YAML, or the name of a packaged one: video_at/table1.")],
    scale: Annotated[str, typer.Option(help="smoke, embedded, small or full: see the study's file.")] = "smoke",
    out: Annotated[Path | None, typer.Option(help="Directory. Default: runs/, the study's name, the scale.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Reproduce a table of a paper at some scale, and write one page with its numbers beside ours.

    `smoke` takes minutes and shows that the machinery works; `embedded` and `small` are sized for two cores, on
    procedural clips and on a small real data set (in the folder that ROBUSTVIDEO_DATA names); `full` is the paper's
    own setting, for a GPU. The same command again continues an interrupted one.

    **Examples**

    `robustvideo reproduce video_at/table1`

    `ROBUSTVIDEO_DATA=data robustvideo reproduce video_at/table3 --scale small`
    """
    from robustvideo.cli.device import resolve
    from robustvideo.report.study import build_study_page
    from robustvideo.report.study_text import study_text
    from robustvideo.reproduction.reproduce import reproduce as run
    from robustvideo.reproduction.study import load_study
    from robustvideo.storage import write_text

    chosen = load_study(study, scale)
    folder = out or Path("runs") / f"{study.as_posix().replace('/', '-').removesuffix('.yaml')}-{scale}"
    outcome = run(chosen, folder, device=resolve(device))
    text = study_text(chosen, outcome)
    write_text(folder / "results.md", text)
    print(text)
    print(build_study_page(chosen, scale, outcome, folder / "report.html"))
