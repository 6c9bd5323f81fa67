"""Key frames by gradient: a relaxed mask, learned together with the perturbation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustvideo.attacks.gradients import finite
from robustvideo.attacks.key_frames import Choice, FrameSearch, Selector, selectors, unprobed
from robustvideo.attacks.updates import AdamStep, Position
from robustvideo.errors import InputError

_TINY = 1e-20


@selectors.register("relaxed")
@dataclass(frozen=True)
class RelaxedMask(Selector):
    """A differentiable mask over the frames, by Gumbel-softmax (Jang et al. 2017), which DeepSAVA names as future work.

    ``m = min(1, k softmax((s + g) / temperature))``, g Gumbel noise: perturbation and scores s climb the attack's
    objective together, and the k frames with the highest scores are chosen. A step costs one forward and one backward
    pass through the whole clip.

    Attributes:
        steps: default 20 (ours, as all of these).
        rate: Adam's, of the scores. Default 0.3.
        temperature: the lower, the closer to k frames the mask is, and the noisier its gradient. Default 0.5.
    """

    steps: int = 20
    rate: float = 0.3
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.rate > 0 or not self.temperature > 0:
            raise InputError(
                "A relaxed mask needs a step, a rate and a temperature above 0, got "
                f"{self.steps}, {self.rate:g} and {self.temperature:g}."
            )

    def choose(self, search: FrameSearch) -> Choice:
        problem, climb = search.problem, search.climb
        (part,), (support,), (eps,) = problem.threat.parts, problem.masks, problem.eps
        signal = problem.clip.video
        variable, scores = part.zeros(signal), signal.new_zeros(len(signal), search.frames)
        rules = (climb.update, AdamStep(self.rate))
        states = [rule.init(at) for rule, at in zip(rules, (variable, scores), strict=True)]
        for step in range(self.steps):
            points = variable.detach().requires_grad_(), scores.detach().requires_grad_()
            mask = self._mask(points[1], search)
            allowed = mask if support is None else mask * support
            value, _ = climb.objective(problem, problem.threat.perturb(problem.clip, points[:1], (allowed,)))
            gradients = torch.autograd.grad(value.sum(), points, allow_unused=True, materialize_grads=True)
            moved = []
            for i, rule in enumerate(rules):
                place = (
                    part,
                    signal,
                    eps,
                    support,
                    points[i].detach(),
                    finite(gradients[i]),
                    value.detach(),
                    step,
                    self.steps,
                )
                at, states[i] = rule.step(Position(*place), states[i])
                moved.append(at)
            variable, scores = moved
        order = scores.argsort(dim=1, descending=True, stable=True)
        return unprobed(search, order[:, : search.k], self.steps, self.steps)

    def _mask(self, scores: Tensor, search: FrameSearch) -> Tensor:
        uniform = search.random.uniform(scores).clamp_min(_TINY)
        gumbel = -(-uniform.log()).clamp_min(_TINY).log()
        soft = search.k * ((scores + gumbel) / self.temperature).softmax(1)
        nothing = soft.new_zeros(len(soft), search.problem.clip.frames)
        return nothing.scatter(1, search.places, soft.clamp(max=1))[:, None, :, None, None]
