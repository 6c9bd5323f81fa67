"""Layers with frozen weights that run faster than torch's own: what a gradient twin is made of.

Only layers that run torch's own code, without hooks or parametrisations, are replaced. Replacing sets ``forward`` on
the one module object and leaves its parameters and children alone, so that whoever reads them finds what was there.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from robustvideo.models.convolution import Convolution, Map, channels_go_last, convolution, plain_convolution

_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Replacement(partial[Tensor]):
    """A ``forward`` that was put in the place of a layer's own."""


def replace_layers(network: nn.Module, cast: torch.dtype | None, reorder: bool) -> None:
    """Give every layer that can run faster another ``forward``; earlier replacements are undone first.

    * A convolution and the batch normalisation after it, neighbours in a plain `nn.Sequential`, run as one.
    * Weights in single precision are cast once.
    * Convolutions run as `robustvideo.models.convolution` has them.

    Args:
        network: frozen and in evaluation mode; changed in place.
        cast: the type of weights under autocast; None without.
        reorder: let convolutions run with the channels last in memory.
    """
    for module in network.modules():
        if isinstance(vars(module).get("forward"), Replacement):
            del module.forward
    folded: set[nn.Module] = set()
    for module in network.modules():
        if isinstance(module, nn.Sequential) and _runs_code_of(module, nn.Sequential):
            folded |= _fold(module, cast, reorder)
    for layer in network.modules():
        faster = None if layer in folded else _faster(layer, cast, reorder)
        if faster is not None:
            layer.forward = Replacement(faster)


def _fold(sequence: nn.Sequential, cast: torch.dtype | None, reorder: bool) -> set[nn.Module]:
    """Let a sequence run its convolutions and the normalisations after them as one; returns these convolutions.

    The children stay as they are, for whoever takes them out of the sequence.
    """
    steps: list[Map | None] = list(sequence)
    folded: set[nn.Module] = set()
    for index, (first, second) in enumerate(pairwise(sequence)):
        if _is_plain_convolution(first) and _is_foldable(second, first):
            steps[index], steps[index + 1] = _fused(first, second, cast, reorder), None
            folded.add(first)
    if folded:
        remaining = tuple(step for step in steps if step is not None)
        sequence.forward = Replacement(_in_turn, remaining)  # type: ignore[method-assign]
    return folded


def _in_turn(steps: tuple[Map, ...], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _fused(conv: Convolution, norm: Any, cast: torch.dtype | None, reorder: bool) -> Map:
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    make = convolution if reorder else plain_convolution
    return make(conv, _cast(weight, cast), _cast(bias, cast))


def _faster(layer: nn.Module, cast: torch.dtype | None, reorder: bool) -> Map | None:
    """A faster ``forward`` for a layer; None where there is none."""
    if _is_plain_convolution(layer):
        weight = _cast(layer.weight, cast)
        bias = None if layer.bias is None else _cast(layer.bias, cast)
        if reorder and channels_go_last(weight):
            return convolution(layer, weight, bias)
        return plain_convolution(layer, weight, bias) if weight.dtype != layer.weight.dtype else None
    if cast is not None and isinstance(layer, nn.Linear) and _is_plain(layer, nn.Linear):
        bias = None if layer.bias is None else _cast(layer.bias, cast)
        return partial(F.linear, weight=_cast(layer.weight, cast), bias=bias)
    return None


def _cast(values: Tensor, cast: torch.dtype | None) -> Tensor:
    """Values as autocast would pass them on: single precision in the lower one, double precision as it is."""
    values = values.detach()
    return values.to(cast) if cast is not None and values.dtype == torch.float32 else values


def _is_plain_convolution(layer: nn.Module) -> TypeGuard[Convolution]:
    """Whether a layer is a convolution of torch's own, padding with zeros."""
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        if isinstance(layer, kind):
            own = type(layer)._conv_forward is kind._conv_forward
            return own and layer.padding_mode == "zeros" and _is_plain(layer, kind)
    return False


def _is_foldable(norm: nn.Module, conv: Convolution) -> bool:
    """Whether a layer normalises by fixed statistics what a convolution yields."""
    kind = next(norm_kind for conv_kind, norm_kind in _NORMS.items() if isinstance(conv, conv_kind))
    if type(norm) is not kind or norm.training or not _has_no_hooks(norm):
        return False
    mean = norm.running_mean
    return isinstance(mean, Tensor) and mean.dtype == conv.weight.dtype and len(mean) == conv.out_channels


def _is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer runs the code of ``kind`` on a weight of its own, of single or double precision."""
    weight = layer._parameters.get("weight")  # a parametrised or normalised weight is no longer a parameter
    if weight is None or weight.dtype not in (torch.float32, torch.float64):
        return False
    return _runs_code_of(layer, kind) and _has_no_hooks(layer)


def _runs_code_of(module: nn.Module, kind: type[nn.Module]) -> bool:
    return type(module).forward is kind.forward and "forward" not in vars(module)


def _has_no_hooks(module: nn.Module) -> bool:
    return not any(getattr(module, hooks) for hooks in _HOOKS)
