"""Mixtures of experts: a light router sends every clip to some of several video networks.

``F(x) = sum_i w_i(x) E_i(x)``, with weights from the router's logits R(x) (video MoE, section 3). An expert runs only
on the clips that are routed to it. What clips share a batch does not change what a clip is told, as long as the
model is in evaluation mode.

One expert trained alone (AT-S), the mixture that runs all experts (AT-D, ``top`` equal to their number) and the sparse
one (AT-M) of the paper's tables are the expert's own spec, ``video_moe?top=4`` and ``video_moe``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError, RobustVideoWarning, unknown
from robustvideo.model import Model, Routing, wrap
from robustvideo.models.catalog import TORCHVISION, networks
from robustvideo.models.small import MEAN, STD
from robustvideo.registry import parameters
from robustvideo.spec import Call, format_value

Gate = Literal["kept", "renormalised", "straight_through"]

LEAST_CLIPS = 4
"""An expert that is trained on fewer clips of a batch than this normalises by its running statistics (our decision).

A clip and its attacked copy, which pass together, are two.
"""


class MixtureOfExperts(Model):
    """Experts, and a router that chooses among them; it is `robustvideo.model.Routed`.

    Attributes:
        experts: the networks E_i, each a `Model` with the same number of classes.
        router: a `Model` whose logits (B, M) weigh the experts.
        top: how many experts a clip is sent to.
        gate: see `gate_weights`.
        frames, size: those of the experts, where they are the same for all.

    Raises:
        InputError: no expert, or ``top`` out of range.
    """

    def __init__(self, experts: Sequence[Model], router: Model, top: int = 1, gate: Gate = "kept"):
        super().__init__()
        if not experts:
            raise InputError("A mixture of experts needs at least one expert.")
        if not 1 <= top <= len(experts):
            raise InputError(f"A clip is sent to between 1 and all {len(experts)} experts, got top={top}.")
        self.experts = nn.ModuleList(experts)
        self.router = router
        self.top = top
        self.gate: Gate = gate
        self.frames = experts[0].frames if len({e.frames for e in experts}) == 1 else None
        self.size = experts[0].size if len({e.size for e in experts}) == 1 else None

    def forward(self, clip: Clip) -> Tensor:
        return self.route(clip).logits

    def route(self, clip: Clip, needed: Tensor | None = None) -> Routing:
        """Router logits, expert logits and gate weights of one forward pass; see `robustvideo.model.Routed`."""
        router_logits = self.router_logits(clip)
        chosen = top_experts(router_logits, self.top)
        weights = gate_weights(router_logits, chosen, self.gate)
        expert_logits = self._opinions(clip, chosen if needed is None else chosen | needed, router_logits)
        opinions = expert_logits.masked_fill(~chosen[:, :, None], 0.0)
        return Routing((weights[:, :, None] * opinions).sum(1), router_logits, expert_logits, weights)

    def router_logits(self, clip: Clip) -> Tensor:
        """Logits (B, M) of the router alone, in fp32 at least."""
        return _full(self.router(clip))

    def expert_logits(self, index: int, clip: Clip) -> Tensor:
        """Logits (B, K) of one expert on clips of the caller's choice, in fp32 at least."""
        expert = self.experts[index]
        with _statistics_at_rest(expert, expert.training and len(clip) < LEAST_CLIPS):
            return _full(expert(clip))

    def _opinions(self, clip: Clip, wanted: Tensor, like: Tensor) -> Tensor:
        """(B, M, K): every expert run once, on the clips that want it; NaN elsewhere."""
        rows = [wanted[:, i].nonzero()[:, 0] for i in range(len(self.experts))]
        answers = {
            i: self.expert_logits(i, clip if len(own) == len(clip) else clip.select(own))
            for i, own in enumerate(rows)
            if len(own)
        }
        classes = {answer.shape[1] for answer in answers.values()}
        if len(classes) > 1:
            raise InputError(f"The experts of a mixture need the same classes, got {sorted(classes)} logits.")
        nothing = like.new_full((len(clip), *classes), torch.nan)
        columns = [
            nothing.index_put((own,), answers[i].to(like.dtype)) if len(own) else nothing for i, own in enumerate(rows)
        ]
        return torch.stack(columns, dim=1)


def top_experts(router_logits: Tensor, top: int) -> Tensor:
    """(B, M) bool: the ``top`` experts of highest logit."""
    best = router_logits.topk(top, dim=1).indices
    return torch.zeros_like(router_logits, dtype=torch.bool).scatter(1, best, True)


def gate_weights(router_logits: Tensor, chosen: Tensor, gate: Gate) -> Tensor:
    """(B, M) weights of the chosen experts, 0 for the others; p is the softmax of the router's logits over all.

    * "kept": p (Switch, Fedus et al. 2022). The gradient reaches the router, and the logits of a mixture that is not
      sure of its expert are damped.
    * "renormalised": p over its sum over the chosen. With one chosen expert the weight is 1: no gradient reaches the
      router, neither in training nor in an attack.
    * "straight_through": equal weights forward, the gradient of p backward (Bengio et al. 2013).
    """
    if gate == "renormalised":
        return router_logits.masked_fill(~chosen, -torch.inf).softmax(1)
    kept = router_logits.softmax(1) * chosen
    if gate == "kept":
        return kept
    equal = chosen.to(kept.dtype) / chosen.sum(1, keepdim=True)
    return equal + (kept - kept.detach())


