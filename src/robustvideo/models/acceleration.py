"""`gradient_twin`: a copy of a model that is fast to differentiate with respect to its input.

The gradient of an attack needs no gradients of parameters, no batch statistics and, under autocast, no weights in
full precision. The twin shares the original's parameters and never writes to them; some of its layers run other code
(`robustvideo.models.replacement`). All else (`robustvideo.model.Routed` and the other abilities, hooks, tied weights,
parametrisations) is as in the original.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from robustvideo.model import Model, is_out_of_memory
from robustvideo.models.replacement import replace_layers

Precision = Literal["fp32", "bf16", "fp16"]
M = TypeVar("M", bound=nn.Module)

_CASTS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ENTRIES = ("forward", "route", "features", "fuse", "encode_frames", "head", "votes", "reconstruct")
"""How a model is called: as a whole, or by one of its abilities."""


def gradient_twin(model: M, precision: Precision) -> M:
    """A frozen copy in evaluation mode, whose gradients with respect to the input are the original's, sooner.

    * A convolution and the batch normalisation after it, neighbours in a plain `nn.Sequential`, run as one.
    * Convolutions run with the channels last in memory, whatever the layout of the input, and some get a faster
      way to their gradient (see `robustvideo.models.convolution`). Where the model's own code then fails, because
      it needs the usual layout (``view`` after a convolution), the twin goes back to that at its first call.
    * Weights are cast for autocast once, instead of at every pass.

    The mathematics are the same: gradients differ by rounding. In double precision only the first point applies.
    A twin holds for the parameters that it was made from: make a new one when they have changed.

    Args:
        model: any module; left exactly as it is.
        precision: the type under which the caller runs the twin: "fp32", or "bf16" / "fp16" under autocast.

    Returns:
        The twin; ``model`` itself where it is a twin, is compiled or cannot be copied, so that callers hold it
        `robustvideo.model.at_rest` as well.
    """
    if isinstance(vars(model).get("forward"), _Entry) or any(_is_compiled(module) for module in model.modules()):
        return model
    parameters = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    try:
        twin = copy.deepcopy(model, dict(parameters))
    except (RuntimeError, TypeError, ValueError, copy.Error):  # it holds a lock, a file, a tensor inside a graph, ...
        return model
    twin.eval()
    cast = _CASTS.get(precision)
    replace_layers(twin, cast, reorder=True)
    state = _State(weakref.ref(twin), cast)
    for module in twin.modules():
        if module is twin or isinstance(module, Model):
            for name in _ENTRIES:
                if callable(getattr(type(module), name, None)) and name not in vars(module):
                    setattr(module, name, _Entry(_call, state, weakref.ref(module), name))
    return twin


class _Entry(partial[Any]):
    """A method of a twin, guarded by `_call`."""


@dataclass
class _State:
    """A twin, the type its weights were cast to, and whether its convolutions still run with the channels last."""

    twin: weakref.ref[nn.Module]  # a twin that held itself would stay in memory until the next garbage collection
    cast: torch.dtype | None
    reordered: bool = True


def _call(state: _State, owner: weakref.ref[nn.Module], name: str, *arguments: Any, **options: Any) -> Any:
    """Run a method of a twin; if it fails, give the twin the usual layout and run the method once more."""
    twin, module = state.twin(), owner()
    assert twin is not None
    assert module is not None
    method = getattr(type(module), name)
    try:
        return method(module, *arguments, **options)
    except RuntimeError as error:
        if not state.reordered or is_out_of_memory(error):
            raise
    state.reordered = False
    replace_layers(twin, state.cast, reorder=False)
    return method(module, *arguments, **options)


def _is_compiled(module: nn.Module) -> bool:
    """Whether a module was compiled or scripted: a copy would have to be compiled again."""
    compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
    return compiled or isinstance(module, torch.jit.ScriptModule)
