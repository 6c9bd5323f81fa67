"""Seconds per epoch of adversarial training on sound and picture, crafted step by step or by segments.

    ROBUSTVIDEO_DATA=... python benchmarks/efficient_crafting.py [--repeats 3] [--threads 1]

AcV on 40 frames (20 time steps) of surv_fight, ten gradients of TMA per clip: every time step crafted for itself; one
perturbation per segment found on 20 % of the steps; one per time step, found on 20 % at a time; and the curriculum (5
to 20 % of the steps, 2 to 10 gradients). Beside them two gradients on whole clips, as many passes as ten on 20 %.
Step by step keeps the better of its last point and its peak, two passes in full precision; segments their last point.
In turn, A B C A B C, three epochs each; the table shows the fastest epoch but the first, which decodes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from robustvideo.training import train
from robustvideo.training.recipe import make_recipe

DATA = (
    "manifest:$ROBUSTVIDEO_DATA/surv_fight.csv?split={split}&at_least=audio_rms:0.001&divide=6,1,3"
    "&fps=20&frames=40&stride=1&pad=loop&size=48&audio_rate=16000"
)
ATTACK = "threat=audio_visual(eps=4/255, audio=0.006), steps=10, copies=1, early_stop=false, precision=bf16"
METHODS = {
    "no adversary": "standard",
    "step by step": f"av_at(attack=tma({ATTACK}))",
    "segments, 20 %": f"av_curriculum(schedule=constant, high=0.2, on_model=false, attack=tma_segments({ATTACK}))",
    "every step, 20 %": "av_curriculum(schedule=constant, high=0.2, on_model=false, "
    f"attack=tma_segments(segments=20, {ATTACK}))",
    "two gradients": f"av_at(attack=tma({ATTACK.replace('steps=10', 'steps=2')}))",
    "curriculum": f"av_curriculum(cycles=3, attack=tma_segments({ATTACK}))",
}


def seconds(training: str) -> float:
    """Time of one epoch's updates."""
    content = {
        "title": "cost",
        "model": "AcV?scale=small&steps=20",
        "data": {"train": DATA.format(split="train"), "val": DATA.format(split="val")},
        "training": training,
        "epochs": 3,
        "batch_size": 12,
        "optimizer": "adamw",
        "lr": 0.001,
        "precision": "bf16",
    }
    with tempfile.TemporaryDirectory() as folder:
        train(make_recipe(content, "cost"), Path(folder), quiet=True)
        epochs = (Path(folder) / "metrics.jsonl").read_text().splitlines()
        return min(float(json.loads(line)["seconds"]) for line in epochs[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    best: dict[str, float] = {}
    for _ in range(options.repeats):
        for name, training in METHODS.items():
            best[name] = min(best.get(name, float("inf")), seconds(training))
    print(f"{'crafting':16} {'s per epoch':>12} {'of step by step':>16}")
    for name, time in best.items():
        print(f"{name:16} {time:12.2f} {time / best['step by step']:16.2f}")


if __name__ == "__main__":
    main()
