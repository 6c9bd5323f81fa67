"""Flickering: one colour offset per frame, made thin and smooth over time (Pony et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from robustvideo.attacks.attack import Problem, Variables, attacks, margin
from robustvideo.attacks.gradient_attack import GradientAttack
from robustvideo.attacks.gradients import Estimate, GradientEstimator, plain
from robustvideo.attacks.masked import require_one_video_part
from robustvideo.attacks.objectives import Margin, Objective
from robustvideo.attacks.updates import AdamStep, Position, SteepestStep, UpdateRule
from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.model import Model, at_rest
from robustvideo.support import Frames
from robustvideo.threat import GRID, Linf, NormBall, ThreatModel

Optimizer = Literal["adam", "sign"]
Scores = Literal["logits", "probabilities"]

_STEP = {"adam": 0.0005, "sign": 0.01}


@attacks.register("flickering")
@dataclass(frozen=True)
class Flickering(GradientAttack):
    """Flickering: a colour offset per frame, as if the light flickered (Pony et al. 2021).

    ``x + e`` clipped to the box, e of shape (C, T). Minimised:
    ``L_adv + lam * (beta1 * D1 + beta2 * D2)`` with thickness ``D1 = mean(e^2)`` and roughness
    ``D2 = mean((e_t - e_{t-1})^2) + mean((e_{t+1} - 2 e_t + e_{t-1})^2)``, circular in t, and
    ``L_adv = max(0, min(l^2 / mu, l))``, ``l = s_y - max_{j != y} s_j + mu`` (target t:
    ``max_{j != t} s_j - s_t + mu``). For logits ``mu = log(1 + 0.05 / (p_y + 1e-5))``, held constant in the
    gradient; for probabilities ``mu = 0.05``.

    The authors' attack has no budget of its own: the default is 1, the box. ``eps`` bounds ``|e|`` (they use 0.15 for
    universal patterns). Sparse flickering: give the threat model a support of some frames; the roughness, which would
    mostly count the jumps to the untouched frames, is then left out (DeepSAVA does not say; decision).

    Defaults: the authors' code, with its pixels in [-1, 1] converted to [0, 1]: rate 0.001 becomes 0.0005 and lam 1
    becomes 4, which keeps the trajectory; beta 0.5 each, at most 2500 steps. Their maximum over the other classes
    does not exclude the true one among logits; ours does. ART's variant, which Kinfu and Vidal (2022) evaluate, is
    ``optimizer=sign, steps=30``, with steps of 0.01.

    Attributes:
        optimizer: "adam" (default), or "sign" for steepest steps.
        scores: what the margin is taken of: "logits" (default, the authors' configuration) or "probabilities",
            which have no gradient where the softmax is saturated.
        lam: weight of both regularisers.
        beta1, beta2: share of thickness and of roughness.
        cyclic: roll e along time by a random shift before each gradient, so that the pattern works from any
            phase. Success is still that of the unshifted one; with ``early_stop=False`` all steps are taken.
        step_size: absolute. Default 0.0005 with Adam, 0.01 with sign.
    """

    threat: ThreatModel = field(default=Linf(1.0))
    steps: int = 2500
    optimizer: Optimizer = "adam"
    scores: Scores = "logits"
    lam: float = 4.0
    beta1: float = 0.5
    beta2: float = 0.5
    cyclic: bool = False

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        require_one_video_part(self)
        if not isinstance(self.threat, NormBall):
            raise InputError("flickering adds colours: it needs a linf, l2 or l21 budget.")
        if self.optimizer not in get_args(Optimizer):
            raise unknown("optimizer", self.optimizer, get_args(Optimizer))
        if self.scores not in get_args(Scores):
            raise unknown("scores", self.scores, get_args(Scores))
        if min(self.lam, self.beta1, self.beta2) < 0:
            raise InputError("The weights of flickering's regularisers (lam, beta1, beta2) are not negative.")
        if self.cyclic and isinstance(self.threat.support, Frames):
            raise InputError("A cyclic pattern moves through all frames: it cannot be kept to some of them.")

    @property
    def default_step(self) -> float:
        return _STEP[self.optimizer] / self.threat.parts[0].eps

    def update(self) -> UpdateRule:
        if self.optimizer == "sign":
            return SteepestStep(self.relative_step)
        return AdamStep(_STEP["adam"] if self.step_size is None else self.step_size)

    def objective(self) -> Objective:
        return FlickerMargin(self.scores)

    def estimator(self) -> GradientEstimator:
        return Regularised(self.lam * self.beta1, self.lam * self.beta2, self.cyclic)

    def restrict(self, problem: Problem) -> Problem:
        assert isinstance(self.threat, NormBall)
        return replace(problem, threat=replace(self.threat, parametrisation="frame_colour"))


@dataclass(frozen=True)
class FlickerMargin:
    """``-max(0, min(l^2 / mu, l))``, ``l = mu - margin``: 0 once the margin is mu, linear far from it.

    Attributes:
        scores: "logits" or "probabilities"; see `Flickering`.
    """

    scores: Scores

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        return {}

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        reached, logits = Margin()(problem, adversarial)
        probabilities = logits.softmax(1)
        if self.scores == "logits":
            own = probabilities.detach().gather(1, problem.labels[:, None])[:, 0]
            wanted = torch.log1p(0.05 / (own + 1e-5))
        else:
            reached = margin(probabilities, problem.labels, problem.targeted)
            wanted = torch.full_like(reached, 0.05)
        short = wanted - reached
        return -torch.minimum(short.square() / wanted, short).clamp_min(0), logits


@dataclass(frozen=True)
class Regularised:
    """The plain gradient, less that of ``thick * D1 + rough * D2``; see `Flickering`.

    Roughness is left out for clips whose support misses a frame.

    Attributes:
        thick, rough: weights.
        cyclic: take the gradient with the colours rolled by a random number of frames, clip by clip.
    """

    thick: float
    rough: float
    cyclic: bool = False

    def __call__(self, problem: Problem, objective: Objective, variables: Variables, step: int) -> Estimate:
        (colours,) = variables
        if self.cyclic:
            shift = problem.random("cyclic", step).integers(0, colours.shape[2])[:, 0].to(colours.device)
            seen = plain(problem, objective, (_rolled(colours, shift),), step)
            gradient = _rolled(seen.gradients[0], -shift)
        else:
            seen = plain(problem, objective, variables, step)
            gradient = seen.gradients[0]
        with torch.enable_grad():
            here = colours.detach().requires_grad_()
            penalty = self.thick * thickness(here) + self.rough * roughness(here) * _whole(problem)
            (slope,) = torch.autograd.grad(penalty.sum(), here)
        return replace(seen, gradients=(gradient - slope,), objective=seen.objective - penalty.detach())


def thickness(colours: Tensor) -> Tensor:
    """(B,) ``mean(e^2)`` of offsets (B, C, T, 1, 1)."""
    return colours.square().flatten(1).mean(1)


def roughness(colours: Tensor) -> Tensor:
    """(B,) mean squared first and second differences over time, circular, of offsets (B, C, T, 1, 1)."""
    before, after = colours.roll(1, 2), colours.roll(-1, 2)
    first, second = colours - before, after - 2 * colours + before
    return first.square().flatten(1).mean(1) + second.square().flatten(1).mean(1)


def universal_flicker(model: Model, batches: Iterable[tuple[Clip, Tensor]], attack: Flickering | None = None) -> Tensor:
    """One flicker for all clips of a data set (Pony et al. 2021, section 3.4).

    It learns from many clips, so it is not an `Attack`, which treats every clip alone: learn it on one set of clips,
    then measure it on others with `classify` and `with_flicker`. Each step takes the mean gradient of one batch.

    Args:
        model: the model under attack, left as it was.
        batches: clips of one length and their labels (targets when ``attack.targeted``), such as a list or a data
            loader; gone through again and again until the steps are done.
        attack: its parameters. Default: ``eps=0.15``, 10000 steps, the authors'. Its ``seed`` seeds the shifts of a
            cyclic pattern; restarts and early stopping do not apply.

    Returns:
        The offset of every channel and frame, (C, T).

    Raises:
        InputError: no batch, batches that cannot be gone through twice, or clips of different lengths.
    """
    attack = attack or Flickering(eps=0.15, steps=10_000)
    colours: Tensor | None = None
    done = 0
    with at_rest(model), torch.enable_grad():
        rule, state = attack.update(), {}
        while done < attack.steps:
            before = done
            for clip, labels in batches:
                problem = attack.problem(model, clip.detach(), labels)
                (part,) = problem.threat.parts
                if colours is None:
                    colours = part.zeros(clip.video[:1])
                    state = rule.init(colours)
                if colours.shape[2] != clip.frames:
                    raise InputError(
                        f"A universal flicker is for clips of one length, got {colours.shape[2]} and {clip.frames} "
                        "frames: set frames= in the data spec."
                    )
                everywhere = colours.expand(len(clip), -1, -1, -1, -1)
                estimate = attack.expectation()(problem, attack.objective(), (everywhere,), done)
                here = Position(
                    part=part,
                    signal=clip.video[:1],
                    eps=problem.eps[0][:1],
                    mask=None,
                    variable=colours,
                    gradient=estimate.gradients[0].mean(0, keepdim=True),
                    value=estimate.objective.mean(0, keepdim=True),
                    step=done,
                    steps=attack.steps,
                )
                moved, state = rule.step(here, state)
                colours = here.project(moved)
                done += 1
                if done == attack.steps:
                    break
            if done == before:
                raise InputError("There are no clips to learn a flicker from (or only one pass over them).")
    assert colours is not None
    return colours[0, :, :, 0, 0]


def with_flicker(clip: Clip, colours: Tensor) -> Clip:
    """Clips under a flicker, as 8-bit video holds them.

    Args:
        clip: clips of T frames.
        colours: (C, T) offsets, as fractions of the range.
    """
    flickering = (clip.video + colours[:, :, None, None].to(clip.video)).clamp(0, 1)
    return replace(clip, video=(flickering * GRID["video"]).round() / GRID["video"])


def _rolled(colours: Tensor, shift: Tensor) -> Tensor:
    """Each clip's frames moved on by its own ``shift`` (B,), round the end."""
    frames = torch.arange(colours.shape[2], device=colours.device)
    source = (frames - shift[:, None]) % colours.shape[2]
    return colours.gather(2, source[:, None, :, None, None].expand_as(colours))


def _whole(problem: Problem) -> Tensor:
    """(B,) 1 where the support touches every frame, else 0."""
    (mask,) = problem.masks
    clip = problem.clip
    if mask is None:
        return torch.ones(len(clip), dtype=clip.video.dtype, device=clip.device)
    return (mask.amax((1, 3, 4)) > 0).all(1).to(clip.video.dtype)
