"""CRMT-AT: adversarial training with a margin for each modality, then a balance of the two by certified radius."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.attacks import PGD, Attack
from robustvideo.errors import InputError
from robustvideo.model import Model, at_rest
from robustvideo.models.refused import MODALITIES
from robustvideo.models.unit_fusion import UnitFusion
from robustvideo.threat import AudioVisual
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Loss, Method, Part, Stage, Step, trainings

_TINY = 1e-12


@trainings.register("crmt_at")
@dataclass(frozen=True)
class CRMTAT(Method):
    """Certifiable robust multi-modal training, under attack (Yang et al. 2024).

    The network needs ``with=unit_fusion()``.

    Step 1, on adversarial clips: ``CE(logits, y) + margin * mean log sum_m sum_{k != y} exp(s_m[k] - s_m[y])``, whose
    second term is ruled by the weaker modality; it trains all by the recipe's optimizer. Step 2, the last quarter of
    the epochs (a third of those of step 1): only the balance a_m is trained, in evaluation mode and on clean clips, to
    raise the mean of ::

        r = (sum_m (a_m[y] s_m[y] - a_m[j] s_m[j]) + b_y - b_j) / sqrt(sum_m (a_m[y] L_m[y] + a_m[j] L_m[j])^2)

    with j the runner-up and L_m[k] the largest gradient norm of s_m[k] by its modality's input over the probed clips.
    (The released code leaves batch statistics drifting in step 2, and adds up gradients of the picture over classes
    when it estimates L_m.)

    Attributes:
        attack: the adversary; the released one is L2 with a joint norm, ours is that of the other methods, so that
            they can be compared. Default: PGD, 10 steps, 8/255 of the pixels and 0.012 of the waveform.
        margin: rho. Default 2, as released.
        balance_lr: rate of the balance in step 2, by SGD with momentum 0.9 and weight decay 0.01 (the released 0.03
            times its rate of 0.01). It is constant: step 2 falls where a schedule has come down to nothing. Default
            3e-4.
        probe_clips: training clips on which L_m is measured. Default 256; the source takes all.

    Raises:
        InputError: a targeted attack, or a number out of range.
    """

    attack: Attack = field(default=PGD(threat=AudioVisual(), steps=10, early_stop=False))
    margin: float = 2.0
    balance_lr: float = 3e-4
    probe_clips: int = 256

    def __post_init__(self) -> None:
        require_untargeted(self.attack)
        if not 0 <= self.margin < float("inf") or not self.balance_lr > 0 or self.probe_clips < 1:
            raise InputError("margin= is at least 0, balance_lr= positive, and probe_clips= at least 1.")

    def parts(self, network: Model, companions: nn.ModuleDict) -> Mapping[str, Part]:
        fusion = with_unit_fusion(network)

        def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            sgd = torch.optim.SGD(parameters, lr=self.balance_lr, momentum=0.9, weight_decay=1e-2)
            sgd.register_step_pre_hook(self._unscheduled)
            return sgd

        # the balance is in both: step 1 updates the one part, step 2 the other
        return {"network": Part(fusion.parameters()), "balance": Part([fusion.balance], optimizer)}

    def _unscheduled(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Undo what the recipe's schedule did to the rate."""
        for group in optimizer.param_groups:
            group["lr"] = self.balance_lr

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        first = first_balancing_epoch(stage.epochs)
        if stage.epoch == first:
            network = with_unit_fusion(stage.network)
            steepest = torch.zeros_like(network.balance)
            with at_rest(network):
                for clip, _ in stage.sample(self.probe_clips):
                    for m, name in enumerate(MODALITIES):
                        signal = clip.signal(name).detach().requires_grad_()
                        scores = network.scores(network.features(clip.with_signal(name, signal)))[:, m]
                        steepest[m] = torch.maximum(steepest[m], gradient_norms(scores, signal))
            stage.memory["steepest"] = steepest.tolist()
        return {"balancing": float(stage.epoch >= first)}

    def losses(self, step: Step) -> Iterator[Loss]:
        network = with_unit_fusion(step.network)
        if step.epoch < first_balancing_epoch(step.epochs):
            yield self._robust(step, network)
        else:
            yield self._balancing(step, network)

    def _robust(self, step: Step, network: UnitFusion) -> Loss:
        adversarial = attacked(self.attack, network, step.clip, step.labels, seed=step.seed)
        with step.autocast():
            scores = network.scores(network.features(adversarial))
        logits = network.balanced(scores)
        weakest = margin_loss(scores, step.labels).mean()
        correct = (logits.argmax(1) == step.labels).float().mean()
        loss = F.cross_entropy(logits, step.labels) + self.margin * weakest
        return Loss(loss, {"robust_accuracy": correct}, parts=("network",))

    def _balancing(self, step: Step, network: UnitFusion) -> Loss:
        network.eval()
        with step.autocast(), torch.no_grad():
            scores = network.scores(network.features(step.clip))
        steepest = torch.tensor(step.memory["steepest"], device=scores.device, dtype=scores.dtype)
        radius = certified_radius(scores, network.balance, network.bias.detach(), steepest, step.labels)
        correct = (network.balanced(scores).argmax(1) == step.labels).float().mean()
        return Loss(-radius.mean(), {"accuracy": correct}, parts=("balance",))


def with_unit_fusion(network: Model) -> UnitFusion:
    """The network, if it has such a fusion.

    Raises:
        InputError: it has not.
    """
    if not isinstance(network, UnitFusion):
        raise InputError("crmt_at trains a network fused by unit rows: add with=unit_fusion() to the model's spec.")
    return network


def first_balancing_epoch(epochs: int) -> int:
    """The epoch, from 0, at which step 2 begins: it has a third of step 1's epochs, at least one of two or more."""
    return epochs - max(1, round(epochs / 4)) if epochs > 1 else 1


def margin_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """(B,) ``log sum_m sum_{k != y} exp(s_m[k] - s_m[y])`` of scores (B, 2, K)."""
    index = labels[:, None, None].expand(-1, scores.shape[1], 1)
    behind = (scores - scores.gather(2, index)).scatter(2, index, -torch.inf)
    return behind.flatten(1).logsumexp(1)


def certified_radius(scores: Tensor, balance: Tensor, bias: Tensor, steepest: Tensor, labels: Tensor) -> Tensor:
    """(B,) r of `CRMTAT` for scores (B, 2, K), balance a (2, K), bias b (K,) and slopes L (2, K)."""
    logits = (scores * balance).sum(1) + bias
    rival = logits.detach().scatter(1, labels[:, None], -torch.inf).argmax(1)
    rows = torch.arange(len(labels), device=labels.device)
    lead = logits[rows, labels] - logits[rows, rival]
    slopes = balance * steepest
    slope = (slopes[:, labels] + slopes[:, rival]).square().sum(0).clamp_min(_TINY).sqrt()
    return lead / slope


def gradient_norms(scores: Tensor, signal: Tensor) -> Tensor:
    """(K,) largest norm over clips of the gradient of each score (B, K) by a signal (B, ...), class by class."""
    largest = []
    for k in range(scores.shape[1]):
        (gradient,) = torch.autograd.grad(scores[:, k].sum(), signal, retain_graph=k + 1 < scores.shape[1])
        largest.append(gradient.flatten(1).norm(dim=1).max())
    return torch.stack(largest)
