"""Outer regularisers: what training against an attack adds to the cross-entropy on the attacked clips.

All are (B,) terms of a map g (the whole model, a router or an expert) at a clean clip x and an attacked one x'. The
local Lipschitz ratio is that of TLAT and J-TLAT; the others are those it is compared with (video MoE, figure 3).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.lipschitz import local_lipschitz, mean_square_change
from robustvideo.attacks.objectives import divergence
from robustvideo.clip import Clip, Modality, concatenate
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.registry import Registry, allow_nested

Map = Callable[[Clip], Tensor]
"""A clip -> logits (B, n)."""


@dataclass(frozen=True, eq=False)
class Views:
    """A map, and what it said of clean and attacked clips.

    Attributes:
        map: g.
        clean, attacked: x and x'.
        clean_logits, logits: (B, n) of both, with their graphs.
        labels: (B,) what g should say.
        seed: of random draws.
        is_detached: no gradient passes the clean clips, see `detached`.
    """

    map: Map
    clean: Clip
    attacked: Clip
    clean_logits: Tensor
    logits: Tensor
    labels: Tensor
    seed: int
    is_detached: bool = False

    @classmethod
    def of(cls, map: Map, clean: Clip, attacked: Clip, labels: Tensor, seed: int) -> Views:
        """Both views in one pass, so that batch statistics are those of both together."""
        clean_logits, logits = map(concatenate([clean, attacked])).chunk(2)
        return cls(map, clean, attacked, clean_logits, logits, labels, seed)

    def beside(self, other: Clip) -> Views:
        """The same clean clips beside others than the attacked ones."""
        views = Views.of(self.map, self.clean, other, self.labels, self.seed)
        return views.detached() if self.is_detached else views

    def detached(self) -> Views:
        """Views whose clean logits take no gradient."""
        return replace(self, clean_logits=self.clean_logits.detach(), is_detached=True)


@dataclass(frozen=True)
class Regulariser(ABC):
    """Base of the regularisers.

    Attributes:
        weight: its factor in the loss; 0 leaves plain adversarial training. The paper does not state any.

    Raises:
        InputError: a negative weight.
    """

    registered_name: ClassVar[str]

    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"A weight is finite and at least 0, got weight={self.weight:g}.")

    @abstractmethod
    def __call__(self, views: Views) -> Tensor:
        """(B,), without the weight."""


regularisers: Registry[Regulariser] = Registry("regulariser", "regularisers", "robustvideo.training.regularisers")
allow_nested(Regulariser, regularisers)


@regularisers.register("lipschitz")
@dataclass(frozen=True)
class Lipschitz(Regulariser):
    """``MSE(g(x), g(x')) / MSE(x, x')``, the local Lipschitz ratio (video MoE, equation 3).

    Attributes:
        weight: lambda. Default 0.0001, our decision: the ratio of a network that was not trained against attacks is
            in the thousands, and ten times the weight leaves little of the cross-entropy.
    """

    weight: float = 0.0001

    def __call__(self, views: Views) -> Tensor:
        modalities: list[Modality] = ["video"] if views.clean.audio is None else ["video", "audio"]
        moved = mean_square_change(views.clean, views.attacked, modalities)
        return local_lipschitz(views.clean_logits, views.logits, moved)


@regularisers.register("kl")
@dataclass(frozen=True)
class KL(Regulariser):
    """``KL(p || q)`` of the predictions p on clean and q on attacked clips (the direction of TRADES)."""

    def __call__(self, views: Views) -> Tensor:
        return divergence(views.clean_logits, views.logits)


@regularisers.register("js")
@dataclass(frozen=True)
class JS(Regulariser):
    """``KL(p || m) / 2 + KL(q || m) / 2``, m the mean of both predictions; at most log 2."""

    def __call__(self, views: Views) -> Tensor:
        p, q = F.log_softmax(views.clean_logits, dim=1), F.log_softmax(views.logits, dim=1)
        middle = torch.logaddexp(p, q) - math.log(2)
        return ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1)) / 2


@regularisers.register("cos")
@dataclass(frozen=True)
class Cosine(Regulariser):
    """``1 - cos(g(x), g(x'))`` of the logits."""

    def __call__(self, views: Views) -> Tensor:
        return 1.0 - F.cosine_similarity(views.clean_logits, views.logits, dim=1, eps=1e-8)


@regularisers.register("noise")
@dataclass(frozen=True)
class Noise(Regulariser):
    """``MSE(g(x + u), g(x))`` under random signs, ``u = eps * sign(N(0, I))``.

    The paper calls it NR and cites Tramèr et al. (2018), who add no such term: u is the random first step of their
    attack, the reading that we decided on. Both sides pass the network together: under batch statistics the clean
    clips of another pass would differ by their company, far more than by the noise.

    Attributes:
        eps: size of the noise. Default 8/255.
    """

    eps: float = 8 / 255

    def __call__(self, views: Views) -> Tensor:
        video = views.clean.video
        normal = ClipRandom(seed_for(views.seed, "noise", name) for name in views.clean.ids).normal(video)
        noisy = views.clean.with_signal("video", (video + self.eps * normal.sign()).clamp(0, 1))
        beside = views.beside(noisy)
        return (beside.logits - beside.clean_logits).square().mean(1)


@regularisers.register("gradient")
@dataclass(frozen=True)
class Gradient(Regulariser):
    """``||grad_x CE(g(x), y)||_2^2``, differentiated again for the weights.

    The paper calls it GR and cites Wong et al. (2020), who have no such term: the squared gradient of the clean
    loss is the reading that we decided on.
    """

    def __call__(self, views: Views) -> Tensor:
        video = views.clean.video.detach().requires_grad_()
        logits = views.map(views.clean.with_signal("video", video))
        loss = F.cross_entropy(logits, views.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, video, create_graph=True)
        return gradient.square().flatten(1).sum(1)
