"""``robustvideo report``: one page from one run, or a comparison of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[str], typer.Argument(help="Run directories or addresses; several make a comparison.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The page. Default: report.html in the directory, or comparison.html beside several."),
    ] = None,
) -> None:
    """Write one self-contained page that opens offline in any browser.

    A directory with the runs of several models stands for its runs. One of `robustvideo train` gives a page about the
    training.

    **Examples**

    `robustvideo report runs/mine`

    `robustvideo report runs/plain runs/hardened --out comparison.html`
    """
    from robustvideo.report import build_report
    from robustvideo.report.training import build_training_page, is_training
    from robustvideo.storage import place

    places = [place(run) for run in runs]
    if len(places) == 1 and is_training(places[0]):
        print(build_training_page(places[0], out))
    else:
        print(build_report(places, out))
