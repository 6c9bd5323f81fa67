"""Fast adversarial training, and a guard against its sudden failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks import FGSM, PGD, Attack
from robustvideo.attacks.attack import Problem, Variables
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import CrossEntropy
from robustvideo.errors import InputError, unknown
from robustvideo.model import Model, at_rest
from robustvideo.threat import Linf, ThreatModel, with_budget
from robustvideo.training.adversary import random_start, steepest_step
from robustvideo.training.method import Loss, Memory, Method, Stage, Step, trainings
from robustvideo.training.validation import count_correct

OnCollapse = Literal["restore", "shrink", "stop"]
_DROP = 0.5  # of the best accuracy under PGD: our decision


@trainings.register("fast_at")
@dataclass(frozen=True)
class FastAdversarialTraining(Method):
    """Adversarial training with a single step from a random start (Wong et al. 2020).

    ``delta <- P(u + step_size * d)``, u random in the ball (uniform for Linf), d the steepest direction of the
    cross-entropy at ``x + u``, P the projection onto ball and box; then one update on ``CE(F(x + delta), y)``, the
    clip rounded to what a file holds. The network is attacked in evaluation mode.

    Such training can fail from one epoch to the next: the network learns to fool the single step, and falls to any
    stronger attack. The guard looks for that before every epoch, on ``probe_clips`` training clips: accuracy under
    PGD-10 (steps of a quarter of the budget) fell by more than half of its best so far, accuracy under FGSM did not
    fall. (Ours, after Andriushchenko and Flammarion 2020, whose code keeps the weights of the best accuracy under
    PGD; the last epoch's failure shows in the validation under attack, by which the exported epoch is chosen.) The
    weights of the best epoch then come back, with the optimizer's momentum as it is. Logged: ``probe_pgd_accuracy``,
    ``probe_fgsm_accuracy`` and ``collapsed``, 0 or 1.

    GradAlign (the same source) keeps the failure away at three times the cost: it adds ``grad_align`` times the mean
    of ``1 - cos(g(x), g(x + u))``, g the input gradients of the cross-entropy in evaluation mode and full precision,
    u random in the ball. Clips with a zero gradient are left out of the mean. Logged: ``alignment``, the mean cosine.

    Attributes:
        threat: what the adversary may change. Default: Linf, 8/255.
        eps: shorthand for the threat model's budget.
        step_size: in the unit of the budget. Default: 1.25 times the budget (source).
        grad_align: weight of GradAlign. Default 0: none.
        probe_clips: clips that the guard looks at; 0 turns it off. Default 256.
        on_collapse: after the best weights are back, "restore" (default) goes on, "shrink" goes on with half the
            step, "stop" trains no more.

    Raises:
        InputError: a number out of range, or an unknown ``on_collapse``.
    """

    threat: ThreatModel = field(default=Linf(8 / 255))
    eps: InitVar[float | None] = None
    step_size: float | None = None
    grad_align: float = 0.0
    probe_clips: int = 256
    on_collapse: OnCollapse = "restore"

    def __post_init__(self, eps: float | None) -> None:
        if eps is not None:
            object.__setattr__(self, "threat", with_budget(self.threat, eps))
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise InputError(f"A step must be positive, got step_size={self.step_size:g}.")
        if not 0 <= self.grad_align < float("inf"):
            raise InputError(f"A weight is finite and at least 0, got grad_align={self.grad_align:g}.")
        if self.probe_clips < 0:
            raise InputError(f"A number of clips is at least 0, got probe_clips={self.probe_clips}.")
        if self.on_collapse not in get_args(OnCollapse):
            raise unknown("on_collapse", self.on_collapse, get_args(OnCollapse))

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        memory = stage.memory
        if self.probe_clips == 0 or memory.get("stopped", False):
            return {}
        pgd = self._accuracy(stage, PGD(threat=self.threat, seed=stage.seed))
        fgsm = self._accuracy(stage, FGSM(threat=self.threat))
        failed = collapsed(memory, pgd, fgsm)
        if failed:
            stage.network.load_state_dict(memory["best_weights"])
            if self.on_collapse == "shrink":
                memory["shrunk"] = memory.get("shrunk", 1.0) / 2
            memory["stopped"] = self.on_collapse == "stop"
        elif pgd > memory.get("best_pgd", -1.0):
            weights = {name: tensor.cpu().clone() for name, tensor in stage.network.state_dict().items()}
            memory.update(best_pgd=pgd, best_fgsm=fgsm, best_weights=weights)
        return {"probe_pgd_accuracy": pgd, "probe_fgsm_accuracy": fgsm, "collapsed": float(failed)}

    def losses(self, step: Step) -> Iterator[Loss]:
        if step.memory.get("stopped", False):
            return
        with at_rest(step.network):
            problem = FGSM(threat=self.threat, seed=step.seed).problem(step.network, step.clip, step.labels)
            start = random_start(problem)
            gradients = plain(problem, CrossEntropy(), start).gradients
        size = self.relative_step * step.memory.get("shrunk", 1.0)
        end = steepest_step(problem, start, gradients, size)
        logits = step.forward(self.threat.store(problem.clip, end, problem.masks, problem.eps))
        loss = F.cross_entropy(logits, step.labels)
        metrics = {"robust_accuracy": (logits.argmax(1) == step.labels).float().mean()}
        if self.grad_align > 0:
            cosine = alignment(step.network, problem, start)
            metrics["alignment"] = cosine
            loss = loss + self.grad_align * (1 - cosine)
        yield Loss(loss, metrics)

    @property
    def relative_step(self) -> float:
        """The step as a fraction of the budget."""
        return 1.25 if self.step_size is None else self.step_size / self.threat.parts[0].eps

    def _accuracy(self, stage: Stage, attack: Attack) -> float:
        _, robust, clips = count_correct(stage.network, stage.sample(self.probe_clips), attack).tolist()
        return robust / clips  # type: ignore[no-any-return]


def collapsed(memory: Memory, pgd: float, fgsm: float) -> bool:
    """Whether accuracy under PGD fell by more than half of its best, and that under FGSM did not fall since then."""
    if "best_pgd" not in memory:
        return False
    return bool(pgd < (1 - _DROP) * memory["best_pgd"] and fgsm >= memory["best_fgsm"])


def alignment(network: Model, problem: Problem, start: Variables) -> Tensor:
    """Mean cosine between each clip's input gradients at the clean clip and at ``start``; 1 where none has any.

    Differentiable in the weights. The network is in evaluation mode for it, and in training mode afterwards, so that
    batch statistics see neither point.
    """
    zeros = tuple(p.zeros(problem.clip.signal(p.modality)) for p in problem.threat.parts)
    network.eval()
    here, there = (_gradients(network, problem, point) for point in (zeros, start))
    network.train()
    known = (here.detach().norm(dim=1) > 0) & (there.detach().norm(dim=1) > 0)  # a norm of 0 has no derivative
    if not known.any():
        return here.new_ones(())
    units = [g / g.norm(dim=1, keepdim=True) for g in (here[known], there[known])]
    cosines: Tensor = (units[0] * units[1]).sum(1)
    return cosines.mean()


def _gradients(network: Model, problem: Problem, variables: Variables) -> Tensor:
    """(B, all values of all parts) input gradients of the cross-entropy, differentiable in the weights."""
    variables = tuple(v.detach().requires_grad_() for v in variables)
    logits = network(problem.threat.perturb(problem.clip, variables, problem.masks))
    loss = F.cross_entropy(logits, problem.labels, reduction="sum")
    gradients = torch.autograd.grad(loss, variables, create_graph=True)
    return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
