"""One gradient step with respect to the input: what each part of `gradient_twin` brings, network by network.

    python benchmarks/gradient_step.py [--networks r3d_18 ...] [--clips 2] [--threads 2] [--repeats 5] [--cpu-time]

A step is a forward pass, the cross-entropy of each clip, and its gradient with respect to the clip. The variants run
in turn, A B C A B C, after one unmeasured round; the table shows medians. "x" is the speed relative to the frozen
network in fp32, "cosine" the agreement of the clips' gradients with its. On a machine that others use as well, compare
processor time (--cpu-time, with --threads 1) instead of wall time.

On Linux, set THP_MEM_ALLOC_ENABLE=1 (torch's own switch for huge pages) to see what fetching fresh memory costs: of a
step of r3d_18 at 4 clips, 12 % in fp32 and 5 % in bf16.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.models import convolution, embedded, replacement
from robustvideo.models.acceleration import gradient_twin


class OfVideo(nn.Module):
    """A `Model` as a network that takes the tensor."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, video: Tensor) -> Tensor:
        return self.model(Clip(video))


def small() -> nn.Module:
    """Three strided 3-D convolutions."""
    widths = (3, 16, 32, 64)
    blocks = [
        nn.Sequential(nn.Conv3d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm3d(b), nn.ReLU())
        for a, b in pairwise(widths)
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(64, 8))


def named(name: str) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "small": (small, (16, 48, 48)),
    **{name: (lambda name=name: OfVideo(embedded.build(name)), (16, 48, 48)) for name in embedded.NAMES},
    **{name: (lambda name=name: named(name), (16, 112, 112)) for name in ("r3d_18", "mc3_18", "r2plus1d_18")},
    "swin3d_t": (lambda: named("swin3d_t"), (16, 112, 112)),
    "s3d": (lambda: named("s3d"), (16, 224, 224)),
    "mvit_v2_s": (lambda: named("mvit_v2_s"), (16, 224, 224)),
}
Step = Callable[[Tensor, Tensor], Tensor]


def step_of(network: nn.Module, bf16: bool = False) -> Step:
    def run(video: Tensor, labels: Tensor) -> Tensor:
        video = video.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(video)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        return torch.autograd.grad(loss, video)[0]

    return run


def with_parameter_gradients(network: nn.Module) -> Step:
    """What most attack libraries do: ``loss.backward()`` through a network that was never frozen."""
    network = copy.deepcopy(network).requires_grad_(True)

    def run(video: Tensor, labels: Tensor) -> Tensor:
        video = video.detach().requires_grad_()
        network.zero_grad()
        F.cross_entropy(network(video), labels, reduction="sum").backward()
        assert video.grad is not None
        return video.grad

    return run


def channels_last(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for parameter in network.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        elif parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


@contextmanager
def without(part: str) -> Iterator[None]:
    """Twins made here lack one part."""
    if part == "folding":
        with patch.object(replacement, "_fold", lambda *_: set()):
            yield
    else:
        with patch.object(convolution, "_differentiated_by", lambda operation, _, x: operation(x)):
            yield


def variants(network: nn.Module) -> dict[str, Step]:
    steps = {
        "fp32, parameter gradients too": with_parameter_gradients(network),
        "fp32": step_of(network),
        "fp32, channels last": step_of(channels_last(network)),
        "fp32, twin": step_of(gradient_twin(network, "fp32")),
        "bf16": step_of(network, bf16=True),
        "bf16, channels last": step_of(channels_last(network), bf16=True),
    }
    for part in ("folding", "rewritten gradients"):
        with without(part):
            steps[f"bf16, twin without {part}"] = step_of(gradient_twin(network, "bf16"), bf16=True)
    steps["bf16, twin"] = step_of(gradient_twin(network, "bf16"), bf16=True)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=["small", "r3d", "r3d_18"])
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    for name in options.networks:
        make, extent = NETWORKS[name]
        torch.manual_seed(0)
        network = make().eval().requires_grad_(False)
        video = torch.rand(options.clips, 3, *extent)
        labels = torch.zeros(options.clips, dtype=torch.long)
        steps = variants(network)
        gradients = {variant: step(video, labels).flatten(1) for variant, step in steps.items()}
        seconds: dict[str, list[float]] = {variant: [] for variant in steps}
        for _ in range(options.repeats):
            for variant, step in steps.items():
                start = clock()
                step(video, labels)
                seconds[variant].append(clock() - start)
        frozen = statistics.median(seconds["fp32"])
        extents = "x".join(map(str, extent))
        print(f"\n{name}, {options.clips} clips of {extents}, {options.threads} threads, frozen fp32 {frozen:.3f} s\n")
        print("| variant | x | cosine |")
        print("|---|---|---|")
        for variant, times in seconds.items():
            agreement = F.cosine_similarity(gradients[variant], gradients["fp32"], dim=1).mean()
            print(f"| {variant} | {frozen / statistics.median(times):.2f} | {agreement:.4f} |", flush=True)


if __name__ == "__main__":
    main()
