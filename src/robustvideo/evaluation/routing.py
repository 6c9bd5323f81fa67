"""What attacks do to a mixture of experts: routes, confidence, Lipschitz ratios, consistency of outputs, step sizes.

Lips-R and Lips-J are the local Lipschitz ratios of the router under TLGA-R and of the whole model under J-TLGA
(video MoE, table 2). A router that always answers the same has Lips-R 0, so a `Summary` tells beside it how evenly
the clips use the experts and how many routes changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustvideo.attacks.attack import Attack, Problem, Variables
from robustvideo.attacks.lipschitz import local_lipschitz, mean_square_change
from robustvideo.attacks.pgd import PGD
from robustvideo.attacks.temporal_momentum import TemporalStep
from robustvideo.attacks.tla import ReferencedPGD
from robustvideo.attacks.updates import Position, State, UpdateRule
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, Routing, at_rest, route
from robustvideo.models.flops import gigaflops
from robustvideo.progress import Advance

CLEAN = "clean"
"""The name of what was measured without an attack."""

_PERCENTILE = 0.95


@dataclass(frozen=True)
class Answer:
    """What a mixture said of one clip.

    Attributes:
        probabilities: softmax of the router's logits, expert by expert; the largest is the router's confidence.
        prediction: class that the whole model says.
        confidence: its softmax probability.
        lips_router, lips_whole: local Lipschitz ratio of the logits of router and whole model, from the clean clip to
            this one; 0 for the clean clip.
        iou_router, iou_whole: `decision_iou` of both.
        steps: frame by frame the size of the attack's steps, its mean over the climb, as a fraction of the range;
            empty for attacks without temporal steps.
    """

    probabilities: tuple[float, ...]
    prediction: int
    confidence: float
    lips_router: float
    lips_whole: float
    iou_router: float
    iou_whole: float
    steps: tuple[float, ...] = ()

    @property
    def expert(self) -> int:
        """The expert that the router prefers."""
        return max(range(len(self.probabilities)), key=lambda i: self.probabilities[i])

    @property
    def weakest(self) -> int:
        """The expert that the router trusts least."""
        return min(range(len(self.probabilities)), key=lambda i: self.probabilities[i])


@dataclass(frozen=True)
class Routes:
    """One clip on its way through a mixture, undisturbed and attacked.

    Attributes:
        sample_id: of the clip.
        label: true class.
        answers: by attack spec; `CLEAN` comes first.
    """

    sample_id: str
    label: int
    answers: Mapping[str, Answer] = field(repr=False)


@dataclass(frozen=True)
class Spread:
    """A distribution over clips; a mean alone hides the heavy tail of Lipschitz ratios.

    Attributes:
        mean: what the paper reports.
        median: half of the clips lie below.
        percentile95: 95 % of the clips lie below.
    """

    mean: float
    median: float
    percentile95: float

    @classmethod
    def of(cls, values: Sequence[float] | Tensor) -> Spread:
        """The spread of (N,) values."""
        values = torch.as_tensor(values).double()
        return cls(float(values.mean()), float(values.median()), float(values.quantile(_PERCENTILE)))


@dataclass(frozen=True)
class Summary:
    """A mixture's answers to many clips under one attack.

    Attributes:
        attack: its spec, or `CLEAN`.
        clips: how many were measured.
        correct: how many the whole model recognises.
        shares: share of the clips that the router sends to each expert; one share of 1 is a collapse.
        entropy: of these shares, in nats: 0 when one expert takes all, log M when even.
        changed: share of the clips whose route is another than without the attack.
        to_weakest: share that was led to the expert which the router trusts least of the clean clip.
        lips_router, lips_whole, iou_router, iou_whole: see `Answer`.
        steps: mean step of every frame; see `Answer`.
    """

    attack: str
    clips: int
    correct: int
    shares: tuple[float, ...]
    entropy: float
    changed: float
    to_weakest: float
    lips_router: Spread
    lips_whole: Spread
    iou_router: Spread
    iou_whole: Spread
    steps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measured:
    """A mixture's routing, clip by clip and summed up.

    Attributes:
        model: its spec.
        gigaflops: of a forward pass per clip; see `robustvideo.models.flops.gigaflops`.
        summaries: the undisturbed clips first, then attack by attack.
        clips: what happened to each.
    """

    model: str
    gigaflops: float
    summaries: tuple[Summary, ...]
    clips: tuple[Routes, ...] = field(repr=False)


def measure_routing(
    model: Model,
    batches: Iterable[tuple[Clip, Tensor]],
    attacks: Sequence[Attack],
    name: str = "",
    advance: Advance = lambda clips, note: None,
) -> Measured:
    """Attack a mixture batch by batch, and collect what happened.

    Args:
        model: a mixture of experts.
        batches: clean clips with (B,) labels.
        attacks: see `follow`.
        name: the model's spec.
        advance: told after every attack on a batch how many clips it was.

    Raises:
        InputError: see `follow`; or there are no clips.
    """
    found: list[Routes] = []
    cost = 0.0
    for clip, labels in batches:
        cost = cost or gigaflops(model, clip)
        found += follow(model, clip, labels, attacks, advance)
    summaries = tuple(summarise(found, attack) for attack in (CLEAN, *(attack.spec for attack in attacks)))
    return Measured(name, cost, summaries, tuple(found))


def follow(
    model: Model,
    clip: Clip,
    labels: Tensor,
    attacks: Sequence[Attack],
    advance: Advance = lambda clips, note: None,
) -> list[Routes]:
    """The routes of a batch, undisturbed and under each attack.

    Every attack of the family of PGD runs to its last step, and where it ends counts: a point where it stopped early
    is nearer to the clean clip and has a larger ratio, and the best point by the margin of the whole model says
    little of an attack on the router. It is stored on the grid of a file first. Other attacks count with what they
    return.

    Args:
        model: a mixture of experts.
        clip: clean clips.
        labels: (B,) their classes.
        attacks: untargeted.
        advance: see `measure_routing`.

    Raises:
        InputError: the model is no mixture of two experts or more, or an attack is targeted.
    """
    clean = _routing(model, clip)
    if clean.router_logits.shape[1] < 2:
        raise InputError("This mixture has one expert: its router chooses nothing that could be measured.")
    answers = [{CLEAN: answer} for answer in _answers(clip, clip, clean, clean, None)]
    for attack in attacks:
        ended, steps = to_the_end(attack, model, clip, labels)
        for own, answer in zip(answers, _answers(clip, ended, clean, _routing(model, ended), steps), strict=True):
            own[attack.spec] = answer
        advance(len(clip), attack.spec)
    return [Routes(*each) for each in zip(clip.ids, labels.tolist(), answers, strict=True)]


def to_the_end(attack: Attack, model: Model, clip: Clip, labels: Tensor) -> tuple[Clip, Tensor | None]:
    """Where an attack ends after all its steps, and (B, T) the mean step of every frame, if it has temporal steps.

    Raises:
        InputError: a targeted attack.
    """
    if attack.targeted:
        raise InputError(f"{attack.spec} is targeted, and its labels would be targets: take untargeted attacks.")
    if not isinstance(attack, ReferencedPGD) and type(attack) is not PGD:
        return attack(model, clip, labels).clip, None
    climb = attack.ascent()
    watched = _Watched(climb.update)
    with at_rest(model), torch.inference_mode(False), torch.enable_grad():
        problem = attack.problem(model, clip.detach(), labels)
        ended = replace(climb, update=watched, early_stop=False, last=True)(problem).clip
    return ended, torch.stack(watched.steps).mean(0) if watched.steps else None


def summarise(clips: Sequence[Routes], attack: str = CLEAN) -> Summary:
    """What an attack did to all clips.

    Raises:
        InputError: there are no clips.
    """
    if not clips:
        raise InputError("There are no clips to measure the routing on.")
    before, after = ([each.answers[name] for each in clips] for name in (CLEAN, attack))
    count, experts = len(clips), len(before[0].probabilities)
    shares = tuple(sum(a.expert == i for a in after) / count for i in range(experts))
    return Summary(
        attack=attack,
        clips=count,
        correct=sum(a.prediction == each.label for a, each in zip(after, clips, strict=True)),
        shares=shares,
        entropy=entropy(torch.tensor(shares, dtype=torch.float64)),
        changed=sum(a.expert != b.expert for a, b in zip(after, before, strict=True)) / count,
        to_weakest=sum(a.expert == b.weakest for a, b in zip(after, before, strict=True)) / count,
        lips_router=Spread.of([a.lips_router for a in after]),
        lips_whole=Spread.of([a.lips_whole for a in after]),
        iou_router=Spread.of([a.iou_router for a in after]),
        iou_whole=Spread.of([a.iou_whole for a in after]),
        steps=tuple(sum(own) / count for own in zip(*(a.steps for a in after), strict=True)),
    )


def iou(u: Tensor, v: Tensor) -> Tensor:
    """(B,) ``sum_i min(u_i, v_i) / sum_i max(u_i, v_i)`` of two distributions (B, n); 1 where they are the same.

    Our reading of the IoU score of the paper's figures 4 and 6, which it does not define. In terms of the total
    variation it is ``(1 - TV) / (1 + TV)``.
    """
    return torch.minimum(u, v).sum(1) / torch.maximum(u, v).sum(1)


def decision_iou(clean_logits: Tensor, logits: Tensor) -> Tensor:
    """(B,) `iou` of the clean decision, as a one-hot distribution, and the softmax of ``logits`` (B, n).

    With the clean clips' own logits it shows how sure they are, ``p / (2 - p)`` with p the decision's probability:
    the distribution that attacked clips are compared with.
    """
    v = logits.double().softmax(1)
    return iou(torch.zeros_like(v).scatter(1, clean_logits.argmax(1, keepdim=True), 1.0), v)


def entropy(shares: Tensor) -> float:
    """Entropy in nats of (M,) shares."""
    return float(torch.special.entr(shares).sum())


class _Watched:
    """An update rule that notes the size of its temporal steps."""

    def __init__(self, rule: UpdateRule):
        self.rule = rule
        self.steps: list[Tensor] = []

    def init(self, variable: Tensor) -> State:
        return self.rule.init(variable)

    def query(self, problem: Problem, variables: Variables, states: tuple[State, ...]) -> Variables:
        return self.rule.query(problem, variables, states)

    def step(self, here: Position, state: State) -> tuple[Tensor, State]:
        if isinstance(self.rule, TemporalStep) and here.variable.ndim == 5:
            shares, _ = self.rule.shares(here.gradient, state)
            self.steps.append(self.rule.size * here.eps[:, None] * shares)
        return self.rule.step(here, state)


def _answers(clip: Clip, ended: Clip, clean: Routing, found: Routing, steps: Tensor | None) -> list[Answer]:
    moved = mean_square_change(clip, ended)
    probabilities, classes = (logits.double().softmax(1) for logits in (found.router_logits, found.logits))
    columns = (
        [tuple(row) for row in probabilities.tolist()],
        classes.argmax(1).tolist(),
        classes.amax(1).tolist(),
        local_lipschitz(clean.router_logits, found.router_logits, moved).tolist(),
        local_lipschitz(clean.logits, found.logits, moved).tolist(),
        decision_iou(clean.router_logits, found.router_logits).tolist(),
        decision_iou(clean.logits, found.logits).tolist(),
        [()] * len(clip) if steps is None else [tuple(row) for row in steps.tolist()],
    )
    return [Answer(*row) for row in zip(*columns, strict=True)]


def _routing(model: Model, clip: Clip) -> Routing:
    with at_rest(model), torch.no_grad():
        return route(model, clip)
