"""The network that a recipe trains."""

from __future__ import annotations

from robustvideo.model import Model
from robustvideo.models import load_model
from robustvideo.models.embedded import build

_UNTRAINED = "?weights=none"


def build_network(spec: str, classes: int) -> Model:
    """A network from its model spec; ``embedded:<name>?weights=none`` is an untrained one.

    Args:
        spec: see `robustvideo.models.load_model`.
        classes: of an untrained network whose spec does not say how many.

    Raises:
        InputError: no such model.
    """
    if spec.startswith("embedded:") and spec.endswith(_UNTRAINED):
        return build(spec.removeprefix("embedded:").removesuffix(_UNTRAINED), classes)
    return load_model(spec, num_classes=classes)
