"""Placeholder until the measured version lands: the owner of models/ replaces this file."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def gradient_twin(model: M, precision: Literal["fp32", "bf16", "fp16"]) -> M:
    """A frozen copy in evaluation mode."""
    return copy.deepcopy(model).eval().requires_grad_(False)
