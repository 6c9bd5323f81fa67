"""`Attack`: a frozen, serialisable configuration that turns clips into adversarial clips.

`Attack.__call__` is final. It freezes the model, lets the attack search, and then trusts nothing: the result is
rounded onto the grid of what a file can store, verified against the threat model, and classified once more in the
model's own precision. Only that verdict is returned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.errors import ConstraintViolated, InputError
from robustvideo.model import Model, at_rest, classify
from robustvideo.models.acceleration import gradient_twin
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.registry import Registry, allow_nested, describe, name_of
from robustvideo.spec import Call, format_call
from robustvideo.threat import AudioVisual, Linf, ThreatModel, threats, with_budget

Precision = Literal["fp32", "bf16", "fp16"]
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

Variables = tuple[Tensor, ...]
"""One tensor (B, ...) per part of a threat model."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The clips under an attack, and everything that is known of each.

    Attributes:
        model: the model under attack, which gives the verdicts.
        gradient_model: what gives the gradients: a copy of the model, or of what it names instead
            (`Model.for_gradients`), that is fast to differentiate (see `models.acceleration`).
        precision: the autocast type of gradient passes.
        clip: the clean clips.
        labels: (B,) true classes, or target classes when ``targeted``.
        targeted: whether ``labels`` are to be reached instead of left.
        threat: what may be changed.
        eps: one (B,) tensor of budgets per part of the threat model.
        masks: one mask, or None for everywhere, per part.
        highest_label: the largest of all labels of the call.
        reference: (B, ...) tensors an objective computed once on the clean clips.
        seed: what seeds the random draws of the search under way.
    """

    model: Model
    gradient_model: Model
    precision: Precision
    clip: Clip
    labels: Tensor
    targeted: bool
    threat: ThreatModel
    eps: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    highest_label: int
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    seed: object = 0

    def select(self, index: Tensor) -> Problem:
        """The problem of some of the clips."""
        return replace(
            self,
            clip=self.clip.select(index),
            labels=self.labels[index],
            eps=tuple(e[index] for e in self.eps),
            masks=tuple(None if m is None else m[index] for m in self.masks),
            reference={name: value[index] for name, value in self.reference.items()},
        )

    def random(self, *salt: object) -> ClipRandom:
        """Fresh per-clip random streams, a function of the seed, each clip's id and ``salt`` alone."""
        return ClipRandom(seed_for(self.seed, name, *salt) for name in self.clip.ids)

    def verdict(self, variables: Variables) -> Verdict:
        """What the model says of the clips as a file would hold them."""
        stored = self.threat.store(self.clip, variables, self.masks, self.eps)
        return judge(self.model, stored, self.labels, self.targeted)


