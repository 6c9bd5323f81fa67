"""How far trainings lie apart that differ in their seed alone, and how often an interval over clips parts them.

    python benchmarks/training_seeds.py [--seeds 6] [--clips 512] [--epochs 3] [--test 128]

The embedded r3d is trained on against PGD under every seed and attacked by PGD. Two of these networks are equally good
by construction: a paired interval of 95 % over clips should part one pair in twenty. What it parts beyond that is the
chance of training, which no interval over clips knows (the studies' claims about networks say so: †).
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import combinations
from pathlib import Path

import robustvideo as rv
from robustvideo.evaluation.metrics import is_recognised
from robustvideo.reproduction.outcomes import MEASURES, Values, compared
from robustvideo.training import train
from robustvideo.training.recipe import make_recipe

EPS = 4 / 255


def robust(seed: int, options: argparse.Namespace, folder: Path) -> Values:
    """Per test clip, whether the network of one seed withstands PGD."""
    content = {
        "title": f"seed {seed}",
        "model": "embedded:r3d",
        "data": {
            "train": f"embedded:kinetic?clips={options.clips}",
            "val": "embedded:kinetic?split=val&clips=2",
        },
        "training": "at(attack=pgd(eps=4/255, steps=3, early_stop=false, precision=bf16))",
        "epochs": options.epochs,
        "batch_size": 32,
        "optimizer": "adamw",
        "lr": 0.002,
        "schedule": "onecycle",
        "seed": seed,
        "precision": "bf16",
    }
    weights = train(make_recipe(content, "seeds"), folder / "train", quiet=True).weights
    model = rv.load_model(f"trained:{weights}")
    data = rv.load_data(f"embedded:kinetic?split=test&clips={options.test}")
    run = rv.evaluate(model, data, [rv.attacks.PGD(rv.Linf(EPS), steps=10)], out=folder / "run", quiet=True)
    return {r.sample_id: float(is_recognised(r)) for r in run.records() if r.attack != "clean"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--test", type=int, default=128)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [robust(seed, options, Path(folder) / str(seed)) for seed in range(options.seeds)]
    shares = [sum(values.values()) / len(values) for values in found]
    print("robust accuracy, one seed each: " + ", ".join(f"{100 * share:.1f}" for share in shares) + " %")
    intervals = [compared([a], [b], MEASURES["accuracy"]) for a, b in combinations(found, 2)]
    parted = [interval for interval in intervals if interval.low > 0 or interval.high < 0]
    largest = max(abs(interval.estimate) for interval in intervals)
    print(
        f"an interval over clips parts {len(parted)} of {len(intervals)} pairs, by at most {100 * largest:.1f} points"
    )


if __name__ == "__main__":
    main()
