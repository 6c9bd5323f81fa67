"""The weights that training leaves, with where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from robustvideo.models.trained import self_contained
from robustvideo.training.checkpoint import save_weights
from robustvideo.training.recipe import Recipe
from robustvideo.training.validation import Accuracy


def rounded(weights: Mapping[str, Tensor], precision: Literal["fp32", "fp16"]) -> dict[str, Tensor]:
    """The weights as they are stored; integers stay as they are."""
    if precision == "fp32":
        return dict(weights)
    return {name: w.to(torch.float16) if w.is_floating_point() else w for name, w in weights.items()}


def export(
    path: Path, weights: Mapping[str, Tensor], recipe: Recipe, labels: Sequence[str], accuracies: Mapping[str, Accuracy]
) -> None:
    """Write weights as safetensors.

    The metadata holds, all as JSON: ``recipe`` and its ``recipe_hash``, the ``network`` (the recipe's model without
    trained files that it names), the ``labels`` by index, the measured ``accuracies`` as counts, and the ``versions``
    of robustvideo and torch. The spec ``trained:<path>`` rebuilds the network from it.
    """
    metadata = {
        "network": self_contained(recipe.model),
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe.digest(),
        "labels": list(labels),
        "accuracies": {name: vars(accuracy) for name, accuracy in accuracies.items()},
        "versions": {name: version(name) for name in ("robustvideo", "torch")},
    }
    save_weights(path, weights, {key: json.dumps(value) for key, value in metadata.items()})
