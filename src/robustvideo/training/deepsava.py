"""The two trainings of DeepSAVA (Mu et al. 2024, sections 3.5 and 4.3), named by what they do.

The paper numbers them I and II, one way in Figure 2 and the other in section 4.3 and Figure 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks import PGD, Attack, DeepSAVA
from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.model import Model, at_rest
from robustvideo.models import load_model
from robustvideo.models.acceleration import gradient_twin
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.support import Frames
from robustvideo.threat import GRID, FlowField, Joint, Linf, warp
from robustvideo.training.adversarial import UnderAttack
from robustvideo.training.adversary import attacked, require_untargeted
from robustvideo.training.method import Loss, Method, Stage, Step, trainings

Mode = Literal["learned", "published"]


@trainings.register("deepsava_inject")
@dataclass(frozen=True)
class InjectionTraining(Method):
    """Cross-entropy on clean clips and on adversarial ones made once, before training (DeepSAVA, section 4.3).

    The attack runs on training clips before the first epoch. Every batch is then joined by some of what it made, with
    their true labels. The paper retrains from the start that the attacked network had: name that network in
    ``against``; without it the network is attacked as training finds it, so bring it trained.

    Attributes:
        attack: what makes the clips. Default: `DeepSAVA`.
        clips: how many. Default 1000 (the paper: 1000, 1500 and 3000).
        share: of them in a batch, per clean clip. Default 0.125: the paper's 1000 beside 8000 clean clips.
        against: spec of the model to attack, e.g. ``"trained:runs/plain/model.safetensors"``. Default: the network.
        control: inject the same clips unattacked, the paper's comparison: as many batches, as large.

    Raises:
        InputError: a targeted attack, or a number out of range.
    """

    attack: Attack = field(default=DeepSAVA())
    clips: int = 1000
    share: float = 0.125
    against: str = ""
    control: bool = False

    def __post_init__(self) -> None:
        require_untargeted(self.attack)
        if self.clips < 1 or not 0 < self.share < float("inf"):
            raise InputError(f"clips is at least 1 and share above 0, got {self.clips} and {self.share:g}.")

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        if stage.epoch == 0:
            videos, labels, fooled = zip(*self._made(stage), strict=True)
            stage.memory["video"], stage.memory["labels"] = torch.cat(videos), torch.cat(labels)
            stage.memory["fooled"] = float(torch.cat(fooled).float().mean())
        return {"injected_fooled": stage.memory["fooled"]}

    def losses(self, step: Step) -> Iterator[Loss]:
        injected, labels = self._drawn(step)
        clean = len(step.clip)
        joined = Clip(torch.cat([step.clip.video, injected]))
        logits, truth = step.forward(joined), torch.cat([step.labels, labels])
        correct = (logits.argmax(1) == truth).float()
        yield Loss(
            F.cross_entropy(logits, truth),
            {"accuracy": correct[:clean].mean(), "robust_accuracy": correct[clean:].mean()},
        )

    def _made(self, stage: Stage) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What is injected, as 8-bit integers on the CPU, with its labels and whether it fools the model."""
        victim: Model = stage.network
        for clip, labels in stage.sample(self.clips):
            if clip.audio is not None:
                raise InputError("deepsava_inject is for silent clips: leave audio= out of the data spec.")
            if self.against and victim is stage.network:
                victim = load_model(self.against, device=clip.device)
            fooled = torch.zeros_like(labels, dtype=torch.bool)
            if not self.control:
                result = self.attack.with_seed(stage.seed)(victim, clip, labels)
                clip, fooled = result.clip, result.success
            levels = (clip.video * GRID["video"]).round().to(torch.uint8)
            yield levels.cpu(), labels.cpu(), fooled.cpu()

    def _drawn(self, step: Step) -> tuple[Tensor, Tensor]:
        """Some of the injected clips and their labels, by the batch's seed."""
        video, labels = step.memory["video"], step.memory["labels"]
        wanted = max(1, round(self.share * len(step.clip)))
        random = torch.Generator().manual_seed(seed_for("injected", step.seed, *step.clip.ids))
        chosen = torch.randperm(len(video), generator=random)[:wanted]
        like = step.clip.video
        return video[chosen].to(like.device).to(like.dtype) / GRID["video"], labels[chosen].to(like.device)


