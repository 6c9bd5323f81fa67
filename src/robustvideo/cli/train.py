"""``robustvideo train``: train a network by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML, or the name of a packaged one: embedded/r3d.")],
    out: Annotated[Path | None, typer.Option(help="Directory of the run. Default: runs/train-, then its name.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode clips; 0 decodes in this one.")] = 0,
    checkpoint_every: Annotated[
        float, typer.Option(min=0, help="Seconds between checkpoints within an epoch; each epoch ends with one.")
    ] = 300.0,
) -> None:
    """Train a network by a recipe and write its weights.

    The same command again continues an interrupted run, and ends with the weights of an undisturbed one. On several
    devices: `accelerate launch -m robustvideo train ...`.

    **Examples**

    `robustvideo train embedded/r3d --out runs/r3d`

    `robustvideo train my_recipe.yaml --out runs/mine --workers 4`
    """
    from robustvideo.training.recipe import load_recipe
    from robustvideo.training.trainer import train as run

    chosen = load_recipe(recipe)
    folder = out or Path("runs") / f"train-{recipe.stem}"
    outcome = run(chosen, folder, workers=workers, checkpoint_seconds=checkpoint_every)
    for name, measured in outcome.accuracies.items():
        print(f"{name}: {measured}")
    print(f"\nWeights: {outcome.weights}")
