"""`gradient_twin`: a copy of a model that is fast to differentiate with respect to its input.

The gradient of an attack needs no gradients of parameters, no batch statistics and, under autocast, no weights in
full precision. The twin shares the original's parameters and never writes to them: where a layer can run faster, its
``forward`` is replaced in the twin by one with weights of its own. All else (`robustvideo.model.Routed` and the other
abilities, hooks, tied weights, parametrisations) is as in the original.
"""

from __future__ import annotations

import copy
from functools import partial
from itertools import pairwise
from typing import Any, Literal, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from robustvideo.models.convolution import Convolution, Map, channels_go_last, convolution

Precision = Literal["fp32", "bf16", "fp16"]
M = TypeVar("M", bound=nn.Module)

_CASTS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def gradient_twin(model: M, precision: Precision) -> M:
    """A frozen copy in evaluation mode, whose gradients with respect to the input are the original's, sooner.

    * A convolution and the batch normalisation after it, neighbours in a plain `nn.Sequential`, run as one.
    * Convolutions run with the channels last in memory, whatever the layout of the input, and some get a faster
      way to their gradient (see `robustvideo.models.convolution`).
    * Weights are cast for autocast once, instead of at every pass.

    Only layers that run torch's own code, without hooks or parametrisations, are replaced, and only by the same
    mathematics: gradients differ by rounding. In double precision nothing but the first point applies.

    A twin holds for the parameters that it was made from: make a new one when they have changed.

    Args:
        model: any module; left exactly as it is.
        precision: the type under which the caller runs the twin: "fp32", or "bf16" / "fp16" under autocast.

    Returns:
        The twin; ``model`` itself where it is compiled or cannot be copied, so that callers hold it
        `robustvideo.model.at_rest` as well.
    """
    if any(_is_compiled(module) for module in model.modules()):
        return model
    parameters = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    try:
        twin = copy.deepcopy(model, dict(parameters))
    except (RuntimeError, TypeError, ValueError, copy.Error):  # it holds a lock, a file, a tensor inside a graph, ...
        return model
    twin.eval()
    cast = _CASTS.get(precision)
    folded: set[nn.Module] = set()
    for module in list(twin.modules()):
        if isinstance(module, nn.Sequential) and _runs_code_of(module, nn.Sequential):
            folded |= _fold(module, cast)
    for layer in list(twin.modules()):
        replacement = None if layer in folded else _replacement(layer, cast)
        if replacement is not None:
            layer.forward = replacement
    return twin


def _fold(sequence: nn.Sequential, cast: torch.dtype | None) -> set[nn.Module]:
    """Let a sequence run its convolutions and the normalisations after them as one; returns these convolutions.

    The children stay as they are, for whoever takes them out of the sequence.
    """
    steps: list[Map | None] = list(sequence)
    folded: set[nn.Module] = set()
    for index, (first, second) in enumerate(pairwise(sequence)):
        if _is_plain_convolution(first) and _is_foldable(second, first):
            steps[index], steps[index + 1] = _fused(first, second, cast), None
            folded.add(first)
    if folded:
        remaining = tuple(step for step in steps if step is not None)
        sequence.forward = partial(_in_turn, remaining)  # type: ignore[method-assign]
    return folded


def _in_turn(steps: tuple[Map, ...], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _fused(conv: Convolution, norm: Any, cast: torch.dtype | None) -> Map:
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return convolution(conv, _cast(weight, cast), _cast(bias, cast))


def _replacement(layer: nn.Module, cast: torch.dtype | None) -> Map | None:
    """A faster ``forward`` for a layer; None where there is none."""
    if _is_plain_convolution(layer):
        weight = _cast(layer.weight, cast)
        if weight.dtype != layer.weight.dtype or channels_go_last(weight):
            return convolution(layer, weight, None if layer.bias is None else _cast(layer.bias, cast))
    elif cast is not None and isinstance(layer, nn.Linear) and _is_plain(layer, nn.Linear):
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


def _is_compiled(module: nn.Module) -> bool:
    """Whether a module was compiled or scripted: a copy would have to be compiled again."""
    compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
    return compiled or isinstance(module, torch.jit.ScriptModule)
