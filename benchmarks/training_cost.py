"""Seconds per epoch of every training method, as a ratio to standard training, in one run.

    python benchmarks/training_cost.py [--clips 128] [--repeats 3] [--precision bf16]

The methods train the embedded r3d in turn, A B C A B C, one epoch each; the table shows the fastest of the repeats,
because whatever else the machine does can only slow one down. (OUD, whose block works at eight times the map's side,
is left out: it takes two hundred times as long as standard training here.) Time is that of the updates, attacks
included, without validation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from robustvideo.training import train
from robustvideo.training.recipe import make_recipe

PGD = "attack=pgd(eps=4/255, steps={steps}, early_stop=false, precision={precision})"
METHODS = {
    "standard": ("standard", ""),
    "fast AT": ("fast_at(eps=4/255, probe_clips=0)", ""),
    "fast AT + GradAlign": ("fast_at(eps=4/255, probe_clips=0, grad_align=0.2)", ""),
    "free AT, 4 replays": ("free_at(eps=4/255, replays=4)", ""),
    "PGD-3 AT": ("at(" + PGD.replace("{steps}", "3") + ")", ""),
    "PGD-7 AT": ("at(" + PGD.replace("{steps}", "7") + ")", ""),
    "TRADES, 5 steps": ("trades(attack=pgd_kl(eps=4/255, steps=5, early_stop=false, precision={precision}))", ""),
    "MART, 5 steps": ("mart(" + PGD.replace("{steps}", "5") + ")", ""),
    "CAT, 5 steps": ("cat(" + PGD.replace("{steps}", "5") + ")", ""),
    "GAT, PGD-3": ("gat(width=16, adversary=at(" + PGD.replace("{steps}", "3") + "))", "?with=ape_gan(width=16)"),
}


def seconds(training: str, model: str, options: argparse.Namespace) -> float:
    """Time of one epoch's updates."""
    content = {
        "title": "cost",
        "model": "embedded:r3d" + model,
        "data": {
            "train": f"embedded:kinetic?clips={options.clips}",
            "val": "embedded:kinetic?split=val&clips=2",
        },
        "training": training.format(precision=options.precision),
        "epochs": 1,
        "batch_size": 32,
        "optimizer": "sgd",
        "lr": 0.001,
        "precision": options.precision,
    }
    with tempfile.TemporaryDirectory() as folder:
        train(make_recipe(content, "cost"), Path(folder), quiet=True)
        return float(json.loads((Path(folder) / "metrics.jsonl").read_text())["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    options = parser.parse_args()
    best: dict[str, float] = {}
    for _ in range(options.repeats):
        for name, (training, model) in METHODS.items():
            best[name] = min(best.get(name, float("inf")), seconds(training, model, options))
    print(f"{'method':22} {'s per epoch':>12} {'ratio':>6}   ({options.clips} clips, {options.precision})")
    for name, time in best.items():
        print(f"{name:22} {time:12.2f} {time / best['standard']:6.1f}")


if __name__ == "__main__":
    main()
