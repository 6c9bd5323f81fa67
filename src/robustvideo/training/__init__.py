"""Training: methods that turn batches into losses, and one trainer that runs them all.

Names load on first use, so that listing the methods costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustvideo.training.method import load_training as load_training
    from robustvideo.training.method import trainings as trainings
    from robustvideo.training.recipe import Recipe as Recipe
    from robustvideo.training.recipe import load_recipe as load_recipe
    from robustvideo.training.trainer import Outcome as Outcome
    from robustvideo.training.trainer import train as train

_HOMES = {
    "load_training": "method",
    "trainings": "method",
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "Outcome": "trainer",
    "train": "trainer",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'robustvideo.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"robustvideo.training.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
