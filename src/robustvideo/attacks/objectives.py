"""Objectives: what an attack ascends. One value per clip, so that no clip's gradient depends on its batch.

An objective makes its own forward pass, because some need more of a model than its logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import Problem, check_classes, margin
from robustvideo.clip import Clip
from robustvideo.model import classify, run


class Objective(Protocol):
    """A per-clip quantity to increase."""

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        """(B, ...) tensors of the clean clips, computed once and handed back in ``problem.reference``."""

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        """The objective (B,) in fp32 at least, and the logits (B, K), of ``problem.gradient_model``."""


class _LogitObjective:
    """An objective of the logits and labels alone."""

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        return {}

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        logits = run(problem.gradient_model, adversarial)
        check_classes(problem.highest_label, logits.shape[1])
        if logits.element_size() < 4:
            logits = logits.float()
        return self.value(logits, problem), logits

    def value(self, logits: Tensor, problem: Problem) -> Tensor:
        raise NotImplementedError


class CrossEntropy(_LogitObjective):
    """``CE(z, y) = logsumexp(z) - z_y``; its negative towards a target."""

    def value(self, logits: Tensor, problem: Problem) -> Tensor:
        loss = F.cross_entropy(logits, problem.labels, reduction="none")
        return -loss if problem.targeted else loss


class Margin(_LogitObjective):
    """``max_{j != y} z_j - z_y`` (Carlini and Wagner 2017, without their hinge); its negative towards a target.

    Unlike the cross-entropy it keeps its gradient where the softmax is saturated.
    """

    def value(self, logits: Tensor, problem: Problem) -> Tensor:
        return margin(logits, problem.labels, problem.targeted)


class Divergence(_LogitObjective):
    """``KL(p(x) || p(x + delta))``, away from the prediction on the clean clip (Zhang et al. 2019).

    The labels play no part. At the clean clip its gradient is exactly zero: a climb must start elsewhere.
    """

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        return {"clean_logits": classify(problem.model, problem.clip)}

    def value(self, logits: Tensor, problem: Problem) -> Tensor:
        return divergence(problem.reference["clean_logits"], logits)


def divergence(clean: Tensor, perturbed: Tensor) -> Tensor:
    """(B,) ``KL(p || q) = sum_k p_k (log p_k - log q_k)`` of the predictions p, q of two logits (B, K)."""
    before, after = F.log_softmax(clean, dim=1), F.log_softmax(perturbed, dim=1)
    return F.kl_div(after, before, reduction="none", log_target=True).sum(1)
