"""Memory that does not grow with the number of steps: what the backward pass needs of a step is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def recomputed(step: Callable[..., T], *arguments: object) -> T:
    """``step(*arguments)``; of what happens inside, nothing is kept for the backward pass, which runs it again.

    A chain of such steps holds its states and the activations of one step, however long it is; each step runs twice
    per gradient. The gradient is the exact one.

    Args:
        step: a function of its arguments alone. Random draws must be among them, or come from seeds among them:
            a step that draws from a stream would draw something else the second time.
        arguments: tensors whose gradients are wanted must be arguments, or reachable from what ``step`` holds.
    """
    if not torch.is_grad_enabled():
        return step(*arguments)
    result: T = checkpoint(step, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result
