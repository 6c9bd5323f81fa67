"""Peak memory of attacking a long video with a 16-frame model, against that of a short one.

    python benchmarks/long_video.py --model torchvision:r3d_18 --size 112

Writes two videos of moving noise, runs `robustvideo attack --window 16` on each in a process of its own, and prints
the peak resident memory of both and their ratio.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from robustvideo.clip import Clip
from robustvideo.data.video_file import write_lossless


def peak_of_attack(frames: int, folder: Path, options: argparse.Namespace) -> float:
    """Peak resident memory in MB."""
    stream = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (1, 3, frames, options.size, options.size), generator=stream).float() / 255
    source = folder / f"{frames}.mkv"
    write_lossless(source, Clip(video), fps=25)
    command = [sys.executable, "-m", "robustvideo", "attack", str(source), "--model", options.model]
    command += ["--attack", options.attack, "--window", "16", "--out", str(folder / "out.mkv")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the attack on {frames} frames failed with status {status}")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="torchvision:r3d_18")
    parser.add_argument("--attack", default="pgd(steps=2, early_stop=false)")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 600])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peaks = [peak_of_attack(frames, Path(folder), options) for frames in options.frames]
    for frames, peak in zip(options.frames, peaks, strict=True):
        print(f"{frames} frames: {peak:.0f} MB, {peak / peaks[0]:.2f} x")


if __name__ == "__main__":
    main()
