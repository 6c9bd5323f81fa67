"""Several surrogate models attacked as one, so that what fools them all may fool a model nobody has seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.model import Model, frames_per_step

Fusion = Literal["logits", "probabilities"]
V = TypeVar("V")


class Ensemble(Model):
    """A weighted mean of models over the same classes; itself a `Model`.

    Each member keeps its own preprocessing. An attack on it ascends its objective of the mean answer; to average
    the members' own losses instead, an attack ascends a `robustvideo.attacks.mean_loss.MeanLoss`. The spec
    ``embedded:r3d + embedded:cnn_lstm`` is an ensemble of two.

    Args:
        models: the members, on one device.
        fusion: what is averaged: "logits" (Dong et al. 2018 found it to transfer best), or softmax "probabilities",
            of which the logarithm is returned. Default "logits".
        weights: one per member, not negative; they are divided by their sum. Default: equal.
        recompute: keep no member's activations for the backward pass, but compute them once more: memory is that of
            the largest member instead of their sum, for a second forward pass. Default False.

    Raises:
        InputError: no model, weights that do not fit, an unknown fusion, or members that name other classes.
    """

    def __init__(
        self,
        models: Sequence[Model],
        fusion: Fusion = "logits",
        weights: Sequence[float] | None = None,
        recompute: bool = False,
    ):
        super().__init__()
        if not models:
            raise InputError("An ensemble needs at least one model.")
        if fusion not in get_args(Fusion):
            raise unknown("fusion", fusion, get_args(Fusion))
        shares = [1.0] * len(models) if weights is None else list(weights)
        if len(shares) != len(models) or min(shares) < 0 or not sum(shares) > 0:
            raise InputError(
                f"An ensemble of {len(models)} models needs as many weights, none negative and not all 0, got {shares}."
            )
        self.members = nn.ModuleList(models)
        self.fusion = fusion
        self.weights = tuple(share / sum(shares) for share in shares)
        self.recompute = recompute
        labels = {model.labels for model in models} - {None}
        rates = {model.sample_rate for model in models if model.sample_rate is not None}
        if len(labels) > 1:
            raise InputError("The models of an ensemble must have the same classes in the same order.")
        self.labels = next(iter(labels), None)
        self.sample_rate = max(rates, default=None)  # nothing is lost to any; a model that hears resamples
        self.frames = _common([model.frames for model in models])
        self.size = _common([model.size for model in models])

    @property
    def models(self) -> tuple[Model, ...]:
        """The members."""
        return tuple(cast("Model", member) for member in self.members)

    @property
    def span(self) -> int:
        """Frames after which a time step of every member ends."""
        return math.lcm(*(frames_per_step(model) for model in self.models))

    def forward(self, clip: Clip) -> Tensor:
        return self.fuse([self.call(model, clip) for model in self.models])

    def call(self, function: Callable[..., V], *arguments: object) -> V:
        """A member's part of the work; with ``recompute`` its activations are not kept."""
        if self.recompute and torch.is_grad_enabled():
            result: V = checkpoint(function, *arguments, use_reentrant=False)
            return result
        return function(*arguments)

    def fuse(self, logits: Sequence[Tensor]) -> Tensor:
        """The ensemble's logits (B, K), in fp32 at least, from those of its members.

        Raises:
            InputError: members with different numbers of classes.
        """
        if len({one.shape for one in logits}) > 1:
            raise InputError(
                f"The models of an ensemble have {' and '.join(str(one.shape[1]) for one in logits)} classes: "
                "they must have the same."
            )
        stacked = torch.stack(tuple(logits))
        stacked = stacked.float() if stacked.element_size() < 4 else stacked
        weights = torch.tensor(self.weights, dtype=stacked.dtype, device=stacked.device)[:, None, None]
        if self.fusion == "logits":
            return (stacked * weights).sum(0)
        return (stacked.log_softmax(2) + weights.log()).logsumexp(0)


def _common(values: Sequence[V]) -> V | None:
    """What all agree on, if they do."""
    return values[0] if all(value == values[0] for value in values) else None
