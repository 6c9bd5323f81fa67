"""Convolutions with frozen weights, for taking gradients with respect to their input on a CPU.

The library's own backward pass is slow for two shapes, and there the gradient is written as a forward convolution:

* a strided convolution over the few channels of a picture (a network's first layer): 3 to 8 times faster;
* a depthwise convolution: 3 to 40 times faster.

A convolution along time alone runs as one over the plane (time, height x width): a tenth faster, and several times
where torch has a single thread, which sends the other to a slow fallback. The mathematics are the same in each case;
only the order of summation differs. Measured by ``benchmarks/gradient_step.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Map = Callable[[Tensor], Tensor]
Gradient = Callable[[Tensor, Sequence[int]], Tensor]
"""The gradient at a convolution's output, and its input's extent (T, H, W) or (H, W) -> the gradient at its input."""

_OPERATIONS: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_PICTURE_CHANNELS = 4


def plain_convolution(layer: Convolution, weight: Tensor, bias: Tensor | None) -> Map:
    """What ``layer`` computes, with weights of its own: other values, or another type.

    Args:
        layer: a convolution that pads with zeros; gives stride, padding, dilation and groups.
        weight: (O, C / groups, ...), like ``layer.weight``. Not differentiated.
        bias: (O,) or None. Not differentiated.
    """
    geometry: dict[str, Any] = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    return partial(_OPERATIONS[weight.ndim], weight=weight, bias=bias, **geometry)


def convolution(layer: Convolution, weight: Tensor, bias: Tensor | None) -> Map:
    """`plain_convolution`, laid out for speed where that helps; can be differentiated any number of times."""
    if not channels_go_last(weight):
        return plain_convolution(layer, weight, bias)
    stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups
    weight = _laid_out(weight)
    plain = plain_convolution(layer, weight, bias)
    kernel = weight.shape[2:]
    if weight.device.type != "cpu" or isinstance(padding, str) or max(dilation) > 1:
        return plain
    if any(p >= k for p, k in zip(padding, kernel, strict=True)):
        return plain
    if weight.ndim == 5 and kernel[1:] == (1, 1) and stride[1:] == (1, 1):
        along = partial(F.conv2d, weight=weight[..., 0], bias=bias, stride=(stride[0], 1), groups=groups)
        return partial(_along_time, partial(along, padding=(padding[0], 0)))
    if groups == 1 and layer.in_channels <= _PICTURE_CHANNELS and max(stride) > 1:
        return partial(_differentiated_by, plain, interleaved_gradient(weight, stride, padding))
    if groups == layer.in_channels == layer.out_channels > 1:
        ordered = partial(_channels_last, plain)
        return partial(_differentiated_by, ordered, depthwise_gradient(weight, stride, padding))
    return plain


def channels_go_last(weight: Tensor) -> bool:
    """Whether to lay out a convolution's weight, and thereby all it computes, with the channels last.

    On CPUs this was faster for every shape and type measured; on GPUs it is the layout of half-precision kernels.
    """
    if weight.ndim not in _FORMATS:
        return False
    if weight.device.type == "cpu":
        return weight.dtype != torch.float64 and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return weight.device.type == "cuda" and weight.dtype in (torch.bfloat16, torch.float16)


def interleaved_gradient(weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Gradient:
    """The input gradient of a strided convolution, as one forward convolution onto blocks of ``stride`` inputs.

    The input positions with the same remainder modulo the stride form a grid of the output's resolution, and on
    each of these grids the gradient is an unstrided convolution with every stride-th weight.

    Args:
        weight: (O, C, ...).
        stride, padding: one number per axis; padding less than the kernel.
    """
    dimensions = len(stride)
    kernel = weight.shape[2:]
    lead = [-p % s for p, s in zip(padding, stride, strict=True)]
    blocks = [math.ceil((a + k) / s) for a, k, s in zip(lead, kernel, stride, strict=True)]
    tail = [b * s - k - a for b, s, k, a in zip(blocks, stride, kernel, lead, strict=True)]
    before = [b - 1 - math.ceil(p / s) for b, p, s in zip(blocks, padding, stride, strict=True)]
    phases = F.pad(weight, [n for axis in reversed(range(dimensions)) for n in (lead[axis], tail[axis])])
    for axis in reversed(range(dimensions)):
        phases = torch.unflatten(phases, 2 + axis, (blocks[axis], stride[axis]))
    taps, remainders = (range(2 + first, 2 + 2 * dimensions, 2) for first in (0, 1))
    phases = phases.flip(list(taps)).permute(*remainders, 1, 0, *taps).flatten(0, dimensions)
    return _Interleaved(_laid_out(phases), tuple(stride), tuple(before))


@dataclass(frozen=True, eq=False)
class _Interleaved:
    """See `interleaved_gradient`: ``weight`` is (prod(stride) * C, O, blocks...)."""

    weight: Tensor
    stride: tuple[int, ...]
    before: tuple[int, ...]

    def __call__(self, gradient: Tensor, extent: Sequence[int]) -> Tensor:
        dimensions = len(self.stride)
        coarse = [math.ceil(n / s) for n, s in zip(extent, self.stride, strict=True)]
        reach = zip(coarse, self.weight.shape[2:], self.before, gradient.shape[2:], strict=True)
        after = [n + taps - 1 - before - available for n, taps, before, available in reach]
        padding = [max(pair) for pair in zip(self.before, after, strict=True)]
        weight = self.weight.to(gradient.dtype)  # an autocast inside the network may have chosen another
        found = _OPERATIONS[gradient.ndim](gradient, weight, padding=padding)
        for axis, (pad, before, size) in enumerate(zip(padding, self.before, coarse, strict=True)):
            found = found.narrow(2 + axis, pad - before, size)
        found = torch.unflatten(found, 1, (*self.stride, -1))
        channel = 1 + dimensions
        within, among = range(1, channel), range(channel + 1, channel + 1 + dimensions)
        found = found.permute(0, *(axis for pair in zip(among, within, strict=True) for axis in pair), channel)
        for axis in range(dimensions):
            found = found.flatten(1 + axis, 2 + axis).narrow(1 + axis, 0, extent[axis])
        return found.movedim(-1, 1)


def depthwise_gradient(weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Gradient:
    """The input gradient of a depthwise convolution, as a forward one over the gradient spread by the stride.

    Args:
        weight: (C, 1, ...).
        stride, padding: one number per axis; padding less than the kernel.
    """
    before = [k - 1 - p for k, p in zip(weight.shape[2:], padding, strict=True)]
    flipped = _laid_out(weight.flip(list(range(2, weight.ndim))))
    return _Depthwise(flipped, tuple(stride), tuple(before))


@dataclass(frozen=True, eq=False)
class _Depthwise:
    """See `depthwise_gradient`: ``weight`` is (C, 1, ...), flipped."""

    weight: Tensor
    stride: tuple[int, ...]
    before: tuple[int, ...]

    def __call__(self, gradient: Tensor, extent: Sequence[int]) -> Tensor:
        room = [n + k - 1 for n, k in zip(extent, self.weight.shape[2:], strict=True)]
        spread = gradient.new_zeros(len(gradient), room[0], *room[1:], gradient.shape[1]).movedim(-1, 1)
        places = zip(self.before, self.stride, gradient.shape[2:], strict=True)
        spread[:, :, *(slice(start, start + step * count, step) for start, step, count in places)] = gradient
        return _OPERATIONS[gradient.ndim](spread, self.weight.to(gradient.dtype), groups=len(self.weight))


class _DifferentiatedBy(torch.autograd.Function):
    """A linear map, and the map that its gradient goes through."""

    @staticmethod
    def forward(x: Tensor, operation: Map, gradient: Gradient) -> Tensor:
        return operation(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Map, Gradient], output: Tensor) -> None:
        x, _, ctx.gradient = inputs
        ctx.extent = x.shape[2:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient(gradients[0], ctx.extent), None, None


def _differentiated_by(operation: Map, gradient: Gradient, x: Tensor) -> Tensor:
    result: Tensor = _DifferentiatedBy.apply(x, operation, gradient)
    return result


def _along_time(plane: Map, x: Tensor) -> Tensor:
    """A convolution over (T, H x W) of (B, C, T, H, W)."""
    return torch.unflatten(plane(x.flatten(3)), 3, x.shape[3:])


def _channels_last(operation: Map, x: Tensor) -> Tensor:
    return operation(x.contiguous(memory_format=_FORMATS[x.ndim]))


def _laid_out(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=_FORMATS[weight.ndim])
