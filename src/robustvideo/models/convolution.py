"""Convolutions with frozen weights, for taking gradients with respect to their input on a CPU.

The library's own backward pass is slow for two shapes, and then the gradient is written as a forward convolution:

* a strided convolution over the few channels of a picture (every network's first layer): 2 to 5 times faster;
* a depthwise convolution: 3 to 40 times faster.

A convolution along time alone runs as one over a plane of (time, height x width): a tenth faster, and five times
where torch has a single thread, which sends it to a slow fallback. The mathematics are the same in every case; only
the order of summation differs. Measured by ``benchmarks/gradient_step.py``.
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

Map = Callable[[Tensor], Tensor]
InputGradient = Callable[[Tensor, Sequence[int]], Tensor]
"""Gradient at the output, extent of the input (T, H, W or less) -> gradient at the input."""

_OPERATIONS: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_PICTURE_CHANNELS = 4


def convolution(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> Map:
    """The forward pass of a convolution with weights of its own: other values, or another type.

    Args:
        layer: an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` with zero padding; gives stride, padding, dilation, groups.
        weight: (O, C / groups, ...) as ``layer.weight``. Not differentiated.
        bias: (O,) or None. Not differentiated.
    """
    geometry: dict[str, Any] = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    operation = _OPERATIONS[weight.ndim]
    plain = partial(operation, weight=weight, bias=bias, **geometry)
    if not _reordered(weight):
        return plain
    weight = weight.contiguous(memory_format=_FORMATS[weight.ndim])
    plain = partial(operation, weight=weight, bias=bias, **geometry)
    if isinstance(geometry["padding"], str) or set(geometry["dilation"]) != {1}:
        return plain
    stride, padding, groups = geometry["stride"], geometry["padding"], geometry["groups"]
    extent = weight.shape[2:]
    if weight.ndim == 5 and extent[1:] == (1, 1) and stride[1:] == (1, 1) and padding[1:] == (0, 0) and groups == 1:
        return partial(_along_time, weight=weight[..., 0], bias=bias, stride=stride[0], padding=padding[0])
    if any(p >= k for p, k in zip(padding, extent, strict=True)):
        return plain
    if groups == 1 and weight.shape[1] <= _PICTURE_CHANNELS and max(stride) > 1:
        return _WithGradient(plain, interleaved_gradient(weight, stride, padding), weight.dtype)
    if groups == layer.in_channels == layer.out_channels > 1:
        return _WithGradient(plain, depthwise_gradient(weight, stride, padding), weight.dtype)
    return plain


def _reordered(weight: Tensor) -> bool:
    """Whether channels go last in memory: faster for every shape measured on CPUs, and for half types on GPUs."""
    if weight.ndim == 3:
        return False
    if weight.device.type == "cpu":
        return weight.dtype != torch.float64 and torch.backends.mkldnn.is_available()
    return weight.device.type == "cuda" and weight.dtype in (torch.bfloat16, torch.float16)
