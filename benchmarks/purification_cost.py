"""Seconds and peak memory per clip of the purifiers by diffusion, at the VideoPure paper's settings.

    python benchmarks/purification_cost.py [--diffusion embedded:kinetic] [--device cpu]

One purification of a batch (DDPM 101 steps, the others t* = 6; the classifier is not part of it), and one exact
gradient through it, in fp32 and bf16, clip by clip and in a batch. Every measurement has a process of its own, which
purifies once to warm up; seconds are the median of the repeats. Memory is what that process peaked at above what it
held with its networks loaded: resident memory on a CPU, allocated memory on a GPU. ``--untrained`` takes a network of
random weights, which costs the same. The last lines are the ratio that the paper prints (its table X: 37.8 s to 8.5 s),
and the live memory of a gradient through few and through many steps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

MB = 2**20
GIVES_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""glibc returns what is freed: the peak is that of what is alive, not of what the allocator keeps."""
PURIFIERS = {
    "DiffPure, DDPM": "diffpure_ddpm({0})",
    "DiffPure, DDIM": "diffpure_ddim({0})",
    "DDIM inversion": "ddim_inversion({0})",
    "VideoPure": "videopure({0}, flow={1})",
}


def measured(spec: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak MB per batch of one purification, or of one gradient."""
    from robustvideo.clip import Clip
    from robustvideo.purification import load_defense

    torch.set_num_threads(options.threads)
    purifier = load_defense(spec)
    network = purifier.network()
    assert network is not None
    network.to(options.device).requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    video = torch.rand(options.batch, 3, options.frames, options.size, options.size, generator=random)
    clip = Clip(video.to(options.device))

    def run() -> None:
        with torch.set_grad_enabled(options.gradient):
            leaf = clip.video.clone().requires_grad_(options.gradient)
            answers = purifier.purify(clip.with_signal("video", leaf), purifier.seeds(clip), network)
            if options.gradient:
                torch.autograd.grad(sum(answer.video.sum() for answer in answers), leaf)
        if options.device != "cpu":
            torch.cuda.synchronize()

    before = _held(options.device)
    seconds = []
    for _ in range(1 + options.repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[1:] or seconds), "memory": (_peak(options.device) - before) / MB}


def _held(device: str) -> float:
    if device == "cpu":
        return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(device: str) -> float:
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.cuda.max_memory_allocated()


def in_a_process(spec: str, options: argparse.Namespace, **changes: Any) -> dict[str, float]:
    """`measured` in a new process."""
    settings = {**vars(options), **changes, "spec": spec}
    command = [sys.executable, __file__, "--one", json.dumps(settings)]
    environment = {**os.environ, **(GIVES_BACK if options.tight else {})}
    lines = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()
    return dict(json.loads(lines[-1]))


def untrained(folder: Path) -> str:
    """A file with an embedded network's architecture and random weights."""
    from safetensors.torch import save_file

    from robustvideo.models.video_diffusion import VideoDenoiser

    path = folder / "untrained.safetensors"
    save_file(
        {f"denoiser.{name}": tensor.contiguous() for name, tensor in VideoDenoiser().state_dict().items()}, str(path)
    )
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diffusion", default="embedded:kinetic")
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--flow", default="dis")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gradients", action="store_true", help="of DDPM as well, whose 101 steps take their time")
    parser.add_argument("--tight", action="store_true", help="count live memory alone, which takes longer")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        settings = argparse.Namespace(**json.loads(options.one))
        print(json.dumps(measured(settings.spec, settings)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = untrained(Path(folder)) if options.untrained else options.diffusion
        compare(model, options)


def compare(model: str, options: argparse.Namespace) -> None:
    """Print the table."""
    seconds: dict[tuple[str, str, int], float] = {}
    print(f"{options.frames} frames of {options.size} x {options.size}, {options.device}, {options.threads} threads")
    print("| purifier | precision | batch | s per clip | MB | gradient: s per clip | MB |")
    print("|---|---|---|---|---|---|---|")
    for name, pattern in PURIFIERS.items():
        for precision in options.precisions:
            spec = pattern.format(f"model='{model}', precision={precision}", options.flow)
            for batch in options.batches:
                forth = in_a_process(spec, options, batch=batch, gradient=False)
                seconds[name, precision, batch] = forth["seconds"] / batch
                line = f"| {name} | {precision} | {batch} | {forth['seconds'] / batch:.2f} | {forth['memory']:.0f} |"
                if "ddpm" in spec and not options.gradients:
                    print(f"{line} - | - |", flush=True)
                    continue
                back = in_a_process(spec, options, batch=batch, gradient=True)
                print(f"{line} {back['seconds'] / batch:.2f} | {back['memory']:.0f} |", flush=True)
    for precision in options.precisions:
        for batch in options.batches:
            ddpm, ours = (seconds[name, precision, batch] for name in ("DiffPure, DDPM", "VideoPure"))
            print(f"{precision}, batch {batch}: VideoPure is {ddpm / ours:.1f} x as fast as DDPM")
    tight = argparse.Namespace(**{**vars(options), "tight": True})
    for number in (3, 6, 12, 24):
        spec = f"videopure(model='{model}', flow={options.flow}, steps={number}, candidate=0)"
        memory = in_a_process(spec, tight, batch=1, gradient=True)["memory"]
        print(f"a gradient through {number} steps: {memory:.0f} MB")


if __name__ == "__main__":
    main()
