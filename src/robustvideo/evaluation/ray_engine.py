"""`RayActors`: the items of an evaluation on a Ray cluster, an actor per device."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Container, Iterator
from itertools import chain
from typing import Any

from robustvideo.errors import InputError, RobustVideoError
from robustvideo.evaluation.engine import MERGED_AT, describe
from robustvideo.evaluation.records import merge_shards
from robustvideo.evaluation.runner import Item, Runner
from robustvideo.model import device_of
from robustvideo.models.user_file import MODULE
from robustvideo.progress import Advance

try:
    import ray
    from ray.exceptions import RayActorError, RayTaskError
except ImportError as error:
    raise InputError("The engine 'ray' needs Ray: pip install 'robustvideo[ray]'.") from error

ATTEMPTS = 3
"""Workers that may be lost with the same piece of work before the run ends: then it is the piece that ends them."""

PATIENCE = 600.0
"""Seconds without any worker after which the run ends."""


class RayActors:
    """One actor per GPU of the cluster, or per CPU where there is none, each with the models in its memory.

    Connects to the cluster that ``RAY_ADDRESS`` names, or else starts one on this machine. An actor takes the next
    piece of work when it is done with its last. When an actor or its node is lost, its piece is tried again elsewhere,
    and another actor is asked for. The run directory, and what the data set reads, must be reachable from every node.

    Args:
        actors: how many; None for one per device.
    """

    is_main = True

    def __init__(self, actors: int | None = None):
        self._wanted = actors

    def wait(self) -> None:
        """Actors come and go; this process alone decides."""

    def run(self, runner: Runner, done: Container[str], advance: Advance) -> None:
        """Hand out pieces until all are done.

        Raises:
            RobustVideoError: what a worker raised, a piece that ends every worker, or no worker for ten minutes.
        """
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(log_to_driver=False, configure_logging=False)
        for name in [name for name in sys.modules if name.startswith(MODULE)]:
            ray.cloudpickle.register_pickle_by_value(sys.modules[name])
        resources = ray.cluster_resources()
        graphic = resources.get("GPU", 0) >= 1
        number = self._wanted or max(1, int(resources["GPU" if graphic else "CPU"]))
        home = str(device_of(next(iter(runner.models.values()))))
        runner.to("cpu")
        crew = _Crew(ray.put(runner), number, graphic)
        runner.to(home)
        try:
            _work(crew, runner, filter(None, runner.portions(done, number)), advance)
        finally:
            crew.dismiss()


def _work(crew: _Crew, runner: Runner, pieces: Iterator[list[Item]], advance: Advance) -> None:
    again: deque[list[Item]] = deque()
    lost: dict[str, int] = {}
    written = 0
    while True:
        for worker in crew.idle():
            piece = again.popleft() if again else next(pieces, None)
            if piece is None:
                break
            crew.give(worker, piece)
        if not crew.busy and not again:
            following = next(pieces, None)
            if following is None:
                return
            again.append(following)
            if crew.idle():
                continue
        piece, is_done = crew.result()
        if piece is None:
            continue
        if not is_done:
            name = piece[0].name
            lost[name] = lost.get(name, 0) + 1
            if lost[name] == ATTEMPTS:
                raise RobustVideoError(
                    f"{ATTEMPTS} workers were lost at {describe(piece[0])}, perhaps for want of memory: use a smaller "
                    "--batch-size in another --out; what was written before is intact."
                )
            again.append(piece)
            continue
        for item in piece:
            advance(len(runner.members(item.batch)), item.title)
        written += len(piece)
        if written >= MERGED_AT:
            merge_shards(runner.out)
            written = 0


class _Worker:
    """An actor: the runner on its device."""

    def __init__(self, runner: Runner, device: str):
        runner.to(device)
        self.runner = runner

    def ready(self) -> None:
        """Return when the models are in memory."""

    def work(self, piece: list[Item]) -> None:
        for item in piece:
            self.runner.do(item)


class _Crew:
    """The actors, and what each is at.

    Nothing is given to an actor before it is ready: one that waits for a device that never comes holds up nobody.
    """

    def __init__(self, runner: Any, number: int, graphic: bool):
        needs = {"num_gpus": 1} if graphic else {"num_cpus": 1}
        worker: Any = ray.remote(_Worker)
        self._hire: Callable[[], Any] = lambda: worker.options(**needs).remote(runner, "cuda" if graphic else "cpu")
        self._coming: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._at: dict[Any, tuple[Any, list[Item]]] = {}
        for _ in range(number):
            self._call()

    def _call(self) -> None:
        worker = self._hire()
        self._coming[worker.ready.remote()] = worker

    @property
    def busy(self) -> int:
        """Actors at work."""
        return len(self._at)

    def idle(self) -> list[Any]:
        """Actors without work."""
        return list(self._idle)

    def give(self, worker: Any, piece: list[Item]) -> None:
        """Let an idle actor work."""
        self._idle.remove(worker)
        self._at[worker.work.remote(piece)] = (worker, piece)

    def result(self) -> tuple[list[Item] | None, bool]:
        """Wait for whatever happens next: a piece that is done, or lost with its actor, or nothing but a new actor.

        Raises:
            RobustVideoError: what the actor raised, or nobody came.
        """
        happened, _ = ray.wait(list(chain(self._at, self._coming)), timeout=None if self._at else PATIENCE)
        if not happened:
            raise RobustVideoError(
                f"No Ray worker came in {PATIENCE:.0f} seconds: see `ray status`; what was written before is intact."
            )
        (future,) = happened
        worker, piece = self._at.pop(future, (None, None))
        worker = worker or self._coming.pop(future)
        try:
            ray.get(future)
        except RayActorError:
            self._call()
            return piece, False
        except RayTaskError as error:
            raise error.cause from None
        self._idle.append(worker)
        return piece, True

    def dismiss(self) -> None:
        """End every actor."""
        for worker in (*self._idle, *self._coming.values(), *(worker for worker, _ in self._at.values())):
            ray.kill(worker)
