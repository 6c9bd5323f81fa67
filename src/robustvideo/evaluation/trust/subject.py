"""`Subject`: a model with a few clips that it recognises, and the attack whose gradient is examined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from robustvideo.attacks import PGD
from robustvideo.attacks.attack import Attack, AttackResult, Problem, Verdict
from robustvideo.attacks.gradient_attack import GradientAttack
from robustvideo.attacks.gradients import autocast
from robustvideo.attacks.objectives import CrossEntropy, Margin, Objective
from robustvideo.clip import Clip, concatenate
from robustvideo.data.dataset import UnusableClip, VideoDataset
from robustvideo.evaluation.crafting import clean_verdict, craft, in_halves
from robustvideo.evaluation.metrics import is_recognised, needed_attack
from robustvideo.evaluation.records import Record
from robustvideo.evaluation.resubmission import submissions
from robustvideo.evaluation.rows import attacked, under, undisturbed
from robustvideo.model import Model, at_rest, classify, device_of, uniform_indices
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.threat import Linf, with_budget

USUAL_BUDGET = 8 / 255
"""The field's usual Linf budget: what is examined, where it or more was measured."""

STEPS = 20
"""Steps of the PGD that is examined where the run had no iterated Linf gradient attack."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What the lines that need a model are measured on.

    Attributes:
        model: the model, behind its defence.
        clip: clips that it recognises, on its device.
        labels: (B,) their classes.
        clean: the verdict on them.
        attack: an untargeted, iterated Linf gradient attack.
        defense: the defence's spec, for records.
    """

    model: Model
    clip: Clip
    labels: Tensor
    clean: Verdict
    attack: GradientAttack
    defense: str = "none"

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def eps(self) -> float:
        """The attack's budget."""
        return self.attack.threat.parts[0].eps

    def run(self, attack: Attack | None = None, model: Model | None = None) -> AttackResult:
        """Attack all clips: with the subject's own attack on its own model, unless said otherwise."""
        return craft(attack or self.attack, model or self.model, self.clip, self.labels)

    def probe(self, attack: Attack) -> list[Record]:
        """The records of an attack on these clips, as a run would have them."""
        return self.records(attack, self.run(attack))

    def records(self, attack: Attack, result: AttackResult) -> list[Record]:
        """The records of what an attack found on these clips."""
        rows = [
            under(attack, undisturbed(self.clean, i, int(self.labels[i]), "trust", self.defense))
            for i in range(len(self))
        ]
        return attacked(rows, self.clip, result, 0.0)

    def select(self, index: Tensor) -> Subject:
        """The subject with some of its clips."""
        clip, clean = self.clip.select(index), self.clean
        verdict = Verdict(clip, clean.logits[index], clean.success[index], clean.margin[index])
        return replace(self, clip=clip, labels=self.labels[index], clean=verdict)

    def start(self) -> Clip:
        """A random point of the ball around every clip, where attacks start."""
        draw = ClipRandom(seed_for(self.attack.seed, "trust start", name) for name in self.clip.ids).uniform(
            self.clip.video
        )
        return self.clip.with_signal("video", (self.clip.video + self.eps * (2 * draw - 1)).clamp(0, 1))

    def gradient(self, clip: Clip, objective: Objective | None = None) -> Tensor:
        """The gradient that attacks take of an objective with respect to the video, NaN and infinity included.

        Zero where the model cuts the graph. Default objective: the cross-entropy.
        """
        own = objective or CrossEntropy()

        def work(clip: Clip, labels: Tensor) -> Tensor:
            with at_rest(self.model), torch.inference_mode(False), torch.enable_grad(), autocast(self.problem):
                video = clip.video.detach().clone().requires_grad_()
                value, _ = own(replace(self.problem, labels=labels), clip.with_signal("video", video))
                if not value.requires_grad:
                    return torch.zeros_like(video)
                (found,) = torch.autograd.grad(value.sum(), [video], allow_unused=True, materialize_grads=True)
                return found

        return in_halves(work, clip, self.labels, _joined)

    @torch.no_grad()
    def margin(self, clip: Clip) -> Tensor:
        """(B,) in fp64: the margin that the model under test has on clips (the mean over its votes)."""
        verdicts = replace(self.problem, gradient_model=self.model)

        def work(clip: Clip, labels: Tensor) -> Tensor:
            with at_rest(self.model):
                return Margin()(replace(verdicts, labels=labels), clip)[0].double()

        return in_halves(work, clip, self.labels, _joined)

    def twice(self) -> Tensor:
        """Logits (B, 2, K) of two passes over the same clips under the same names, one after the other."""

        def work(clip: Clip, _: Tensor) -> Tensor:
            with at_rest(self.model):  # one for both: it gives the global random state back when it ends
                return torch.stack([classify(self.model, clip) for _ in range(2)], dim=1)

        return in_halves(work, self.clip, self.labels, _joined)

    def submissions(self, clip: Clip, draws: int) -> Tensor:
        """Logits (B, draws, K) of clips submitted several times, on the CPU."""
        return in_halves(lambda c, _: submissions(self.model, c, draws).cpu(), clip, self.labels, _joined)

    @cached_property
    def problem(self) -> Problem:
        """What the attack poses, with the model that it takes gradients of."""
        with at_rest(self.model):
            return self.attack.problem(self.model, self.clip.detach(), self.labels)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))


