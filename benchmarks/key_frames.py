"""DeepSAVA: Bayesian optimisation against brute force, batched against clip by clip, and re-encoding of one frame.

    python benchmarks/key_frames.py [--clips 40] [--skip 40] [--steps 100] [--threads 1] [--backbone resnet18]

Three tables, all in processor time, which a busy machine hardly disturbs:

* how often Bayesian optimisation, with a gradient's forecast (``bo_gradient``, DeepSAVA's default) and without (``bo``,
  the paper's), chooses brute force's frame, or one whose loss is within 2 % of it, and in what share of the time: the
  embedded networks on clips of 16 frames, and on clips in which the same motion goes on for 40, the paper's number;
* the same for all clips at once against one clip after another;
* an attack on one frame of a CNN+LSTM that encodes the changed frame alone, against one that encodes all, and how many
  frames each has encoded. The network is untrained: its cost does not depend on its weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

import robustvideo as rv
from robustvideo.attacks import DeepSAVA
from robustvideo.attacks.bayesian_frames import Bayesian
from robustvideo.attacks.forecast_frames import Forecast
from robustvideo.attacks.key_frames import BruteForce, First
from robustvideo.clip import concatenate
from robustvideo.data.kinetic import Motion, Scenery, render
from robustvideo.model import Model
from robustvideo.models.framewise import FramewiseModel
from robustvideo.models.small import MEAN, STD, R3DSmall
from robustvideo.randomness import seed_for
from robustvideo.registry import name_of

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


def moving(clips: int, skip: int, frames: int) -> tuple[rv.Clip, Tensor]:
    """Test clips of `embedded:kinetic`, but the first few, whose motion goes on for so many frames; their labels."""
    data = rv.load_data(f"embedded:kinetic?split=test&clips={skip + clips}")
    samples, found = data.samples[skip:], []
    for sample in samples:
        random = np.random.default_rng(seed_for("key frames", sample.id))
        poses = Motion.draw(sample.label, random).poses(np.arange(frames))
        seen = render(poses, Scenery.draw(random))
        noisy = seen + np.float32(0.03) * random.standard_normal(seen.shape, np.float32)
        video = torch.from_numpy((noisy.clip(0, 1) * 255).round() / 255)[None]
        found.append(rv.Clip(video, ids=(sample.id,)))
    return concatenate(found), torch.tensor([sample.label for sample in samples])


def embedded(name: str, frames: int) -> Model:
    """An embedded network that takes so many frames."""
    known = rv.load_model(f"embedded:{name}")
    if name == "cnn_lstm":
        assert isinstance(known, FramewiseModel)
        model: Model = FramewiseModel(known.module, frames=frames, size=(48, 48), mean=[MEAN] * 3, std=[STD] * 3)
    else:
        model = R3DSmall(len(known.labels or ()), frames, 48).build()
        model.load_state_dict(known.state_dict())
    return model.eval()


def search(name: str, clips: int, skip: int, frames: int, alone_clips: int) -> None:
    clip, labels = moving(clips, skip, frames)
    model = embedded(name, frames)
    DeepSAVA().key_frames(model, clip.select([0]), labels[:1])  # the first call of all is slower
    slow, brute = timed(lambda: DeepSAVA(select=BruteForce()).key_frames(model, clip, labels))
    best = brute.losses.amin(1)
    print(f"{name}, {clips} clips of {frames} frames: brute force {slow / clips:.3f} s per clip")
    for selector in (Forecast(), Bayesian()):
        attack = DeepSAVA(select=selector)
        fast, found = timed(lambda attack=attack: attack.key_frames(model, clip, labels))
        alone, _ = timed(
            lambda attack=attack: [
                attack.key_frames(model, clip.select([i]), labels[i : i + 1]) for i in range(alone_clips)
            ]
        )
        reached = brute.losses.gather(1, found.frames)[:, 0]
        same = found.frames[:, 0] == brute.frames[:, 0]
        close = same | ((reached - best) <= 0.02 * best.abs())
        probes = found.losses.isfinite().sum(1).float().mean()
        print(
            f"  {name_of(type(selector))}: same frame {same.float().mean():.0%}, "
            f"within 2 % {close.float().mean():.0%}, "
            f"mean loss {float(reached.mean() / best.mean()):.3f} of the best; {probes:.1f} probes, "
            f"{fast / clips:.3f} s per clip (1/{slow / fast:.1f} of brute force), "
            f"clip by clip {alone / alone_clips:.3f} s ({alone / alone_clips * clips / fast:.1f} x)",
            flush=True,
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
    parser.add_argument("--skip", type=int, default=40, help="test clips before them, at which development has looked")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--frames", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for frames in (16, 40):
        for name in ("cnn_lstm", "r3d"):
            search(name, arguments.clips, arguments.skip, frames, min(arguments.clips, 10))
    encoding(arguments.backbone, arguments.frames, arguments.steps)


if __name__ == "__main__":
    main()