@dataclass(frozen=True, eq=False)
class Verdict:
    """The model's answer about stored clips, in its own precision.

    Attributes:
        clip: the stored clips.
        logits: (B, K).
        success: (B,) bool: misclassified, or classified as the target when targeted.
        margin: (B,) how far the attack is past the decision boundary; positive when it succeeded.
    """

    clip: Clip
    logits: Tensor
    success: Tensor
    margin: Tensor


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack found.

    Attributes:
        clip: the adversarial clips: stored on the grid, verified against the threat model.
        success: (B,) bool, from ``logits``.
        first_success_step: (B,) gradient steps taken when the clip first succeeded; -1 if it never did. Those of
            earlier starts, targets and members of an ensemble count; what takes no gradients counts its queries or
            rounds. Of a clip that succeeds, but is not verified on the way because it takes all steps, the step at
            which its margin was first positive.
        steps: (B,) steps taken in all, in the same unit.
        loss_trace: (B, steps) objective at each step of the run that gave ``clip``; NaN after a clip was done.
        forward_passes, backward_passes: (B,) passes of each clip through the model, verdicts included.
        logits: (B, K) of the model on ``clip``, in its own precision.
        margin: (B,) largest wrong logit minus the true one (targeted: target minus largest other).
    """

    clip: Clip
    success: Tensor
    first_success_step: Tensor
    steps: Tensor
    loss_trace: Tensor
    forward_passes: Tensor
    backward_passes: Tensor
    logits: Tensor
    margin: Tensor


@dataclass(frozen=True)
class Attack(ABC):
    """Base of every attack.

    Attributes:
        threat: what the adversary may change. Default: Linf, 8/255, the field's usual video budget.
        eps: shorthand for the threat model's budget, as a fraction of the range, e.g. ``8 / 255``.
        norm: shorthand for the threat model: "linf", "l2", "l21" or "flow".
        targeted: labels given to a call are classes to reach, not to leave.
        seed: seeds every clip's own random stream, together with the clip's id.
        early_stop: a clip leaves the batch at its first verified success.
        precision: type of gradient passes: "fp32", or "bf16" / "fp16" under autocast. The perturbation, the loss
            and the verdict stay in full precision.

    Raises:
        InputError: a value out of its range.
    """

    registered_name: ClassVar[str]

    threat: ThreatModel = field(default=Linf(8 / 255))
    eps: InitVar[float | None] = None
    norm: InitVar[str | None] = None
    targeted: bool = False
    seed: int = 0
    early_stop: bool = True
    precision: Precision = "fp32"

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        if not isinstance(self.threat, ThreatModel):
            raise InputError(f"threat is a threat model such as linf(eps=8/255), got {self.threat!r}.")
        if norm is not None:
            if eps is None and norm != "linf":
                raise InputError(f"norm={norm} has its own unit: give its budget as eps, too.")
            budget = eps if eps is not None else getattr(self.threat, "eps", None)
            object.__setattr__(self, "threat", threats.build(Call(norm, {"eps": budget})))
        elif eps is not None:
            object.__setattr__(self, "threat", with_budget(self.threat, eps))
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise InputError(f"precision is fp32, bf16 or fp16, got {self.precision!r}.")

    @final
    def __call__(
        self,
        model: Model,
        clip: Clip,
        labels: Tensor | int | Sequence[int],
        *,
        eps: Sequence[Tensor] | None = None,
        masks: Sequence[Tensor | None] | None = None,
    ) -> AttackResult:
        """Attack a batch.

        The model, the clip, the labels and the global random state are left exactly as they were.

        Args:
            model: the model under attack, on the clip's device.
            clip: clean clips in range, (B, C, T, H, W).
            labels: (B,) int64 true classes (targets when ``targeted``), or a list of numbers; of one clip, a number.
            eps: one (B,) tensor of budgets per part of the threat model, instead of its own; 0 leaves a clip alone.
            masks: one mask (or None) per part of the threat model, instead of its support's.

        Raises:
            InputError: what is no `Model` or no `Clip`, clips out of range, labels that do not fit, or a model that
                does not return finite logits.
            ConstraintViolated: the attack left its threat model (a defect of the attack).
        """
        with self._posed(model, clip, labels, eps, masks) as problem:
            result = self.solve(problem)
        self.must_be_lawful(problem, result.clip)
        return result

    @final
    def craft(
        self,
        model: Model,
        clip: Clip,
        labels: Tensor | int | Sequence[int],
        *,
        eps: Sequence[Tensor] | None = None,
    ) -> Clip:
        """Adversarial clips alone, for training: the clips of a call, without a verdict that only a reader would need.

        Args, Raises: see `__call__`.
        """
        with self._posed(model, clip, labels, eps, None) as problem:
            crafted = self.solve_unjudged(problem)
        self.must_be_lawful(problem, crafted)
        return crafted

    @final
    def allows(self, model: Model, clip: Clip, labels: Tensor, found: Clip) -> Tensor:
        """(B,) bool: may the attack have made ``found`` of the clips? For what comes from elsewhere, such as a file.

        Args: see `__call__`.
        """
        with self._posed(model, clip, labels, None, None) as problem:
            return _lawful(problem, found)

    @abstractmethod
    def solve(self, problem: Problem) -> AttackResult:
        """Search for adversarial clips. The model is frozen and in evaluation mode.

        The problem is one that `restrict` has seen, without a reference. Who hands a problem on to another attack's
        `solve`, as an ensemble does, sees to both.
        """

    def solve_unjudged(self, problem: Problem) -> Clip:
        """The clips that `solve` finds. To be overridden where the search itself does not ask for the last verdict."""
        return self.solve(problem).clip

    @property
    def call(self) -> Call:
        """The parsed spec that builds an equal attack; a simple threat model is written as eps and norm."""
        arguments = dict(describe(self).arguments)
        threat = describe(self.threat)
        arguments.pop("threat", None)
        if set(threat.arguments) == {"eps"}:
            norm = {} if threat.name == "linf" else {"norm": threat.name}
            return Call(name_of(type(self)), {"eps": threat.arguments["eps"], **norm, **arguments})
        return Call(name_of(type(self)), {"threat": threat, **arguments})

    @property
    def spec(self) -> str:
        """The spec string that `load_attack` builds an equal attack from."""
        return format_call(self.call)

    @property
    def label(self) -> str:
        """The spec without budget and seed: the name under which results at several budgets belong together.

        Of an `AudioVisual`, the sound's budget is written as it would be beside the default one of the picture, because
        ``eps`` scales both. Without one for the picture it is the budget, and ``eps=0`` stays to say so.
        """
        arguments = {key: value for key, value in self.call.arguments.items() if key not in ("eps", "seed")}
        threat = arguments.get("threat")
        if isinstance(self.threat, AudioVisual):
            kept = {k: v for k, v in describe(self.threat).arguments.items() if k not in ("eps", "audio")}
            if self.threat.eps == 0:
                kept["eps"] = 0
            else:  # in few enough digits that rounding splits no curve
                audio = float(f"{self.threat.audio / self.threat.eps * AudioVisual.eps:.10g}")
                kept |= {} if audio == AudioVisual.audio else {"audio": audio}
            others = {key: value for key, value in arguments.items() if key not in ("norm", "threat")}
            arguments = {"threat": Call(name_of(AudioVisual), kept), **others}
        elif isinstance(threat, Call) and "eps" in threat.arguments:
            kept = {key: value for key, value in threat.arguments.items() if key != "eps"}
            arguments["threat"] = Call(threat.name, kept)
        return format_call(Call(name_of(type(self)), arguments))

    def with_seed(self, seed: int) -> Attack:
        """The same attack with another seed."""
        return replace(self, seed=seed)

    def restrict(self, problem: Problem) -> Problem:
        """What the attack itself adds to its problem: a narrower support, another parametrisation. Default: nothing."""
        return problem

    @final
    def problem(
        self,
        model: Model,
        clip: Clip,
        labels: Tensor,
        eps: Sequence[Tensor] | None = None,
        masks: Sequence[Tensor | None] | None = None,
    ) -> Problem:
        """The problem that a call poses; see `__call__` for its arguments."""
        parts = self.threat.parts
        if eps is None:
            eps = [torch.full((len(clip),), p.eps, dtype=clip.video.dtype, device=clip.device) for p in parts]
        if len(eps) != len(parts) or any(e.shape != (len(clip),) or not ((e >= 0) & e.isfinite()).all() for e in eps):
            raise InputError(f"Budgets per clip are {len(parts)} tensors of {len(clip)} finite numbers, at least 0.")
        if masks is None:
            random = ClipRandom(seed_for(self.seed, "support", name) for name in clip.ids)
            masks = [p.support.mask(clip.signal(p.modality), random) for p in parts]
        posed = Problem(
            model=model,
            gradient_model=gradient_twin(model.for_gradients(), self.precision),
            precision=self.precision,
            clip=clip,
            labels=labels,
            targeted=self.targeted,
            threat=self.threat,
            eps=tuple(e.clone() for e in eps),
            masks=tuple(None if m is None else m.clone() for m in masks),
            highest_label=int(labels.max()),
            seed=self.seed,
        )
        return self.restrict(posed)

    @final
    def must_be_lawful(self, problem: Problem, found: Clip) -> None:
        """Raise `ConstraintViolated` unless clips are within the threat model of their problem."""
        lawful = _lawful(problem, found)
        if not lawful.all():
            name = problem.clip.ids[int((~lawful).nonzero()[0])]
            raise ConstraintViolated(
                f"{self.spec} left its threat model on clip {name}: this is a bug, please report it."
            )

    @contextmanager
    def _posed(
        self,
        model: Model,
        clip: Clip,
        labels: Tensor | int | Sequence[int],
        eps: Sequence[Tensor] | None,
        masks: Sequence[Tensor | None] | None,
    ) -> Iterator[Problem]:
        """The problem of a call, with the model at rest and gradients on, whatever the caller's state."""
        check_model(model)
        classes = _checked(clip, labels)
        with (
            at_rest(model),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(clip.device.type, enabled=False),
        ):
            yield self.problem(model, clip.detach(), classes.long().clone(), eps, masks)


