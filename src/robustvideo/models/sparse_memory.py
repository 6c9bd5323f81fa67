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

_TURNS = 2000
_PARALLEL = 1e-9  # an atom is moved along with the support, and never meets it
_ALIKE = 1e-8  # of an atom's square, and no more, outside the support's span: it is made up of others


class SparseMemory(Refused):
    """``x' = a D h(x) + (1 - a) x`` of each modality's feature x, then the model's own fusion.

    ``h(x) = argmin_h 1/2 ||D h - x||^2 + sparsity ||h||_1``: what an attacker added should not fit remembered features
    D (D x atoms, empty until training fills them).

    Args:
        encoders: the model.
        atoms: features remembered per modality.
        share: a.
        sparsity: weight of the L1 norm.
        iterations: of FISTA, which gradient="unrolled" goes back through.
        gradient: through h, which is exact with all three: "implicit" is the derivative, "unrolled" that of an h not
            yet converged, "identity" passes the gradient by. See `rebuild`.
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
            self.register_buffer(f"rate_{name}", torch.zeros(()))
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
                rate = self.get_buffer(f"rate_{name}").to(feature)
                from_memory = rebuild(feature, memory, self.sparsity, self.gradient, self.iterations, rate)
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
        self.get_buffer(f"rate_{modality}").copy_(rate_of(memory))


def rebuild(
    x: Tensor, memory: Tensor, sparsity: float, gradient: GradientMode, iterations: int, rate: float | Tensor
) -> Tensor:
    """``D h(x)`` for features x (B, D), the same value with one of three gradients.

    On the support A of h with signs s, ``h_A = (D_A' D_A)^-1 (D_A' x - sparsity s)``: between the kinks, where A
    changes, the derivative is the projection onto the span of D_A, and "implicit" is that. "unrolled" is the derivative
    of `fista`, whose support is far wider before it has converged; "identity" passes the gradient by.

    Args:
        x: features.
        memory: D, (D, atoms).
        sparsity: weight of the L1 norm.
        gradient: see above.
        iterations, rate: of `fista`, for "unrolled" alone.
    """
    found = support(x, memory, sparsity)
    value = found.rebuilt(x)
    if gradient == "implicit":
        return value
    through = fista(x, memory, sparsity, iterations, rate) @ memory.T if gradient == "unrolled" else x
    return value.detach() + (through - through.detach())


@dataclass(frozen=True, eq=False)
class Support:
    """The atoms that rebuild each of B features, in places of which some are empty; in fp64, see `support`.

    Attributes:
        atoms: (B, places) their numbers.
        signs: (B, places) of their weights; 0 where a place is empty.
        columns: (B, places, D) themselves; 0 where a place is empty.
        inverse: (B, places, places) of their Gram matrix; 0 where a place is empty.
        sparsity: (B,) weight of the L1 norm for which they are the support.
    """

    atoms: Tensor
    signs: Tensor
    columns: Tensor
    inverse: Tensor
    sparsity: Tensor

    def weights(self, x: Tensor) -> Tensor:
        """(B, places) h on the support, for features x (B, D)."""
        return _apply(self.inverse, _apply(self.columns, x.to(self.columns)) - self.sparsity[:, None] * self.signs)

    def rebuilt(self, x: Tensor) -> Tensor:
        """(B, D) D h."""
        return (self.weights(x)[:, None] @ self.columns)[:, 0].to(x)


@torch.no_grad()
def support(x: Tensor, memory: Tensor, sparsity: float) -> Support:
    """Where ``argmin_h 1/2 ||D h - x||^2 + sparsity ||h||_1`` is not 0, exactly, by homotopy (Osborne et al. 2000).

    From the weight of the L1 norm at which h = 0 down to ``sparsity``, h is linear between turns at which one atom
    joins or leaves the support. Features of trained encoders are so alike that iterations by gradient (ISTA, FISTA,
    with or without restarts) need ten thousand and more; the path takes tens of turns. In fp64: such atoms' Gram matrix
    has no inverse in fp32.

    The conditions of optimality hold to 1e-5 of the sparsity, and to 1e-2 where atoms differ by 1e-4 of their size and
    less: one of them is then left out. A feature of more than 2000 turns, which none of ours came near, keeps the
    support of a larger weight.

    Args:
        x: (B, D).
        memory: D, (D, atoms).
        sparsity: weight of the L1 norm.
    """
    x, memory = x.double(), memory.double()
    (batch, size), count = x.shape, memory.shape[1]
    places = min(size, count) + 1  # more than a support is large: one is always empty
    atoms = torch.zeros(batch, places, dtype=torch.long, device=x.device)
    signs, columns = x.new_zeros(batch, places), x.new_zeros(batch, places, size)
    inverse = x.new_zeros(batch, places, places)
    free = torch.ones(batch, count, dtype=torch.bool, device=x.device)
    reached = x.new_full((batch,), sparsity)
    rows = torch.arange(batch, device=x.device)  # of features that are not done
    for turn in range(_TURNS):
        used = min(turn + 1, places)
        s, c, n = signs[rows, :used], columns[rows, :used], inverse[rows, :used, :used]
        # for a weight w of the norm, h = start - w * slope on the support, and D' (x - D h) = kept + w * pull
        start, slope = (torch.stack([_apply(c, x[rows]), s], 1) @ n).unbind(1)
        kept = (x[rows] - (start[:, None] @ c)[:, 0]) @ memory
        pull = (slope[:, None] @ c)[:, 0] @ memory
        closing = torch.cat([1 - pull, 1 + pull], 1)
        may_join = (closing > _PARALLEL) & free[rows].repeat(1, 2)
        joining = torch.where(may_join, torch.cat([kept, -kept], 1) / closing, 0)
        leaving = torch.where(s * slope < 0, start / slope, 0)
        weight, event = torch.cat([joining, leaving], 1).max(1)
        on = (weight > sparsity).nonzero()[:, 0]
        reached[rows] = weight.clamp_min(sparsity)
        if len(on) == 0:
            break
        rows, event, s, c, n = rows[on], event[on], s[on], c[on], n[on]
        joins = event < 2 * count
        place = torch.where(joins, s.abs().argmin(1), event - 2 * count)  # empty, or of the atom that leaves
        atom = torch.where(joins, event % count, atoms[rows, place])
        column = memory.T[atom]
        inverse[rows, :used, :used], new = _exchanged(n, c, column, place, joins)
        columns[rows, place] = column * new[:, None]
        signs[rows, place] = torch.where(event < count, 1.0, -1.0).to(x) * new
        atoms[rows, place] = atom
        free[rows, atom] = ~joins
    return Support(atoms, signs, columns, inverse, reached)


def _exchanged(inverse: Tensor, columns: Tensor, column: Tensor, place: Tensor, joins: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of each Gram matrix once a column has come or gone, and whether one has come.

    Either is a change of rank 1. A column does not come where the others already make it up, such as that of a clip
    remembered twice.
    """
    own = torch.arange(len(place), device=place.device)
    fit = _apply(inverse, _apply(columns, column))
    apart = (column - (fit[:, None] @ columns)[:, 0]).square().sum(1)
    comes = joins & (apart > _ALIKE * column.square().sum(1))
    coming = fit.index_put((own, place), -fit.new_ones(())) * comes[:, None]
    edge = torch.where(joins[:, None], coming, inverse[own, place])
    scale = torch.where(joins, torch.where(comes, apart, 1.0), -inverse[own, place, place])
    inverse = inverse + edge[:, :, None] * (edge / scale[:, None])[:, None]
    filled = torch.ones_like(fit).index_put((own, place), comes.to(fit))  # rounding leaves no 0
    return inverse * filled[:, :, None] * filled[:, None], comes