def find_subject(
    model: Model,
    data: VideoDataset,
    attacks: Sequence[Attack],
    records: Sequence[Record] = (),
    *,
    clips: int,
    defense: str = "none",
    seed: int = 0,
) -> Subject | None:
    """The subject of a run: at most ``clips`` clips, spread evenly over the data, that the model recognises.

    Its attack is the iterated Linf gradient attack of the run that broke most clips at the budget examined, the
    largest one of the run that is at most 8/255; where there is none, `pgd(steps=20)` at that budget.

    Returns:
        None when fewer than two of the clips are recognised.
    """
    found = []
    for index in uniform_indices(len(data), min(clips, len(data))).tolist():
        try:
            found.append((data.clip(index), data.samples[index].label))
        except UnusableClip:
            continue
    if not found:
        return None
    device = device_of(model)
    clip = concatenate([c for c, _ in found]).to(device)
    labels = torch.tensor([label for _, label in found], device=device)
    clean = clean_verdict(model, clip, labels)
    subject = Subject(model, clip, labels, clean, reference_attack(attacks, records, seed), defense)
    recognised = (~clean.success).nonzero()[:, 0]
    return subject.select(recognised) if len(recognised) >= 2 else None


def reference_attack(attacks: Sequence[Attack], records: Sequence[Record], seed: int) -> GradientAttack:
    """The attack whose gradient is examined; see `find_subject`."""
    plain = Linf(USUAL_BUDGET)  # of all pixels; the sound has budgets that would be too small for them
    pixelwise = [a for a in attacks if isinstance(a.threat, Linf) and replace(a.threat, eps=USUAL_BUDGET) == plain]
    budgets = [a.threat.parts[0].eps for a in pixelwise]
    usual = [eps for eps in budgets if eps <= USUAL_BUDGET * (1 + 1e-6)]
    eps = max(usual) if usual else min(budgets, default=USUAL_BUDGET)
    iterated = [
        a
        for a in pixelwise
        if isinstance(a, GradientAttack) and a.steps > 1 and not a.targeted and a.threat.parts[0].eps == eps
        if type(a).restrict is Attack.restrict  # one that may change a few frames proves little when it fails
    ]

    def left(attack: GradientAttack) -> int:
        own = (r for r in records if r.attack == attack.label and r.eps == eps and not r.surrogate)
        return sum(is_recognised(r) for r in own if needed_attack(r))

    return min(iterated, key=left) if iterated else PGD(eps=eps, steps=STEPS, seed=seed)


def at_budget(attack: GradientAttack, eps: float) -> GradientAttack:
    """The attack at another budget, its step in proportion."""
    own = attack.threat.parts[0].eps
    step = None if attack.step_size is None else attack.step_size * eps / own
    return replace(attack, threat=with_budget(attack.threat, eps), step_size=step)
