"""torchvision's video classifiers, with their own weights and preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

from robustvideo.errors import InputError, unknown
from robustvideo.model import Model, wrap
from robustvideo.models.catalog import TORCHVISION
from robustvideo.models.checkpoint import load_state, read_state
from robustvideo.registry import construct
from robustvideo.spec import Call, Source

_MEAN, _STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # Kinetics-400, as torchvision has them


@dataclass(frozen=True)
class Options:
    """Options of a torchvision spec.

    Attributes:
        weights: name of a member of torchvision's weight enum, or DEFAULT; downloaded by torchvision.
        checkpoint: a file of one's own instead.
        classes: number of classes of an untrained network, or of the checkpoint. Default 400.
        frames: frames the network takes. Default: what its weights were trained on; any, without weights.
        size: side the network takes. Default: what its weights were trained on; any, without weights. The
            transformers among the networks need both.
    """

    weights: str | None = None
    checkpoint: str | None = None
    classes: int = 400
    frames: int | None = None
    size: int | None = None


def load_torchvision(source: Source) -> Model:
    """Load ``torchvision:<name>``.

    Raises:
        InputError: an unknown network, weights or option; weights that cannot be downloaded or do not fit.
    """
    from torchvision.models import get_model, get_model_weights

    if source.name not in TORCHVISION:
        raise unknown("torchvision video network", source.name, TORCHVISION)
    options = construct(Options, Call(source.name, dict(source.options)))
    if options.weights is None:
        network = get_model(source.name, weights=None, num_classes=options.classes)
        if options.checkpoint is not None:
            load_state(network, read_state(Path(options.checkpoint)), options.checkpoint)
        return wrap(network, frames=options.frames, size=options.size, mean=_MEAN, std=_STD)
    if options.checkpoint is not None:
        raise InputError("Give either weights= or checkpoint=, not both.")
    choices = get_model_weights(source.name)
    names = [w.name for w in choices]
    name = choices.DEFAULT.name if options.weights == "DEFAULT" else options.weights
    if name not in names:
        raise unknown(f"weights of {source.name}:", options.weights, names)
    weights = choices[name]
    try:
        network = get_model(source.name, weights=weights)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"The weights {name} of {source.name} cannot be downloaded ({error}): "
            "give a file of yours with checkpoint=."
        ) from error
    preset: Any = weights.transforms()
    return wrap(
        network,
        frames=options.frames or weights.meta.get("min_temporal_size") or 16,
        size=options.size or tuple(preset.crop_size * 2)[:2],
        mean=preset.mean,
        std=preset.std,
        labels=weights.meta["categories"],
    )
