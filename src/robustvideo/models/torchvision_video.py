"""torchvision's video classifiers, with their own weights and preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robustvideo.errors import InputError, unknown
from robustvideo.model import Model, wrap
from robustvideo.models.catalog import TORCHVISION
from robustvideo.models.checkpoint import load_state
from robustvideo.registry import construct
from robustvideo.spec import Call, Source

_DEFAULT_FRAMES = 16  # frames per clip in torchvision's own evaluation of the weights; S3D takes any number from 14
_FIXED = (16, 224)  # frames and side of the MViT networks
_FRAMES: dict[str, int | None] = {"s3d": None, "swin3d_t": 32, "swin3d_s": 32, "swin3d_b": 32}


@dataclass(frozen=True)
class Options:
    """Options of a torchvision spec.

    Attributes:
        weights: name of a member of torchvision's weight enum, or DEFAULT; downloaded by torchvision unless
            ``checkpoint=`` holds them.
        classes: number of classes. Default: that of the weights, else 400. Another number than that of the weights
            puts an untrained last layer on top of them, to be trained.
        frames: frames the network takes. Default: what its weights were evaluated on; any, without weights.
        size: side the network takes. Default: the crop its weights were trained on; without weights any, from the
            least that it can take. Clips of another size are resized whole, where torchvision's recipe also crops.

    The MViT networks take 16 frames of side 224 and no other, S3D a side of 224 or more.
    """

    weights: str | None = None
    classes: int | None = None
    frames: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        for name in ("classes", "frames", "size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name}= of a torchvision network is a positive number, got {value}.")


def load_torchvision(source: Source, num_classes: int | None, download: bool) -> Model:
    """Load ``torchvision:<name>``.

    Args:
        source: the parsed spec.
        num_classes: classes of an untrained network when ``classes=`` is not given.
        download: get the weights; otherwise only the preprocessing and class names that belong to them.

    Raises:
        InputError: an unknown network, weights or option; weights that cannot be downloaded or do not fit.
    """
    from torchvision.models import get_model, get_model_weights

    if source.name not in TORCHVISION:
        raise unknown("torchvision video network", source.name, TORCHVISION)
    options = construct(Options, Call(f"torchvision:{source.name}", dict(source.options)))
    choices: Any = get_model_weights(source.name)
    fixed = source.name.startswith("mvit")
    if fixed and (options.frames or _FIXED[0], options.size or _FIXED[1]) != _FIXED:
        raise InputError(f"torchvision builds {source.name} for {_FIXED[0]} frames of side {_FIXED[1]} and no other.")
    if options.weights is None:
        preset, least = choices.DEFAULT.transforms(), choices.DEFAULT.meta["min_size"][0]
        frames = options.frames or (_FIXED[0] if fixed else None)
        size = options.size or (least if least > 1 else None)
        network = get_model(source.name, weights=None, num_classes=options.classes or num_classes or 400)
        return wrap(network, frames=frames, size=size, mean=preset.mean, std=preset.std)
    if options.weights not in choices.__members__:
        raise unknown(f"weights of {source.name}:", options.weights, choices.__members__)
    weights = choices[options.weights]
    preset, labels = weights.transforms(), weights.meta["categories"]
    frames = options.frames or _FRAMES.get(source.name, _DEFAULT_FRAMES)
    size = options.size or preset.crop_size[0]
    classes = options.classes or len(labels)
    network = get_model(source.name, weights=None, num_classes=classes)
    if download:
        own, state = network.state_dict(), _download(weights)
        if classes != len(labels):
            head = [key for key, value in state.items() if value.shape[:1] == (len(labels),)]
            state |= {key: own[key] for key in head if own[key].shape[:1] == (classes,)}
        load_state(network, state, str(weights))
    known = labels if classes == len(labels) else None
    return wrap(network, frames=frames, size=size, mean=preset.mean, std=preset.std, labels=known)


def _download(weights: Any) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"The weights {weights} cannot be downloaded ({error}): get {weights.url} elsewhere and add "
            "checkpoint=<that file> to the spec."
        ) from error
    return state
