"""`Updates`: from losses to new weights, part by part, in mixed precision and over several processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import reduce
from torch import nn

from robustvideo.training.method import Loss, Part
from robustvideo.training.recipe import Recipe
from robustvideo.training.schedule import rate


class Updates:
    """The parts of a training and their optimizers.

    Gradients are averaged over processes after the backward pass, whatever passes led to the loss: a method may run
    the network several times, in any mode, and leave parts of it out.

    Args:
        accelerator: the devices.
        recipe: the optimizer of parts that bring none, and the schedule of all.
        parts: see `Method.parts`.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, parts: Mapping[str, Part]):
        self._accelerator = accelerator
        self._schedule = recipe.schedule
        self._share = 1 / recipe.accumulation
        self.parameters: dict[str, list[nn.Parameter]] = {}
        self._optimizers: dict[str, Any] = {}
        for name, part in parts.items():
            parameters = [p for p in part.parameters if p.requires_grad]
            optimizer = part.optimizer(parameters) if part.optimizer else _optimizer(recipe, parameters)
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]
            self.parameters[name] = parameters
            self._optimizers[name] = accelerator.prepare_optimizer(optimizer)

    def schedule(self, progress: float) -> None:
        """Set every learning rate for a share of the training that is done."""
        factor = rate(self._schedule, progress)
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor

    def backward(self, loss: Loss) -> None:
        """Add the gradients of one part of a batch."""
        wanted = [p for name in self._named(loss) for p in self.parameters[name]]
        self._accelerator.backward(loss.value * self._share, inputs=[*wanted, *loss.leaves])

    def apply(self, loss: Loss) -> None:
        """Update the parts that a loss names, from the gradients of all parts of the batch."""
        for name in self._named(loss):
            self._average(self.parameters[name])
            self._optimizers[name].step()
            self._optimizers[name].zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """What the optimizers remember, by part."""
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(states[name])

    def _named(self, loss: Loss) -> Iterable[str]:
        return self.parameters if loss.parts is None else loss.parts

    def _average(self, parameters: list[nn.Parameter]) -> None:
        """Average gradients over processes, in one message; a process without a gradient counts as zero."""
        if self._accelerator.num_processes == 1 or not parameters:
            return
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
        pieces = reduce(flat, "mean").split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
