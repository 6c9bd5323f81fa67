"""Engines: who works on the items of an evaluation.

What an item yields depends on the run's configuration alone, so an engine has only to see that every item is worked on
at least once. Its workers share nothing but the run directory, and divide the work by what it costs: each takes the
next piece when it is done with its last.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Literal, Protocol

from robustvideo.errors import unknown
from robustvideo.evaluation.records import merge_shards
from robustvideo.evaluation.runner import Item, Runner
from robustvideo.progress import Advance

MERGED_AT = 512
"""Shards of single work items that may lie in a run directory before they are merged."""

Name = Literal["local", "ray"]


class Engine(Protocol):
    """Somebody who works on the items of an evaluation."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes the manifest, merges, examines and reports."""

    def wait(self) -> None:
        """Return when every process of the run has come here."""

    def run(self, runner: Runner, done: Container[str], advance: Advance) -> None:
        """Return when every item is on disk.

        Args:
            runner: works on an item.
            done: names of the items that are on disk before any process starts.
            advance: is told of every item, in this process where it is the main one.
        """


class Alone:
    """This process does everything."""

    is_main = True

    def wait(self) -> None:
        """Nobody else is there."""

    def run(self, runner: Runner, done: Container[str], advance: Advance) -> None:
        """Work on one piece after another."""
        written = 0
        for piece in runner.portions(done):
            for item in piece:
                runner.do(item)
                advance(len(runner.members(item.batch)), item.title)
            written += len(piece)
            if written >= MERGED_AT:
                merge_shards(runner.out)
                written = 0


def load_engine(name: Name) -> Engine:
    """``local``: this process, with the others of ``accelerate launch`` or ``torchrun`` where one of these started it;
    ``ray``: the actors of a Ray cluster.

    Raises:
        InputError: no such engine, or Ray is not installed.
    """
    if name == "ray":
        from robustvideo.evaluation.ray_engine import RayActors

        return RayActors()
    if name != "local":
        raise unknown("engine", name, ["local", "ray"])
    from robustvideo.evaluation.processes import Processes, is_launched

    return Processes() if is_launched() else Alone()


def describe(item: Item) -> str:
    """An item in an error message."""
    return f"batch {item.batch}, {item.title}"
