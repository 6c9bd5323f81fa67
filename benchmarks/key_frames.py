"""DeepSAVA: Bayesian optimisation against brute force, batched against clip by clip, and re-encoding of one frame.

    python benchmarks/key_frames.py [--clips 40] [--steps 100] [--threads 1] [--backbone resnet18] [--frames 40]

Three tables, all in processor time, which a busy machine hardly disturbs:

* how often BO chooses brute force's frame, or one whose loss is within 2 % of it, and in what share of the time, on the
  embedded networks (16 frames);
* BO for all clips at once against one clip after another;
* an attack on one frame of a CNN+LSTM that encodes the changed frame alone, against one that encodes all, and how many
  frames each has encoded. The network is untrained: its cost does not depend on its weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

import robustvideo as rv
from robustvideo.attacks import DeepSAVA
from robustvideo.attacks.key_frames import BruteForce, First
from robustvideo.clip import concatenate
from robustvideo.model import Model

T = TypeVar("T")


class Whole(Model):
    """A framewise model that hides it."""

    def __init__(self, model: Model):
        super().__init__()
        self.hidden = model

    def forward(self, clip: rv.Clip) -> Tensor:
        return self.hidden(clip)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def search(clips: int) -> None:
    data = rv.load_data(f"embedded:kinetic?split=test&clips={clips}")
    clip = concatenate([data.clip(i) for i in range(clips)])
    labels = torch.tensor([sample.label for sample in data.samples])
    print(f"{clips} clips of {clip.frames} frames: frame chosen by BO against brute force")
    for name in ("cnn_lstm", "r3d"):
        model = rv.load_model(f"embedded:{name}")
        slow, brute = timed(lambda model=model: DeepSAVA(select=BruteForce()).key_frames(model, clip, labels))
        fast, bo = timed(lambda model=model: DeepSAVA().key_frames(model, clip, labels))
        alone, _ = timed(
            lambda model=model: [
                DeepSAVA().key_frames(model, clip.select([i]), labels[i : i + 1]) for i in range(clips)
            ]
        )
        reached, best = brute.losses.gather(1, bo.frames)[:, 0], brute.losses.amin(1)
        same = bo.frames[:, 0] == brute.frames[:, 0]
        close = same | ((reached - best) <= 0.02 * best.abs())
        probes = bo.losses.isfinite().sum(1).float().mean()
        print(
            f"  {name}: same frame {same.float().mean():.0%}, within 2 % {close.float().mean():.0%}, {probes:.1f} "
            f"probes per clip; {fast / clips:.3f} s per clip, brute force {slow / clips:.3f} s ({slow / fast:.1f} x), "
            f"clip by clip {alone / clips:.3f} s ({alone / fast:.1f} x)"
        )


def encoding(backbone: str, frames: int, steps: int) -> None:
    size = 64 if backbone == "small" else 112
    model = rv.load_model(f"cnn_rnn?backbone={backbone}&frames={frames}&size={size}", num_classes=8)
    video = torch.randint(0, 256, (1, 3, frames, size, size), generator=torch.Generator().manual_seed(0)) / 255
    clip = rv.Clip(video)
    with torch.no_grad():
        labels = model(clip).argmax(1)
    attack = DeepSAVA(steps=steps, select=First(), early_stop=False)
    few, one = timed(lambda: attack(model, clip, labels))
    many, other = timed(lambda: attack(Whole(model), clip, labels))
    passes = int(other.forward_passes)
    print(
        f"CNN+LSTM, {backbone}, {frames} frames of {size}x{size}, {steps} steps on one frame: {few:.1f} s, all frames "
        f"encoded {many:.1f} s ({many / few:.1f} x); {int(one.forward_passes) - 2 + 2 * frames} frames encoded against "
        f"{passes * frames}; largest difference of a pixel {float((one.clip.video - other.clip.video).abs().max()):.3g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--frames", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    search(arguments.clips)
    encoding(arguments.backbone, arguments.frames, arguments.steps)


if __name__ == "__main__":
    main()
