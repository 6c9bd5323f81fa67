"""``robustvideo leaderboard``: a static site that ranks models and defences from run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def leaderboard(
    runs: Annotated[list[str], typer.Argument(help="Finished run directories, or addresses.")],
    out: Annotated[Path, typer.Option(help="Folder of the site, new or an earlier one.")] = Path("leaderboard"),
) -> None:
    """Rank models and defences under every threat model, on a static site with a report of every run.

    Runs of the same weights, defence and clips make one entry, in which every attack counts. A run that is unfinished
    or damaged is refused. A directory with the runs of several models stands for its runs.

    **Examples**

    `robustvideo leaderboard runs/plain runs/hardened --out site`
    """
    from robustvideo.report.leaderboard import build_leaderboard
    from robustvideo.storage import place

    print(build_leaderboard([place(run) for run in runs], out))
