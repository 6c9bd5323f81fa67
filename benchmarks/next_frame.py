"""DeepSAVA on the prediction of the next frame (Mu et al. 2024, appendix C and figure C.9).

    robustvideo train embedded/next_frame
    python benchmarks/next_frame.py trained:runs/train-next_frame/model.safetensors [--clips 100] [--out figure.svg]

The mean squared error of the predicted frame after every step of an attack on one frame: the first, the last that is
seen, and the one that Bayesian optimisation chooses, each within an L2,1 norm of 0.03, with 95 % intervals over clips.
It says, too, how often the choice is the last frame. The frame to be predicted is the truth and stays as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import robustvideo as rv
from robustvideo.attacks import DeepSAVA
from robustvideo.attacks.forecast_frames import Forecast
from robustvideo.attacks.key_frames import First, Last, Selector
from robustvideo.clip import concatenate
from robustvideo.evaluation.sparsity import mean_interval
from robustvideo.models.next_frame import NextFrameModel, before_the_last
from robustvideo.threat import WarpAndNoiseL21

SELECTORS: dict[str, Selector] = {"first": First(), "last": Last(), "BO": Forecast()}
COLOURS = {"first": "#888", "last": "#0072b2", "BO": "#d55e00"}


def errors_by_step(
    model: NextFrameModel, clip: rv.Clip, labels: Tensor, select: Selector, steps: int
) -> tuple[Tensor, Tensor]:
    """(B, steps) mean squared errors at every step, and the frames (B, 1) that were attacked."""
    threat = WarpAndNoiseL21(0.03, support=before_the_last(clip.frames))
    attack = DeepSAVA(threat, loss="margin", lam=0.0, steps=steps, early_stop=False, select=select)
    return model.error_at(attack(model, clip, labels).loss_trace), attack.key_frames(model, clip, labels).frames


def figure(curves: dict[str, Tensor]) -> str:
    """The mean curves as SVG."""
    width, height, top = 640, 360, max(float(c.mean(0).max()) for c in curves.values())
    lines = []
    for i, (name, curve) in enumerate(curves.items()):
        mean = curve.mean(0).tolist()
        points = " ".join(
            f"{50 + x * (width - 70) / (len(mean) - 1):.1f},{height - 40 - y / top * (height - 60):.1f}"
            for x, y in enumerate(mean)
        )
        dashes = ' stroke-dasharray="8 6"' if name == "BO" else ""  # it often lies on another curve
        style = f'stroke="{COLOURS[name]}" stroke-width="2"{dashes}'
        lines.append(f'<polyline points="{points}" fill="none" {style}/>')
        place = height - 110 + 20 * i
        lines.append(f'<path d="M{width - 150} {place - 5}h30" {style}/>')
        lines.append(f'<text x="{width - 112}" y="{place}">{name} frame</text>')
    last = next(iter(curves.values())).shape[1] - 1
    axes = (
        f'<path d="M50 20V{height - 40}H{width - 20}" fill="none" stroke="#000"/>'
        f'<text x="50" y="{height - 22}" text-anchor="middle">0</text>'
        f'<text x="{width - 20}" y="{height - 22}" text-anchor="middle">{last}</text>'
        f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">steps of the attack</text>'
        f'<text x="44" y="{height - 40}" text-anchor="end">0</text>'
        f'<text x="44" y="24" text-anchor="end">{top:.3f}</text>'
        f'<text x="56" y="14">mean squared error of the predicted frame</text>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
    return f"{head}{axes}{''.join(lines)}</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", default="embedded:moving_digits?split=test&size=32")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("next_frame.svg"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, data = rv.load_model(arguments.model), rv.load_data(arguments.data)
    if not isinstance(model, NextFrameModel):
        parser.error("the model must predict the next frame")
    curves: dict[str, list[Tensor]] = {name: [] for name in SELECTORS}
    chosen = []
    for start in range(0, arguments.clips, 20):
        clip = concatenate([data.clip(i) for i in range(start, min(start + 20, arguments.clips))])
        labels = torch.zeros(len(clip), dtype=torch.long)
        for name, select in SELECTORS.items():
            errors, frames = errors_by_step(model, clip, labels, select, arguments.steps)
            curves[name].append(errors)
            if name == "BO":
                chosen.append(frames)
    joined = {name: torch.cat(parts) for name, parts in curves.items()}
    shown = sorted({0, 1, 3, 10, 30, arguments.steps - 1} & set(range(arguments.steps)))
    print("mean squared error x 1000 after", *(f"{step:>18d}" for step in shown), "steps")
    for name, curve in joined.items():
        cells = [mean_interval((1000 * curve[:, step]).tolist()) for step in shown]
        print(f"{name:>31s}", *(f"{c.estimate:5.2f} [{c.low:5.2f},{c.high:5.2f}]" for c in cells))
    frames = torch.cat(chosen)
    print(
        f"Bayesian optimisation chose the last frame seen in {(frames == clip.frames - 2).float().mean():.0%} of clips"
    )
    arguments.out.write_text(figure(joined), encoding="utf-8")
    print(arguments.out)


if __name__ == "__main__":
    main()
