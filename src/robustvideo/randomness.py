"""Per-clip random numbers: a clip draws the same values alone, in any batch, order or process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def seed_for(*parts: object) -> int:
    """A 63-bit seed from any printable parts, e.g. ``seed_for(run_seed, clip_id, restart)``."""
    digest = hashlib.blake2b("\x1f".join(str(p) for p in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class ClipRandom:
    """One random stream per clip of a batch.

    Values are always drawn in float32 on the CPU and then moved and cast, so that a clip sees the same draws in
    float32 and float64, on a CPU and on a GPU. The global random state is never touched.

    Args:
        seeds: one seed per clip (see `seed_for`).
    """

    def __init__(self, seeds: Iterable[int]):
        self._streams = [torch.Generator().manual_seed(s) for s in seeds]

    def __len__(self) -> int:
        return len(self._streams)

    def select(self, index: Sequence[int]) -> ClipRandom:
        """The streams of some of the clips; they go on where they are."""
        chosen = ClipRandom(())
        chosen._streams = [self._streams[i] for i in index]
        return chosen

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform on [0, 1), in the shape (B, ...), type and device of ``like``."""
        return self._draw(like, torch.rand)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, in the shape (B, ...), type and device of ``like``."""
        return self._draw(like, torch.randn)

    def integers(self, low: int, high: int, count: int = 1) -> Tensor:
        """Integers in [low, high), as a (B, count) int64 tensor on the CPU."""
        rows = [torch.randint(low, high, (count,), generator=g) for g in self._streams]
        return torch.stack(rows) if rows else torch.empty((0, count), dtype=torch.long)

    def _draw(self, like: Tensor, sample: object) -> Tensor:
        assert callable(sample)
        if len(like) != len(self._streams):
            raise ValueError(f"{len(self._streams)} random streams cannot fill a batch of {len(like)}")
        out = torch.empty(like.shape, dtype=torch.float32)
        for row, stream in zip(out, self._streams, strict=True):
            row.copy_(sample(like.shape[1:], generator=stream))
        return out.to(device=like.device, dtype=like.dtype)
