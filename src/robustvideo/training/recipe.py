"""`Recipe`: what to train on what, in YAML.

.. code-block:: yaml

    title: embedded/r3d_at
    model: embedded:r3d
    data:
      train: embedded:kinetic?split=train
      val: embedded:kinetic?split=val
    training: at(attack=pgd(eps=4/255, steps=5, early_stop=false))
    epochs: 10
    batch_size: 32
    lr: 0.002
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustvideo.errors import InputError, unknown
from robustvideo.packaged import read_yaml
from robustvideo.training.augmentation import Augmentation
from robustvideo.training.schedule import Schedule


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Splits(_Strict):
    """Data specs.

    Attributes:
        train: what is learned from.
        val: what the best epoch is chosen by.
        test: what the final weights are measured on, once; None measures them on ``val`` alone.
    """

    train: str
    val: str
    test: str | None = None


class Validation(_Strict):
    """What happens at the end of every epoch.

    Attributes:
        attack: an attack's spec. With it, the best epoch is the one of highest robust accuracy, and the final
            weights are attacked with it too; without it, the one of highest accuracy.
        clips: how many clips of ``val`` are used, drawn once by the recipe's seed; None takes all.
        keep: "best" epoch, or the "last". Default: the best where the measure is what the training is for (an attack is
            named, or the method trains for accuracy on clean clips), else the last. Of a training under attack the
            epoch of highest accuracy on clean clips would often be the one least trained.
    """

    attack: str | None = None
    clips: int | None = Field(default=None, ge=1)
    keep: Literal["best", "last"] | None = None


class Export(_Strict):
    """The final weights.

    Attributes:
        path: the file, in safetensors format; relative to the run's directory.
        precision: type of the stored floats. Accuracies are measured after rounding to it.
    """

    path: str = "model.safetensors"
    precision: Literal["fp32", "fp16"] = "fp32"


class Recipe(_Strict):
    """A training run.

    Attributes:
        title: its name, kept with the weights.
        model: model spec, e.g. ``torchvision:r3d_18?weights=KINETICS400_V1`` to go on from pretrained weights or
            ``embedded:r3d?weights=none`` to start anew.
        data: data specs.
        training: training method's spec.
        epochs: passes over the training clips.
        batch_size: clips per update, over all processes and accumulated parts.
        augmentation: random views of the training clips. Default: none.
        accumulation: parts that a process splits its share of a batch into, to fit its memory.
        optimizer: "sgd" (Nesterov momentum 0.9) or "adamw" (PyTorch's defaults).
        lr: peak learning rate.
        schedule: its course over the training; see `schedule.rate`.
        weight_decay: as the optimizer defines it.
        seed: seeds weights, batch order and every random draw.
        precision: type of the forward and backward passes of updates; weights stay fp32.
        validation: how epochs are compared.
        export: the final weights.
    """

    title: str
    model: str
    data: Splits
    training: str = "standard"
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    augmentation: Augmentation = Augmentation()
    accumulation: int = Field(default=1, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    schedule: Schedule = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    validation: Validation = Validation()
    export: Export = Export()

    def digest(self) -> str:
        """16 hexadecimal digits that change with every value that is not its default.

        A key that a later version adds leaves the hash of older recipes as it is.
        """
        canonical = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file, or a packaged one by its name, such as ``embedded/r3d``.

    Raises:
        InputError: no such recipe, not YAML, a misspelt key, or a value out of range.
    """
    return make_recipe(read_yaml(path, "recipe"), str(path))


def make_recipe(content: Any, name: str) -> Recipe:
    """Validate a recipe.

    Args:
        content: the parsed YAML.
        name: what to call it in messages.

    Raises:
        InputError: a misspelt key or a value out of range, naming the place.
    """
    if not isinstance(content, dict):
        raise InputError(f"{name} must be a mapping with model, data, epochs, batch_size and lr.")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a misspelt key explains more
        place, message = problems[0]["loc"], problems[0]["msg"]
        if problems[0]["type"] == "extra_forbidden":
            raise unknown(f"key in {name}:", str(place[-1]), _keys(place[:-1])) from error
        raise InputError(f"{name}: {'.'.join(str(part) for part in place)}: {message.lower()}.") from error


def _keys(place: tuple[int | str, ...]) -> list[str]:
    """The keys that a recipe has at a place."""
    model: Any = Recipe
    for part in place:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