def sparse_code(x: Tensor, memory: Tensor, sparsity: float) -> Tensor:
    """(B, atoms) the h of `support`, differentiable by x."""
    found = support(x, memory, sparsity)
    return x.new_zeros(len(x), memory.shape[1]).scatter_add(1, found.atoms, found.weights(x).to(x))


def fista(x: Tensor, memory: Tensor, sparsity: float, iterations: int, rate: float | Tensor) -> Tensor:
    """(B, atoms) the h of `support` after some iterations from h = 0 (Beck and Teboulle 2009), at `rate_of` the memory.

    The same number for all rows: the authors stop by a norm over the batch, which would let a clip's answer depend on
    its neighbours.
    """
    code = ahead = x.new_zeros(len(x), memory.shape[1])
    momentum = 1.0
    for _ in range(iterations):
        moved = ahead - rate * ((ahead @ memory.T - x) @ memory)
        new = moved.sign() * (moved.abs() - rate * sparsity).clamp_min(0)
        momentum, before = (1 + math.sqrt(1 + 4 * momentum**2)) / 2, momentum
        ahead, code = new + (before - 1) / momentum * (new - code), new
    return code


def rate_of(memory: Tensor) -> Tensor:
    """The step of `fista`, ``0.99 / lambda_max(D' D)``."""
    rate: Tensor = 0.99 / torch.linalg.matrix_norm(memory, 2).square().clamp_min(1e-12)
    return rate


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[:, :, None])[:, :, 0]


@alterations.register("sparse_memory")
@dataclass(frozen=True)
class WithSparseMemory(Alteration):
    """A sparse memory of training features between the encoders and the fusion (DCFL); trained by ``dcfl``.

    Attributes:
        atoms: features remembered per modality. Default 1024, the authors'.
        share: a, of what is rebuilt from memory. Default 0.5, theirs on MUSIC.
        sparsity: weight of the L1 norm. Default 0.1, theirs.
        iterations: of FISTA, for gradient="unrolled" alone. Default 200, our decision. What is rebuilt is exact: the
            authors' 2000 ISTA steps, ended by a norm over the batch, are far from the minimum they are after.
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