@trainings.register("deepsava_at")
@dataclass(frozen=True)
class CombinedTraining(UnderAttack):
    """Adversarial training under a warp and noise together (DeepSAVA, Algorithm 4).

    * ``learned`` (ours, the default): PGD ascends displacement and noise jointly, from a random start, each within its
      own budget. A defence against learned warps must be trained on learned warps. The warp's step is as large a part
      of its budget as the noise's. Without warp it is ``at`` with `PGD`.
    * ``published``: each of K steps warps the running clip by the same random displacement, adds the same random
      noise, and then a step of ``step_size`` along the gradient's sign. The paper draws both once and for all and
      bounds nothing; its code draws them per batch, as here, and declares the bound of 0.03 that is kept here, on all
      that is added. What is added is not warped along, so that it can be bounded.

    Plain PGD training, the paper's Algorithm 3, is ``at``.

    Attributes:
        eps: budget of the noise. Default 0.03, of the paper's code.
        warp: largest displacement in pixels, per axis; 0 for none. Default 1 (ours).
        steps: default 10 (section 4.1).
        step_size: of the noise. Default 1/255 (section 4.1).
        k: how many frames, drawn anew for each clip and batch; none (default): all.
        mode: see above.

    Raises:
        InputError: an unknown mode or a number out of range.
    """

    eps: float = 0.03
    warp: float = 1.0
    steps: int = 10
    step_size: float = 1 / 255
    k: int | None = None
    mode: Mode = "learned"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise unknown("mode of deepsava_at", self.mode, get_args(Mode))
        if not 0 <= self.warp < float("inf"):
            raise InputError(f"A displacement is finite and not negative, got warp={self.warp:g}.")
        _ = self.attack  # its own parameters are checked there

    @property
    def attack(self) -> PGD:
        """The adversary of ``mode=learned``."""
        noise = Linf(self.eps)
        threat = Joint((FlowField(self.warp), noise)) if self.warp else noise
        first = threat.parts[0].eps
        relative = self.step_size / self.eps * first
        return PGD(threat, steps=self.steps, step_size=relative, early_stop=False)

    def adversarial(self, step: Step) -> Clip:
        mask = self._mask(step)
        if self.mode == "published":
            return self._published(step, mask)
        attack = self.attack
        if mask is None:
            return attacked(attack, step.network, step.clip, step.labels, seed=step.seed)
        masks = [mask] * len(attack.threat.parts)
        return attack.with_seed(step.seed)(step.network, step.clip, step.labels, masks=masks).clip

    def _mask(self, step: Step) -> Tensor | None:
        """The same frames for warp and noise."""
        if self.k is None:
            return None
        random = ClipRandom(seed_for("frames", step.seed, name) for name in step.clip.ids)
        return Frames(k=self.k).mask(step.clip.video, random)

    def _published(self, step: Step, mask: Tensor | None) -> Clip:
        video = step.clip.video
        where = torch.ones_like(video[:1, :1, :, :1, :1]) if mask is None else mask
        random = ClipRandom(seed_for("combined", step.seed, name) for name in step.clip.ids)
        flow = where * self.warp * (2 * random.uniform(FlowField(1.0).zeros(video)) - 1)
        noise = where * self.eps * (2 * random.uniform(video) - 1)
        moved, added = video, torch.zeros_like(video)
        with at_rest(step.network), torch.autocast(video.device.type, enabled=False):
            twin = gradient_twin(step.network, "fp32")
            for _ in range(self.steps):
                moved = warp(moved, flow)
                added = (added + noise).clamp(-self.eps, self.eps)
                here = (moved + added).clamp(0, 1).requires_grad_()
                loss = F.cross_entropy(twin(replace(step.clip, video=here)), step.labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, here)
                added = (added + self.step_size * where * gradient.sign()).clamp(-self.eps, self.eps)
        levels = GRID["video"]
        return replace(step.clip, video=((moved + added).clamp(0, 1) * levels).round() / levels)
