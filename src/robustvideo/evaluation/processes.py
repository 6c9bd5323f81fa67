"""`Processes`: the processes of ``accelerate launch``, ``torchrun`` or ``srun`` share the items of an evaluation.

They meet at PyTorch's rendezvous store (the environment variables ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and
``MASTER_PORT`` say where), which is a shared counter here and nothing else: there is no process group, so no collective
that a slow process could hold up until it times out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container
from functools import cache
from itertools import count

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from robustvideo.evaluation.engine import MERGED_AT
from robustvideo.evaluation.records import merge_shards
from robustvideo.evaluation.runner import Runner
from robustvideo.progress import Advance

_LOOK = 0.05  # seconds between two looks at a counter

_calls = count()


def is_launched() -> bool:
    """Whether a launcher has started several processes of which this is one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@cache
def _store() -> tuple[Store, int, int]:
    """The store that all processes see, this one's number, and how many there are; met once per process."""
    return next(rendezvous("env://"))  # type: ignore[no-any-return]


class Processes:
    """Every process takes the next piece of work when it is done with its last.

    All processes must make the same evaluations in the same order. When one is killed, the launcher ends the others;
    started again, they go on with what is not on disk.
    """

    def __init__(self) -> None:
        store, self.rank, self.world = _store()
        self._store = PrefixStore(f"evaluation-{next(_calls)}", store)
        self._waits = count()

    @property
    def is_main(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has come here."""
        key = f"wait-{next(self._waits)}"
        self._reaches(f"{key}-come", self.world)
        self._store.add(f"{key}-gone", 1)
        if self.is_main:  # it may be the one that holds the store, and must not take it away
            self._reaches(f"{key}-gone", self.world, come=0)

    def run(self, runner: Runner, done: Container[str], advance: Advance) -> None:
        """Work on pieces until there are none left."""
        told = written = 0
        taken = self._store.add("taken", 1)
        for number, piece in enumerate(runner.portions(done, self.world), 1):
            if number < taken:
                continue
            for item in piece:
                runner.do(item)
                finished = self._store.add("clips", len(runner.members(item.batch)))
                advance(finished - told, item.title)
                told = finished
            written += len(piece)
            if self.is_main and written >= MERGED_AT:
                merge_shards(runner.out)
                written = 0
            taken = self._store.add("taken", 1)
        self.wait()
        advance(self._store.add("clips", 0) - told, "")

    def _reaches(self, key: str, number: int, come: int = 1) -> None:
        reached = self._store.add(key, come)
        while reached < number:
            time.sleep(_LOOK)
            reached = self._store.add(key, 0)