def _lawful(problem: Problem, found: Clip) -> Tensor:
    return problem.threat.verify(problem.clip, found, problem.masks, problem.eps)


attacks: Registry[Attack] = Registry("attack", "attacks", "robustvideo.attacks")
allow_nested(Attack, attacks)


def judge(model: Model, clip: Clip, labels: Tensor, targeted: bool = False) -> Verdict:
    """Classify clips in the model's own precision and say on which an attack has succeeded.

    Raises:
        InputError: logits that are not finite, or fewer classes than the labels need.
    """
    logits = classify(model, clip)
    check_classes(int(labels.max()), logits.shape[1])
    predicted = logits.argmax(1)
    success = predicted == labels if targeted else predicted != labels
    return Verdict(clip, logits, success, margin(logits, labels, targeted))


def check_classes(highest_label: int, classes: int) -> None:
    """Raise `InputError` if a label is none of the model's classes."""
    if highest_label >= classes:
        raise InputError(
            f"The model has {classes} classes, but the data has label {highest_label}: "
            "use a model trained on these classes, or list the classes with labels= in the data spec."
        )


def margin(logits: Tensor, labels: Tensor, targeted: bool = False) -> Tensor:
    """(B,) largest other logit minus that of ``labels``; the negative of it when targeted. In fp32 at least."""
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return own - others if targeted else others - own


