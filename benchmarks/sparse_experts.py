"""What running only the chosen experts saves: a sparse mixture against the dense one, in time and in GFLOPs.

    python benchmarks/sparse_experts.py [--experts r3d_small r3d_18] [--batches 1 16] [--top 1] [--repeats 5]

Both have the same weights; the dense one runs all four experts on every clip (AT-D of the video MoE paper, whose
claim is a saving of more than 60 %). Clips are spread evenly over the experts, which is the sparse mixture's worst
case: a batch falls into as many small groups as there are experts. The variants run in turn, A B A B, after one
unmeasured round; the table shows medians, and the ratio is that of the paired rounds' median. GFLOPs are per clip, by
torch's own counter, which counts a multiplication and its addition as two. On a machine that others use as well,
compare processor time (--cpu-time, with --threads 1) instead of wall time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.model import Model
from robustvideo.models import load_model
from robustvideo.models.flops import gigaflops
from robustvideo.models.moe import MixtureOfExperts

EXTENTS = {"r3d_18": (8, 112, 112), "r2plus1d_18": (8, 112, 112), "slowfast_r50": (32, 112, 112)}
"""Frames, height and width of an expert's clips; the small networks take 16 frames of 48 x 48."""

EXPERTS = 4


class EvenRouter(Model):
    """A router that is run, and then overruled: clip i goes to expert i modulo their number."""

    def __init__(self, router: Model):
        super().__init__()
        self.router = router

    def forward(self, clip: Clip) -> Tensor:
        logits: Tensor = self.router(clip)
        places = torch.arange(len(clip), device=logits.device) % logits.shape[1]
        return logits + 100 * torch.nn.functional.one_hot(places, logits.shape[1]).to(logits.dtype)


def mixtures(expert: str, top: int) -> tuple[MixtureOfExperts, MixtureOfExperts]:
    """The sparse mixture and the dense one, which share their weights."""
    built = load_model(f"video_moe?expert={expert}&experts={EXPERTS}&top={top}")
    assert isinstance(built, MixtureOfExperts)
    experts: list[Model] = list(built.experts)  # type: ignore[arg-type]  # a ModuleList of models
    router = EvenRouter(built.router)
    return tuple(MixtureOfExperts(experts, router, k).eval() for k in (top, EXPERTS))  # type: ignore[return-value]


@torch.inference_mode()
def seconds(model: Model, clip: Clip, clock: Callable[[], float]) -> float:
    """Of one forward pass."""
    start = clock()
    model(clip)
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", nargs="*", default=["r3d_small", "r3d_18"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--top", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    print("| experts | clips | batch | sparse, s | dense, s | ratio | sparse, GFLOPs | dense, GFLOPs | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for expert in options.experts:
        frames, height, width = EXTENTS.get(expert, (16, 48, 48))
        pair = mixtures(expert, options.top)
        for batch in options.batches:
            random = torch.Generator().manual_seed(batch)
            clip = Clip(torch.rand(batch, 3, frames, height, width, generator=random))
            sparse_flops, dense_flops = (gigaflops(model, clip) for model in pair)  # the unmeasured round
            rounds = [[seconds(model, clip, clock) for model in pair] for _ in range(options.repeats)]
            sparse, dense = (statistics.median(own) for own in zip(*rounds, strict=True))
            ratio = statistics.median(a / b for a, b in rounds)
            print(
                f"| {EXPERTS} x {expert} | {frames}x{height}x{width} | {batch} | {sparse:.3f} | {dense:.3f} "
                f"| {ratio:.2f} | {sparse_flops:.3f} | {dense_flops:.3f} | {sparse_flops / dense_flops:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