def load_balance(router_logits: Tensor, top: int = 1) -> Tensor:
    """``M * sum_i f_i P_i``: 1 where all experts are used alike, M where one takes all (Fedus et al. 2022, eq. 4).

    Args:
        router_logits: (B, M) of a batch; f is the share of its clips that go to an expert, P the mean softmax. Only P
            has a gradient.
        top: experts that a clip is sent to.
    """
    shares = top_experts(router_logits.detach(), top).to(router_logits.dtype).mean(0) / top
    return router_logits.shape[1] * (shares * router_logits.softmax(1).mean(0)).sum()


@networks.register("video_moe")
@dataclass(frozen=True)
class VideoMoE:
    """Mixture of experts: a light router sends each clip to some of several video networks.

    Experts are named as models are, with options of their own in parentheses: ``video_moe?expert=r3d_small``,
    ``video_moe?experts=[r3d_18, r2plus1d_18, slowfast_r50(frames=32)]``. torchvision's networks need no scheme. Any
    other model spec goes in quotes, ``video_moe?expert='embedded:r3d'``: experts that start from trained weights.

    Attributes:
        experts: how many there are, or a list of them. Default 4, the paper's.
        expert: what they are, where ``experts`` is a number. Default: ``r3d_small``.
        top: experts that a clip is sent to. Default 1, the paper's; as many as there are experts make it dense.
        gate: "kept", "renormalised" or "straight_through", see `gate_weights`. Default: the first.
        classes: number of logits. Default: that of the data it is trained on.
        frames, size: what experts take that do not say otherwise. Default: each expert's own.
        router_width: channels of the router's first layer; its second has twice as many. The router (two 3-D
            convolutions, then the mean) sees what the first expert sees. Default 16, our decision: the paper's
            router is not specified.

    Raises:
        InputError: an unknown expert, or a number out of range.
    """

    experts: int | tuple[str | Call, ...] = 4
    expert: str | Call | None = None
    top: int = 1
    gate: Gate = "kept"
    classes: int = 8
    frames: int | None = None
    size: int | None = None
    router_width: int = 16

    def __post_init__(self) -> None:
        if not isinstance(self.experts, int) and self.expert is not None:
            raise InputError("Experts of a mixture are a list experts=, or one kind expert= and a number experts=.")
        if len(self._calls) < 2:
            raise InputError("A mixture needs two experts or more: load a single expert by its own name.")
        if not 1 <= self.top <= len(self._calls):
            raise InputError(f"A clip is sent to between 1 and all {len(self._calls)} experts, got top={self.top}.")
        if self.router_width < 1:
            raise InputError(f"router_width= is at least 1, got {self.router_width}.")
        if self.gate == "renormalised" and self.top == 1:
            warnings.warn(
                "gate=renormalised with top=1 gives every chosen expert the weight 1: no gradient reaches the router, "
                "so attacks on the whole model do not see it and training does not move it.",
                RobustVideoWarning,
                stacklevel=2,
            )

    @property
    def _calls(self) -> list[Call]:
        if isinstance(self.experts, int):
            named: Sequence[str | Call] = [self.expert or "r3d_small"] * self.experts
        else:
            named = self.experts
        return [Call(each) if isinstance(each, str) else each for each in named]

    def build(self) -> Model:
        experts = [self._expert(call) for call in self._calls]
        return MixtureOfExperts(experts, self._router(experts[0]), self.top, self.gate)

    def _expert(self, call: Call) -> Model:
        from robustvideo.models.loading import load_model  # it loads this network, too

        if ":" in call.name or "?" in call.name:
            return load_model(call.name, num_classes=self.classes)
        if call.name not in networks.entries() and call.name not in TORCHVISION:
            raise unknown("expert", call.name, [*networks.entries(), *TORCHVISION])
        own = call.name in networks.entries()
        known = parameters(networks.get(call.name)) if own else ("frames", "size")
        common = {name: getattr(self, name) for name in ("frames", "size") if getattr(self, name) and name in known}
        options = {name: format_value(value) for name, value in {**common, **call.arguments}.items()}
        spec = f"{call.name if own else f'torchvision:{call.name}'}{'?' if options else ''}{urlencode(options)}"
        seed = int(torch.randint(2**31, ()))  # else all experts of one kind would start alike
        return load_model(spec, num_classes=self.classes, seed=seed)

    def _router(self, first: Model) -> Model:
        width = self.router_width
        layers: list[nn.Module] = [
            *(nn.Conv3d(3, width, (3, 7, 7), (2, 4, 4), (1, 3, 3), bias=False), nn.BatchNorm3d(width), nn.ReLU()),
            *(nn.Conv3d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm3d(2 * width), nn.ReLU()),
            *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2 * width, len(self._calls))),
        ]
        return wrap(nn.Sequential(*layers), frames=first.frames, size=first.size, mean=[MEAN] * 3, std=[STD] * 3)


def _full(logits: Tensor) -> Tensor:
    """Logits in single precision at least: weights and their sum are not for autocast."""
    return logits.float() if logits.element_size() < 4 else logits


@contextmanager
def _statistics_at_rest(network: nn.Module, rest: bool) -> Iterator[None]:
    """Let batch normalisation use its running statistics, and leave them alone, where ``rest``."""
    kind: Any = nn.modules.batchnorm._BatchNorm
    norms = [m for m in network.modules() if rest and isinstance(m, kind) and m.training]
    try:
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm in norms:
            norm.train()
