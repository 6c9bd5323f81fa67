"""Progress with an estimate of the time left: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, str], None]
"""``advance(units, note)``: that much more is done; the note says what is going on."""

_PLAIN_EVERY = 10.0  # seconds between plain lines


@contextmanager
def track(title: str, total: int, done: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """Show the progress of ``total`` units on standard error.

    Args:
        title: what is going on.
        total: units of work.
        done: units finished before (a resumed run); they do not count towards the speed.
        quiet: show nothing.
    """
    if quiet or total <= done:
        yield lambda units, note: None
    elif sys.stderr.isatty():
        with _bar(title, total, done) as advance:
            yield advance
    else:
        with _lines(title, total, done) as advance:
            yield advance


@contextmanager
def _bar(title: str, total: int, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=300) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        yield lambda units, note: progress.update(task, advance=units, note=note)


@contextmanager
def _lines(title: str, total: int, done: int) -> Iterator[Advance]:
    start = last = time.monotonic()
    finished = 0

    def advance(units: int, note: str) -> None:
        nonlocal finished, last
        finished += units
        now = time.monotonic()
        left = (total - done - finished) * (now - start) / max(finished, 1)
        if now - last >= _PLAIN_EVERY or done + finished >= total:
            last = now
            print(f"{title}: {done + finished}/{total}, {_clock(left)} left  {note}", file=sys.stderr, flush=True)

    yield advance


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
