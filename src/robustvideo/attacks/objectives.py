"""Objectives: what an attack ascends. One value per clip, so that no clip's gradient depends on its batch.

An objective makes its own forward pass, because some need more of a model than its logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import Problem, check_classes, margin
from robustvideo.clip import Clip
from robustvideo.model import Voting, classify, run, run_votes


class Objective(Protocol):
    """A per-clip quantity to increase."""

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        """(B, ...) tensors of the clean clips, computed once and handed back in ``problem.reference``."""

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        """The objective (B,) in fp32 at least, and the logits (B, K), of ``problem.gradient_model``."""


class _LogitObjective:
    """An objective of the logits and labels alone. Of a model that votes, its mean over the votes.

    (An objective of the votes' mean logits would attack another defence than the one that is deployed.)
    """

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        return {}

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        model = problem.gradient_model
        if isinstance(model, Voting):
            votes = run_votes(model, adversarial)
            logits = model.verdict(votes)
        else:
            logits = run(model, adversarial)
            votes = logits[:, None]
        check_classes(problem.highest_label, votes.shape[2])
        if votes.element_size() < 4:
            votes, logits = votes.float(), logits.float()
        return torch.stack([self.value(vote, problem) for vote in votes.unbind(1)]).mean(0), logits

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


class Evasion(_LogitObjective):
    """``log(1 - p_y)``; towards a target ``log p_target``: the adversarial loss of the sparse video attacks.

    It saturates once the attack has succeeded, so that a penalty beside it then rules, and it is taken in a form that
    keeps its gradient where p_y rounds to 1, ``logsumexp_{j != y} z_j - logsumexp_j z_j``. The authors' codes, of Wei
    et al. 2019 and of DeepSAVA, have none there, and count such clips as robust.
    """

    def value(self, logits: Tensor, problem: Problem) -> Tensor:
        column = problem.labels[:, None]
        wanted = logits.gather(1, column) if problem.targeted else logits.scatter(1, column, -torch.inf)
        return wanted.logsumexp(1) - logits.logsumexp(1)


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
