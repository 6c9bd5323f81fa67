"""The command line. One file per command; heavy libraries are imported when a command runs, not before."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from robustvideo.cli.attack import attack
from robustvideo.cli.corruption import corruption
from robustvideo.cli.evaluate import evaluate
from robustvideo.cli.leaderboard import leaderboard
from robustvideo.cli.list import list_names
from robustvideo.cli.memory import keep_freed_memory
from robustvideo.cli.purify import purify
from robustvideo.cli.report import report
from robustvideo.cli.reproduce import reproduce
from robustvideo.cli.routing import routing
from robustvideo.cli.sentence import in_one_sentence, warn_in_one_sentence
from robustvideo.cli.sweep import sweep
from robustvideo.cli.train import train
from robustvideo.errors import InputError

_CONTINUING = {"evaluate", "reproduce", "sweep", "train"}
"""Commands that go on where they were interrupted; the others start over."""


class _Group(TyperGroup):
    """Prints our own errors as one sentence; with ROBUSTVIDEO_DEBUG=1, with their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            sentence = in_one_sentence(error)
            if sentence is None or os.environ.get("ROBUSTVIDEO_DEBUG"):
                raise
            print(f"Error: {sentence}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            goes_on = ctx.invoked_subcommand in _CONTINUING
            then = "to continue" if goes_on else "to start over; nothing was written"
            print(f"Interrupted. Run the same command again {then}.", file=sys.stderr)
            raise SystemExit(130) from None


class _Command(TyperCommand):
    """Refuses an option given twice where only one counts, instead of forgetting the first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=args[:])
        for number, option in enumerate(given):
            if option in given[:number] and not getattr(option, "multiple", False):
                raise InputError(f"{option.opts[0]} is given twice, and this command takes one.")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Measure and improve the adversarial robustness of video recognition models.\n\n"
    "What goes wrong is said in one sentence; with `ROBUSTVIDEO_DEBUG=1` in the environment, with its traceback.",
)
app.command("evaluate", cls=_Command)(evaluate)
app.command("report", cls=_Command)(report)
app.command("leaderboard", cls=_Command)(leaderboard)
app.command("train", cls=_Command)(train)
app.command("attack", cls=_Command)(attack)
app.command("purify", cls=_Command)(purify)
app.command("reproduce", cls=_Command)(reproduce)
app.command("sweep", cls=_Command)(sweep)
app.command("corruption", cls=_Command)(corruption)
app.command("routing", cls=_Command)(routing)
app.command("list", cls=_Command)(list_names)


@app.callback(invoke_without_command=True)
def _options(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from robustvideo import __version__

        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of the ``robustvideo`` command."""
    keep_freed_memory()
    warn_in_one_sentence()
    app()
