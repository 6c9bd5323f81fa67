"""Load balancing: any training of a mixture of experts, with its experts kept in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.moe import MixtureOfExperts, load_balance
from robustvideo.training.method import Loss, Method, Part, Stage, Step, trainings
from robustvideo.training.standard import Standard


@trainings.register("balanced")
@dataclass(frozen=True)
class Balanced(Method):
    """Another method's losses, each with the load balance of a mixture's router (Fedus et al. 2022, equation 4).

    ``loss + weight * M * sum_i f_i P_i`` for every pass of the router that the loss was computed with. Without it a
    sparse mixture tends to send all clips to one expert: the others are then never trained.

    Attributes:
        method: what is trained. Default: `Standard`.
        weight: of the balance. Default 0.1, our decision: with 0.01, that of Fedus et al., the routers of small
            mixtures sent every clip to one expert.

    Raises:
        InputError: a negative weight; a network that is no mixture of experts.
    """

    method: Method = field(default=Standard())
    weight: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"A weight is finite and at least 0, got weight={self.weight:g}.")

    def companions(self, network: Model) -> nn.ModuleDict:
        mixture_in(network)
        return self.method.companions(network)

    def parts(self, network: Model, companions: nn.ModuleDict) -> Mapping[str, Part]:
        return self.method.parts(network, companions)

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        return self.method.before_epoch(stage)

    @property
    def for_accuracy(self) -> bool:
        return self.method.for_accuracy

    def losses(self, step: Step) -> Iterator[Loss]:
        mixture = mixture_in(step.network)
        losses = self.method.losses(step)
        while True:
            with _training_passes(mixture.router) as passes:  # not across a yield: other parts of a batch run then
                loss = next(losses, None)
            if loss is None:
                return
            if passes:
                balance = torch.stack([load_balance(logits.float(), mixture.top) for logits in passes]).mean()
                metrics = {**loss.metrics, "balance": balance}
                loss = replace(loss, value=loss.value + self.weight * balance, metrics=metrics)
            yield loss


@contextmanager
def _training_passes(router: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a router returned in training mode; attacks run a copy at rest."""
    passes: list[Tensor] = []

    def note(module: nn.Module, _: Any, logits: Tensor) -> None:
        if module.training and torch.is_grad_enabled():
            passes.append(logits)

    handle = router.register_forward_hook(note)
    try:
        yield passes
    finally:
        handle.remove()


def mixture_in(network: Model) -> MixtureOfExperts:
    """The network, if it is a mixture of experts.

    Raises:
        InputError: it is not.
    """
    if not isinstance(network, MixtureOfExperts):
        raise InputError(
            f"This training is for mixtures of experts, such as video_moe; the model is a {type(network).__name__}."
        )
    return network
