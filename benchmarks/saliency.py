"""Where two models look, and whether it is better to attack there (Mu et al. 2024, appendix D and figure D.10).

    python benchmarks/saliency.py [--models embedded:r3d embedded:r3d_at] [--clips 64] [--out saliency.png]

The paper's two observations as measurements, with 95 % intervals over the clips that the model recognises:

* "more frames are highlighted" in a robust model: the effective number of salient frames of a clip, exp of the entropy
  of the frames' shares of its saliency, which is taken through the whole video model;
* "perturbing a frame without a saliency map is more effective": DeepSAVA within 1 - SSIM of at most 0.08 on the frame
  of least saliency against the frame of most: fooling rates, and the paired difference.

The figure shows every other frame of a clip with its saliency in yellow, one row per model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torchvision.io import write_png

import robustvideo as rv
from robustvideo.attacks import DeepSAVA
from robustvideo.clip import concatenate
from robustvideo.evaluation.metrics import Interval
from robustvideo.evaluation.saliency import frame_shares, overlay, saliency_maps
from robustvideo.evaluation.sparsity import mean_interval

WIDTH = 1200
"""Pixels of the figure, at most, where small clips are enlarged."""


def muted(video: torch.Tensor) -> torch.Tensor:
    """A video in half its contrast and without colour, so that the colour of its saliency shows."""
    return (0.25 + 0.5 * video.mean(1, keepdim=True)).expand_as(video)


def said(interval: Interval, percent: bool = False) -> str:
    unit = 100 if percent else 1
    return f"{unit * interval.estimate:.1f} [{unit * interval.low:.1f}, {unit * interval.high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["embedded:r3d", "embedded:r3d_at"])
    parser.add_argument("--data", default="embedded:kinetic?split=test")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("saliency.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for spec in arguments.models:
        model = rv.load_model(spec)
        data = rv.load_data(arguments.data, labels=model.labels)
        numbers: list[float] = []
        fooled: dict[str, list[float]] = {"most": [], "least": []}
        for start in range(0, arguments.clips, 16):
            places = range(start, min(start + 16, arguments.clips))
            clip = concatenate([data.clip(i) for i in places])
            labels = torch.tensor([data.samples[i].label for i in places])
            maps = saliency_maps(model, clip, labels)
            if start == 0:
                rows.append(overlay(muted(clip.video[:1]), maps[:1])[0, :, ::2])
            with torch.no_grad():
                known = (model(clip).argmax(1) == labels).nonzero()[:, 0]
            if len(known) == 0:
                continue
            clip, labels, shares = clip.select(known), labels[known], frame_shares(maps[known])
            entropy = -(shares * shares.clamp_min(1e-12).log()).sum(1)
            numbers += entropy.exp().tolist()
            for name, frames in (("most", shares.argmax(1)), ("least", shares.argmin(1))):
                for i, frame in enumerate(frames.tolist()):
                    attack = DeepSAVA(frames=(frame,), steps=arguments.steps)
                    fooled[name].append(float(attack(model, clip.select([i]), labels[i : i + 1]).success))
        gained = [b - a for a, b in zip(fooled["most"], fooled["least"], strict=True)]
        print(f"{spec}: {len(numbers)} clips recognised, {said(mean_interval(numbers))} salient frames")
        for name, values in fooled.items():
            print(f"  fooled through the frame of {name} saliency: {said(mean_interval(values), percent=True)} %")
        print(f"  least less most: {said(mean_interval(gained), percent=True)} points")
    picture = torch.cat([torch.cat(row.unbind(1), dim=2) for row in rows], dim=1)
    factor = max(1, WIDTH // picture.shape[2])
    picture = picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    write_png((picture * 255).round().to(torch.uint8), str(arguments.out))
    print(arguments.out)


if __name__ == "__main__":
    main()
