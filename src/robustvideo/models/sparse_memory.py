"""A sparse feature memory: features are rebuilt from a few remembered ones (DCFL, Tian and Xu 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robustvideo.errors import InputError, unknown
from robustvideo.model import Model
from robustvideo.models.alteration import Alteration, alterations
from robustvideo.models.audio_visual import AudioVisualModel
from robustvideo.models.refused import MODALITIES, Refused, audio_visual, pooled

GradientMode = Literal["implicit", "unrolled", "identity"]

_RIDGE = 1e-6


class SparseMemory(Refused):
    """``x' = a D h(x) + (1 - a) x`` of each modality's feature x, then the model's own fusion.

    ``h(x) = argmin_h 1/2 ||D h - x||^2 + sparsity ||h||_1``: what an attacker added should not fit remembered features
    D (D x atoms, empty until training fills them).

    Args:
        encoders: the model.
        atoms: features remembered per modality.
        share: a.
        sparsity: weight of the L1 norm.
        iterations: of the solver, for every clip alike; the authors stop by a norm over the batch, which would let a
            clip's answer depend on its neighbours.
        gradient: through h: "implicit" is exact off the kinks, "unrolled" goes back through all iterations (the same,
            slower), "identity" takes h for constant in its support's span. See `sparse_code`.
    """

    def __init__(
        self,
        encoders: AudioVisualModel,
        atoms: int,
        share: float,
        sparsity: float,
        iterations: int,
        gradient: GradientMode,
    ):
        super().__init__(encoders)
        size = encoders.fused_size if encoders.fusion == "sum" else encoders.fused_size // 2
        for name in MODALITIES:
            self.register_buffer(f"memory_{name}", torch.zeros(size, atoms))
        self.atoms, self.share, self.sparsity = atoms, share, sparsity
        self.iterations, self.gradient = iterations, gradient

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        rebuilt = self.rebuilt(features)
        return self.encoders.fuse({name: feature[:, None] for name, feature in rebuilt.items()})

    def rebuilt(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Modality -> (B, D): x'."""
        found: dict[str, Tensor] = {}
        for name, feature in zip(MODALITIES, pooled(features), strict=True):
            memory = self.memory(name).to(feature)
            with torch.autocast(feature.device.type, enabled=False):
                from_memory = rebuild(feature, memory, self.sparsity, self.iterations, self.gradient)
            found[name] = self.share * from_memory + (1 - self.share) * feature
        return found

    def memory(self, modality: str) -> Tensor:
        """(D, atoms) remembered features of a modality, as columns."""
        return self.get_buffer(f"memory_{modality}")

    @torch.no_grad()
    def remember(self, modality: str, features: Tensor) -> None:
        """Take (n, D) features, at most ``atoms``, as the memory; the rest stays empty."""
        memory = self.memory(modality).zero_()
        memory[:, : len(features)] = features[: self.atoms].T.to(memory)


def rebuild(x: Tensor, memory: Tensor, sparsity: float, iterations: int, gradient: GradientMode) -> Tensor:
    """``D h(x)`` for features x (B, D), with one of three gradients.

    On the support A of h, ``dh_A / dx = (D_A' D_A)^-1 D_A'``, so ``d(D h) / dx`` is the projection onto the span of
    D_A, ``G (G + 1e-6 I)^-1`` with ``G = D_A D_A'``. "identity" passes the gradient as if h were exact.
    """
    if gradient == "unrolled":
        return sparse_code(x, memory, sparsity, iterations) @ memory.T
    with torch.no_grad():
        code = sparse_code(x, memory, sparsity, iterations)
        value = code @ memory.T
        if gradient == "implicit":
            active = memory * (code != 0)[:, None, :].to(memory)
            gram = active @ active.transpose(1, 2)
            eye = torch.eye(len(memory), dtype=memory.dtype, device=memory.device)
            projection = torch.linalg.solve(gram + _RIDGE * eye, gram)  # symmetric: the two factors commute
    through = x if gradient == "identity" else torch.einsum("bij,bj->bi", projection, x)
    return value + (through - through.detach())


def sparse_code(x: Tensor, memory: Tensor, sparsity: float, iterations: int, rate: float | None = None) -> Tensor:
    """(B, atoms) ``argmin_h 1/2 ||D h - x||^2 + sparsity ||h||_1`` by FISTA from h = 0 (Beck and Teboulle 2009).

    Args:
        x: (B, D).
        memory: D, (D, atoms).
        sparsity: weight of the L1 norm.
        iterations: for every row alike.
        rate: step. Default ``0.99 / lambda_max(D' D)``.
    """
    if rate is None:
        rate = 0.99 / max(float(torch.linalg.matrix_norm(memory.detach(), 2)) ** 2, 1e-12)
    code = ahead = x.new_zeros(len(x), memory.shape[1])
    momentum = 1.0
    for _ in range(iterations):
        moved = ahead - rate * ((ahead @ memory.T - x) @ memory)
        new = moved.sign() * (moved.abs() - rate * sparsity).clamp_min(0)
        momentum, before = (1 + math.sqrt(1 + 4 * momentum**2)) / 2, momentum
        ahead, code = new + (before - 1) / momentum * (new - code), new
    return code


@alterations.register("sparse_memory")
@dataclass(frozen=True)
class WithSparseMemory(Alteration):
    """A sparse memory of training features between the encoders and the fusion (DCFL); trained by ``dcfl``.

    Attributes:
        atoms: features remembered per modality. Default 1024, the authors'.
        share: a, of what is rebuilt from memory. Default 0.5, theirs on MUSIC.
        sparsity: weight of the L1 norm. Default 0.1, theirs.
        iterations: of FISTA. Default 200, our decision: the authors' 2000 ISTA steps end by a norm over the batch.
        gradient: "implicit", "unrolled" or "identity", see `SparseMemory`. Report the strongest attack of the three.

    Raises:
        InputError: a number out of range.
    """

    atoms: int = 1024
    share: float = 0.5
    sparsity: float = 0.1
    iterations: int = 200
    gradient: GradientMode = "implicit"

    def __post_init__(self) -> None:
        if self.atoms < 1 or self.iterations < 1:
            raise InputError(f"A memory has at least one atom and iteration, got {self.atoms} and {self.iterations}.")
        if not 0 <= self.share <= 1 or not 0 < self.sparsity < float("inf"):
            raise InputError(f"share= is in [0, 1] and sparsity= positive, got {self.share:g} and {self.sparsity:g}.")
        if self.gradient not in get_args(GradientMode):
            raise unknown("gradient of a sparse memory:", self.gradient, get_args(GradientMode))

    def apply(self, model: Model) -> Model:
        encoders = audio_visual(model, "sparse_memory")
        return SparseMemory(encoders, self.atoms, self.share, self.sparsity, self.iterations, self.gradient)
