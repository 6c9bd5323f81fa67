"""The command line. One file per command; heavy libraries are imported when a command runs, not before."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from robustvideo.cli.attack import attack
from robustvideo.cli.corruption import corruption
from robustvideo.cli.evaluate import evaluate
from robustvideo.cli.leaderboard import leaderboard
from robustvideo.cli.list import list_names
from robustvideo.cli.purify import purify
from robustvideo.cli.report import report
from robustvideo.cli.reproduce import reproduce
from robustvideo.cli.routing import routing
from robustvideo.cli.sweep import sweep
from robustvideo.cli.train import train
from robustvideo.errors import RobustVideoError


class _Group(TyperGroup):
    """Prints our own errors as one sentence; with ROBUSTVIDEO_DEBUG=1, with their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RobustVideoError as error:
            if os.environ.get("ROBUSTVIDEO_DEBUG"):
                raise
            print(f"Error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("Interrupted. Run the same command again to continue.", file=sys.stderr)
            raise SystemExit(130) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Measure and improve the adversarial robustness of video recognition models.",
)
app.command("evaluate")(evaluate)
app.command("report")(report)
app.command("leaderboard")(leaderboard)
app.command("train")(train)
app.command("attack")(attack)
app.command("purify")(purify)
app.command("reproduce")(reproduce)
app.command("sweep")(sweep)
app.command("corruption")(corruption)
app.command("routing")(routing)
app.command("list")(list_names)


@app.callback(invoke_without_command=True)
def _options(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from robustvideo import __version__

        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of the ``robustvideo`` command."""
    app()
