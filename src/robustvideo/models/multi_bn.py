"""Multi-BN: one network with several sets of batch normalisation, and a selector that mixes their answers.

Lo & Patel 2021, "Defending against multiple and unforeseen adversarial videos". Each set, or branch, is meant for
clips under one type of attack, the first for clean ones; all other weights are shared. Trained by ``multi_bn``
(`robustvideo.training`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.alteration import Alteration, alterations


class Branch:
    """Which branch runs now: one object, shared by all normalisations of a network."""

    number: int | None = None


class BranchedNorm(nn.Module):
    """Several batch normalisations in one place, of which the current branch's runs.

    Args:
        norm: the normalisation that every branch starts as.
        count: number of branches.
        branch: says which one runs.
    """

    def __init__(self, norm: _BatchNorm, count: int, branch: Branch):
        super().__init__()
        self.branches = nn.ModuleList(copy.deepcopy(norm) for _ in range(count))
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        # Code that runs layers again during the backward pass, out of any branch, must not get another one's silently
        if self.branch.number is None:
            raise InputError("A network with several batch normalisations ran outside of any of its branches.")
        normalised: Tensor = self.branches[self.branch.number](x)
        return normalised


class Selector(nn.Module):
    """(B, 3, T, H, W) pixels in [0, 1] -> (B, branches) logits: which branch a clip belongs to.

    Three 3-D convolutions, then the average over all places and a linear map. It starts at full resolution, because
    perturbations are fine; groups instead of batches are normalised, so that it can neither read the branch off its
    neighbours in training nor depend on them.
    """

    def __init__(self, branches: int, width: int = 16):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 2 * width)):
            conv = nn.Conv3d(before, after, 3, (1, 2, 2), 1, bias=False)
            layers += [conv, nn.GroupNorm(max(1, after // 8), after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())
        self.head = nn.Linear(2 * width, branches)

    def forward(self, video: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers((video - 0.5).to(self.head.weight.dtype)))
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


class MultiBN(Model):
    """A mixture of a network's branches: ``p(x) = sum_b S_b(x) softmax(F_b(x))``, given as logits ``log p(x)``.

    A clip's answer depends on that clip alone. Every branch runs on every clip, unless ``hard``.

    Args:
        network: a model with batch normalisation; changed in place.
        branches: number of branches, at least 2.
        hard: the selector's first choice answers alone, as published. Its gradient does not see the selector, so an
            attack on it is weaker than it looks; the soft mixture is differentiable throughout.

    Raises:
        InputError: a network without batch normalisation.
    """

    def __init__(self, network: Model, branches: int, hard: bool = False):
        super().__init__()
        self.branch = Branch()
        if not _replace_norms(network, branches, self.branch):
            raise InputError("multi_bn needs a network with batch normalisation: this one has none.")
        self.network = network
        self.selector = Selector(branches)
        self.branches = branches
        self.hard = hard
        self.labels, self.sample_rate = network.labels, network.sample_rate
        self.frames, self.size = network.frames, network.size

    def forward(self, clip: Clip) -> Tensor:
        weights = self.selector(clip.video).log_softmax(1)
        if self.hard:
            return self._switched(clip, weights.argmax(1))
        answers = [self.answer(clip, number).log_softmax(1) for number in range(self.branches)]
        mixed: Tensor = (torch.stack(answers, 1) + weights[:, :, None]).logsumexp(1)
        return mixed

    def answer(self, clip: Clip, number: int) -> Tensor:
        """Logits (B, K) of one branch, in fp32 at least."""
        with self._running(number):
            logits: Tensor = self.network(clip)
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

    @property
    def separate(self) -> dict[str, Model]:
        """Each branch alone, by its name in specs: ``branch0`` (clean), ``branch1``, ..."""
        return {f"branch{number}": OneBranch(self, number) for number in range(self.branches)}

    def _switched(self, clip: Clip, chosen: Tensor) -> Tensor:
        rows = [(chosen == number).nonzero()[:, 0] for number in range(self.branches)]
        answers = [self.answer(clip.select(r), n).log_softmax(1) for n, r in enumerate(rows) if len(r)]
        return torch.cat(answers)[torch.cat(rows).argsort()]

    @contextmanager
    def _running(self, number: int) -> Iterator[None]:
        before, self.branch.number = self.branch.number, number
        try:
            yield
        finally:
            self.branch.number = before


class OneBranch(Model):
    """One branch of a `MultiBN`, whatever the selector says; the weights are the mixture's.

    Args:
        mixture: the whole.
        number: of the branch.
    """

    def __init__(self, mixture: MultiBN, number: int):
        super().__init__()
        self.mixture = mixture
        self.number = number
        self.labels, self.sample_rate = mixture.labels, mixture.sample_rate
        self.frames, self.size = mixture.frames, mixture.size

    def forward(self, clip: Clip) -> Tensor:
        return self.mixture.answer(clip, self.number)


@alterations.register("multi_bn")
@dataclass(frozen=True)
class SeveralNorms(Alteration):
    """One set of batch normalisation per type of attack, and a selector (Lo & Patel 2021).

    All normalisations are multiplied, those of shortcuts included, and every set starts as the network's own.

    Attributes:
        branches: sets: one for clean clips, and one per type of attack. Default: 2. Published: 3 (clean, PGD, ROA).
        hard: see `MultiBN`. Default: the soft mixture.

    Raises:
        InputError: fewer than 2 branches.
    """

    branches: int = 2
    hard: bool = False

    def __post_init__(self) -> None:
        if self.branches < 2:
            raise InputError(f"branches= of multi_bn is at least 2, got {self.branches}.")

    def apply(self, model: Model) -> Model:
        return MultiBN(model, self.branches, self.hard)


def _replace_norms(network: nn.Module, count: int, branch: Branch) -> bool:
    """Give a network several normalisations in the place of each; one that it uses twice stays one."""
    replaced: dict[nn.Module, BranchedNorm] = {}
    for module in [m for m in network.modules() if not isinstance(m, BranchedNorm)]:
        for name, child in module._modules.items():
            if isinstance(child, _BatchNorm):
                if child not in replaced:
                    replaced[child] = BranchedNorm(child, count, branch)
                module._modules[name] = replaced[child]
    return bool(replaced)
