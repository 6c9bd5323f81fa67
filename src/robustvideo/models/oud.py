"""OUD: a block that restores feature maps, over- and under-complete, inside a network.

Lo, Valanarasu & Patel 2021, "Overcomplete representations against adversarial videos". The whole is trained by ``at``
(`robustvideo.training`); there is no loss of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.model import Model, WrappedModel, at_rest, run
from robustvideo.models.alteration import Alteration, alterations
from robustvideo.models.moe import MixtureOfExperts

_LEAST_SIDE = 10  # pixels of the feature map that the block is put on by default
_ANY_FRAMES, _ANY_SIZE = 16, (112, 112)  # of the clip that a network of any size is tried on
_CHANNELS = (8, 16, 32, 64)


class Restoration(nn.Module):
    """``relu(h + C(O(r) + U(r)))`` with ``r = relu(R(h))``, on maps (B, channels, T, H, W) of any size.

    R reduces to 8 channels, C leads back; both are convolutions of kernel 1, and C starts at zero, so that the block
    changes nothing but the sign of negative values before it is trained. The over-complete branch O doubles height
    and width three times (convolution, trilinear interpolation, ReLU; 16, 32, 64 channels) and halves them again
    (convolution, pooling, ReLU), the under-complete branch U does the opposite ``depth`` times; maps of the way in are
    added on the way out where their size is the same, through convolutions of kernel 1. Time is never resized. There
    are no biases and no normalisation.

    Args:
        channels: of the map.
        depth: how many times U halves the map; 0 leaves U out.
    """

    def __init__(self, channels: int, depth: int):
        super().__init__()
        reduced = _CHANNELS[0]
        self.reduce = nn.Conv3d(channels, reduced, 1, bias=False)
        self.over = _There(_CHANNELS, grow=True)
        self.under = _There(_CHANNELS[: depth + 1], grow=False) if depth else None
        self.restore = nn.Conv3d(reduced, channels, 1, bias=False)
        nn.init.zeros_(self.restore.weight)

    def forward(self, h: Tensor) -> Tensor:
        reduced = torch.relu(self.reduce(h))
        restored = self.over(reduced)
        if self.under is not None:
            restored = restored + self.under(reduced)
        return torch.relu(h + self.restore(restored))


class _There(nn.Module):
    """To maps of other sizes and back, with lateral connections.

    Args:
        channels: of the map and of every size after it.
        grow: double height and width on the way there; else halve them.
    """

    def __init__(self, channels: tuple[int, ...], grow: bool):
        super().__init__()
        steps = list(pairwise(channels))
        self.there = nn.ModuleList(nn.Conv3d(a, b, 3, padding=1, bias=False) for a, b in steps)
        self.back = nn.ModuleList(nn.Conv3d(b, a, 3, padding=1, bias=False) for a, b in reversed(steps))
        self.lateral = nn.ModuleList(nn.Conv3d(a, a, 1, bias=False) for a, _ in reversed(steps))
        self.grow = grow

    def forward(self, x: Tensor) -> Tensor:
        passed = []
        for convolve in self.there:
            passed.append(x)
            height, width = x.shape[3:]
            x = convolve(x)
            x = _resized(x, (2 * height, 2 * width)) if self.grow else _halved(x)
            x = torch.relu(x)
        for convolve, connect in zip(self.back, self.lateral, strict=True):
            side = passed.pop()
            x = _halved(convolve(x)) if self.grow else _resized(convolve(x), (side.shape[3], side.shape[4]))
            x = torch.relu(x) + connect(side)
        return x


class Restored(nn.Module):
    """A module and the restoration of what it returns.

    Args:
        module: returns a map (B, channels, T, H, W).
        restoration: restores it.
    """

    def __init__(self, module: nn.Module, restoration: Restoration):
        super().__init__()
        self.module = module
        self.restoration = restoration

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        restored: Tensor = self.restoration(self.module(*arguments, **options))
        return restored


@alterations.register("oud")
@dataclass(frozen=True)
class Oud(Alteration):
    """An over-and-under-complete block that restores feature maps (Lo, Valanarasu & Patel 2021).

    The block works at 8 times the height and width of its map: 64 times the pixels, which is what it costs. In a
    mixture of experts every expert gets its own (OUD-M).

    Attributes:
        after: name of the module whose output is restored, or names of several, as in ``model.named_modules()`` (of a
            mixture of experts: in each expert's); modules that return maps (B, channels, T, H, W). Default: the last
            of the network's direct children whose map is at least 10 pixels wide and high, in torchvision's ResNets
            at 112 pixels ``module.layer3``; found by running one clip. (Published: after the third of four stages.)
        depth: times that the under-complete branch halves the map. Default: 1, as published for the third stage.

    Raises:
        InputError: a depth outside 0 to 3; when it is applied, a name of no module, or one that returns no such map.
    """

    after: str | tuple[str, ...] | None = None
    depth: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.depth < len(_CHANNELS):
            raise InputError(f"depth= of oud is 0 to {len(_CHANNELS) - 1}, got {self.depth}.")

    def apply(self, model: Model) -> Model:
        if isinstance(model, MixtureOfExperts):
            for expert in model.experts:
                self.apply(cast("Model", expert))
            return model
        if self.after is None:
            shapes = _last_wide(model)
        else:
            names = [self.after] if isinstance(self.after, str) else list(self.after)
            shapes = _maps(model, names)
            for name in names:
                if name not in shapes:
                    raise InputError(f"after={name!r} of oud returns no map (B, channels, T, H, W) of this network.")
                if min(shapes[name][3:]) >> self.depth == 0:
                    raise InputError(f"The map of {name} is too small to be halved {self.depth} times: lower depth=.")
        for name, shape in shapes.items():
            model.set_submodule(name, Restored(model.get_submodule(name), Restoration(shape[1], self.depth)))
        return model


def _last_wide(model: Model) -> dict[str, torch.Size]:
    """The last of the network's direct children whose map is wide enough, and the map's shape."""
    root = "module" if isinstance(model, WrappedModel) else ""
    names = [f"{root}.{name}".lstrip(".") for name, _ in model.get_submodule(root).named_children()]
    wide = [(name, shape) for name, shape in _maps(model, names).items() if min(shape[3:]) >= _LEAST_SIDE]
    if not wide:
        raise InputError(f"No direct child of the network returns a map {_LEAST_SIDE} pixels wide: name one, after=.")
    return dict(wide[-1:])


def _maps(model: Model, names: list[str]) -> dict[str, torch.Size]:
    """Shapes of the maps that some modules of a model return for one clip, in the order in which they are called.

    Raises:
        InputError: a name of no module, or a model that cannot run on video alone.
    """
    modules = dict(model.named_modules())
    found: dict[str, torch.Size] = {}

    def note(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 5:
            found[name] = output.shape

    handles = []
    for name in names:
        if name not in modules:
            raise unknown("module of this network:", name, [known for known in modules if known])
        handles.append(modules[name].register_forward_hook(partial(note, name)))
    try:
        with at_rest(model), torch.no_grad():
            run(model, Clip(torch.zeros(1, 3, model.frames or _ANY_FRAMES, *(model.size or _ANY_SIZE))))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Height and width interpolated, time as it is."""
    if tuple(x.shape[3:]) == size:
        return x
    return F.interpolate(x, (x.shape[2], *size), mode="trilinear", align_corners=False)


def _halved(x: Tensor) -> Tensor:
    return F.max_pool3d(x, (1, 2, 2))