def check_model(model: object) -> None:
    """Raise `InputError` unless it is a `Model`, with what makes one of it."""
    if isinstance(model, str):
        raise InputError(f"{model!r} is a name, no model: load it with rv.load_model({model!r}).")
    if not isinstance(model, Model):
        raise InputError(
            f"{type(model).__name__} is no robustvideo model: wrap the network, rv.wrap(network, frames=..., size=...)."
        )


def _checked(clip: Clip, given: Tensor | int | Sequence[int]) -> Tensor:
    """The labels of clips as a tensor, when both can be used."""
    if not isinstance(clip, Clip):
        raise InputError(f"{type(clip).__name__} is no clip: make one of a video (B, C, T, H, W), rv.Clip(video).")
    if len(clip) == 0:
        raise InputError("There is no clip to attack.")
    clip.check_range()
    labels = given if isinstance(given, Tensor) else _tensor(given, clip)
    if labels.shape != (len(clip),) or labels.dtype not in _INTEGERS:
        raise InputError(f"Labels are {len(clip)} class numbers, got {labels.dtype} of shape {tuple(labels.shape)}.")
    if labels.device != clip.device:
        raise InputError(f"Labels are on {labels.device}, the clip on {clip.device}: move them together.")
    if int(labels.min()) < 0:
        raise InputError(f"Class numbers start at 0, got {int(labels.min())}.")
    return labels


def _tensor(labels: int | Sequence[int], clip: Clip) -> Tensor:
    try:
        return torch.as_tensor([labels] if isinstance(labels, int) else labels, device=clip.device)
    except (TypeError, ValueError, RuntimeError) as error:  # which of them is torch's choice
        raise InputError(f"Labels are {len(clip)} class numbers, got {labels!r}.") from error
