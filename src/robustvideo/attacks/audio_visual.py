"""What the attacks across time and across modalities have in common: the objective of AV's equation 4, and the loop.

``J = CE(F(T(x + delta)), y) - lam1 * L1 - lam2 * L2``: the class is left, the features' variance over time (L1) falls,
and the cosine of the two modalities' features (L2) falls. All terms see the same transformed clip, in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.attack import Problem, check_classes
from robustvideo.attacks.averaged import Averaged
from robustvideo.attacks.gradients import GradientEstimator, autocast, plain
from robustvideo.attacks.input_transforms import Family, InputTransform, Where
from robustvideo.attacks.momentum import MIFGSM
from robustvideo.attacks.objectives import Objective
from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.model import Featurised, Model, run, said_in_words
from robustvideo.models.audio_visual import AudioVisualModel
from robustvideo.models.ensemble import Ensemble
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.threat import AudioVisual, ThreatModel

Scale = Literal["log", "clean", "raw"]
DropoutTarget = Literal["neurons", "parameters"]

_TINY = 1e-8  # of a feature's norm
_VARIANCE_FLOOR = 1e-6


@dataclass(frozen=True)
class AudioVisualAttack(MIFGSM):
    """Base of ``tia``, ``mma`` and ``tma``: MI-FGSM on the mean gradient of a clip and of transformed copies.

    Steps of ``eps / steps`` from the clean clip; momentum and gradients are normalised per clip and per modality. The
    paper states neither budgets, steps, base optimiser nor number of copies: all defaults are our decisions.

    Digital silence is where the power of a spectrogram is flat: sound that is exactly silent has no gradient and stays
    silent. A random start, as PGD has, leaves that point. A clip without a sound track needs a threat model without
    one, ``audio_visual(audio=0)``; the model hears silence, so ``mma`` and ``tma`` still have a cosine to lower.

    Attributes:
        threat: what may be changed. Default: 8/255 of the pixels and 0.012 of the waveform.
        classification: weight of the cross-entropy. Default 1, the paper's; 0 leaves the features' terms alone.
        scale: how L1 is measured, see `AudioVisualLoss`.
        per_step: L2 is the mean over time of the steps' cosines, instead of the cosine of the mean features.
        copies: N, how many copies a step averages over: the clip itself, and N - 1 transformed ones. Default 4.
        transforms: families to draw copies from: ``scale``, ``mask``, ``blur``, ``mix``.
        mask_ratio, where, synchronous, compose: see `InputTransform`.
        copies_per_pass: see `Averaged`.

    Raises:
        InputError: a negative weight, or a value out of its range.
    """

    threat: ThreatModel = field(default=AudioVisual())
    classification: float = 1.0
    scale: Scale = "log"
    per_step: bool = False
    copies: int = 4
    transforms: tuple[Family, ...] = ("scale", "mask", "blur", "mix")
    mask_ratio: float = 0.2
    where: Where = "both"
    synchronous: bool = True
    compose: bool = False
    copies_per_pass: int | None = None

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        self.loss()  # refuses weights
        self.estimator()  # refuses transforms and copies

    @property
    def weights(self) -> tuple[float, float]:
        """lam1 and lam2."""
        raise NotImplementedError

    def loss(self) -> AudioVisualLoss:
        """The objective, in a form that can be varied."""
        lam1, lam2 = self.weights
        return AudioVisualLoss(lam1, lam2, self.classification, self.scale, self.per_step)

    def objective(self) -> Objective:
        return self.loss()

    def estimator(self) -> GradientEstimator:
        transform = InputTransform(self.transforms, self.mask_ratio, self.where, self.synchronous, self.compose)
        if self.copies < 1:
            raise InputError(f"A step needs at least one copy, got copies={self.copies}.")
        if self.copies == 1:
            return plain
        return Averaged(transform, (1 / self.copies,) * self.copies, self.copies_per_pass, origin=0)


@dataclass(frozen=True)
class FusionDropout:
    """Inputs of a model's fusion layer that are dropped while a perturbation is crafted (AV 5.3).

    Those that stay are scaled by ``1 / (1 - rate)``. A clip's draw depends on the search's seed, its id and ``salt``.

    Attributes:
        rate: p_d, in [0, 1).
        target: "neurons" of the fusion layer, as the text has it, or its "parameters", as appendix B has it.
        salt: another one, another draw.
    """

    rate: float
    target: DropoutTarget = "neurons"
    salt: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise InputError(f"A share to drop is in [0, 1), got {self.rate:g}.")
        if self.target not in ("neurons", "parameters"):
            raise unknown("what to drop:", self.target, ("neurons", "parameters"))

    def keep(self, model: AudioVisualModel, problem: Problem) -> Tensor | None:
        """Factors for `AudioVisualModel.fuse`; None where nothing is dropped."""
        if self.rate == 0:
            return None
        weight = model.head.weight
        shape = (len(problem.clip), *(weight.shape[1:] if self.target == "neurons" else weight.shape))
        random = ClipRandom(seed_for(problem.seed, "fusion", self.salt, name) for name in problem.clip.ids)
        drawn = random.uniform(torch.empty(shape, device=weight.device))
        return (drawn >= self.rate).to(weight.dtype) / (1 - self.rate)


@dataclass(frozen=True)
class AudioVisualLoss:
    """``classification * CE - lam1 * L1 - lam2 * L2`` (AV equation 4); towards a target CE changes its sign.

    Backbones differ in the size of their features, and a masked step, whose features are those of a black frame, can
    raise a clip's variance V a hundredfold. L1 is therefore measured by the clean clip's variance C of the same
    modality, a constant (our decisions): "log" is ``log(1 + V / C)``, whose gradient is that of ``V / C`` where V is
    small and never drowns the other terms; "clean" is ``V / C``; "raw" is V, equation 2 to the letter. All three have
    the same minimum.

    Of an `Ensemble`, the cross-entropy of its fused logits and the weighted mean of its members' L1 and L2, each member
    measured by its own scale.

    Attributes:
        lam1: weight of `variance_over_time`.
        lam2: weight of `alignment`.
        classification, per_step: see `AudioVisualAttack`.
        scale: "log", "clean" or "raw".
        dropout: of the fusion layer; None drops nothing.
    """

    lam1: float = 1.0
    lam2: float = 1.0
    classification: float = 1.0
    scale: Scale = "log"
    per_step: bool = False
    dropout: FusionDropout | None = None

    def __post_init__(self) -> None:
        for name in ("lam1", "lam2", "classification"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"A weight is finite and at least 0, got {name}={getattr(self, name):g}.")
        if self.scale not in get_args(Scale):
            raise unknown("scale of the variance:", self.scale, get_args(Scale))

    def reference(self, problem: Problem) -> Mapping[str, Tensor]:
        """The clean clips' variances, by member and modality."""
        if self.lam1 == 0 or self.scale == "raw":
            return {}
        found = {}
        with torch.no_grad(), autocast(problem):
            for number, model in enumerate(members(problem.gradient_model)):
                for name, feature in features_of(model, problem.clip).items():
                    found[f"variance/{number}/{name}"] = variance_over_time(feature)
        return found

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        model = problem.gradient_model
        if isinstance(model, Ensemble):
            parts = [model.call(self._of_member, m, n, problem, adversarial) for n, m in enumerate(model.models)]
            logits = model.fuse([part[0] for part in parts])
            terms = sum(weight * part[1] for weight, part in zip(model.weights, parts, strict=True))
        else:
            logits, terms = self._of_member(model, 0, problem, adversarial)
        logits = logits if logits.element_size() >= 4 else logits.float()
        check_classes(problem.highest_label, logits.shape[1])
        loss = F.cross_entropy(logits, problem.labels, reduction="none")
        return self.classification * (-loss if problem.targeted else loss) - terms, logits

    def _of_member(self, model: Model, number: int, problem: Problem, clip: Clip) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of one model, and (B,) what its features cost."""
        if self.lam1 == 0 and self.lam2 == 0 and self.dropout is None:
            logits = run(model, clip)
            return logits, torch.zeros_like(logits[:, 0])
        features = features_of(model, clip)
        terms = torch.zeros_like(next(iter(features.values()))[:, 0, 0])
        if self.lam1 != 0:
            terms = terms + self.lam1 * self._variances(features, number, problem)
        if self.lam2 != 0:
            terms = terms + self.lam2 * alignment(features, self.per_step)
        return self._fused(model, features, problem), terms

    def _variances(self, features: Mapping[str, Tensor], number: int, problem: Problem) -> Tensor:
        variances = {name: variance_over_time(feature) for name, feature in features.items()}
        if self.scale != "raw":
            clean = {name: problem.reference[f"variance/{number}/{name}"] for name in variances}
            variances = {name: value / (clean[name] + _VARIANCE_FLOOR) for name, value in variances.items()}
        if self.scale == "log":
            variances = {name: ratio.log1p() for name, ratio in variances.items()}
        return torch.stack(list(variances.values())).sum(0)

    def _fused(self, model: Model, features: Mapping[str, Tensor], problem: Problem) -> Tensor:
        if self.dropout is not None:
            if not isinstance(model, AudioVisualModel):
                raise InputError("Dropping neurons of the fusion layer needs an audio_visual model.")
            return model.fuse(features, self.dropout.keep(model, problem))
        assert isinstance(model, Featurised)
        return model.fuse(features)


def variance_over_time(features: Tensor) -> Tensor:
    """(B,) ``Var_t m(t)`` of ``m(t) = mean_k phi(t)[k]`` (AV equation 2, one modality); features (B, T, D).

    The population's variance: over T, not T - 1.

    Raises:
        InputError: a single time step, over which nothing varies.
    """
    if features.shape[1] < 2:
        raise InputError("Temporal invariance needs at least two time steps: give the clip more frames.")
    return features.mean(2).var(1, unbiased=False)


def alignment(features: Mapping[str, Tensor], per_step: bool = False) -> Tensor:
    """(B,) cosine of the two modalities' features (AV equation 3), pooled over time or step by step.

    Args:
        features: "video" and "audio", each (B, T, D).
        per_step: the mean of the steps' cosines, instead of the cosine of the means.

    Raises:
        InputError: a modality is missing, or the two have features of different length.
    """
    if not {"video", "audio"} <= set(features):
        raise InputError("Modality misalignment needs features of video and audio: give clips with a sound track.")
    seen, heard = features["video"], features["audio"]
    if seen.shape[2] != heard.shape[2] or (per_step and seen.shape[1] != heard.shape[1]):
        raise InputError(
            f"The modalities' features cannot be compared: {tuple(seen.shape[1:])} and {tuple(heard.shape[1:])} "
            "(steps, size)."
        )
    if per_step:
        return F.cosine_similarity(seen, heard, dim=2, eps=_TINY).mean(1)
    return F.cosine_similarity(seen.mean(1), heard.mean(1), dim=1, eps=_TINY)


def features_of(model: Model, clip: Clip) -> dict[str, Tensor]:
    """Modality -> (B, T, D) features, in fp32 at least.

    Raises:
        InputError: a model that does not show its features, or that failed.
    """
    if not isinstance(model, Featurised):
        raise InputError(
            f"{type(model).__name__} has no features(): attacks across time and modalities need a model such as "
            "audio_visual that shows its features by time step (robustvideo.model.Featurised)."
        )
    with said_in_words(model, clip):
        found = model.features(clip)
    for name, feature in found.items():
        if feature.ndim != 3 or len(feature) != len(clip):
            raise InputError(f"Features are (clips, steps, size); those of {name} are {tuple(feature.shape)}.")
    return {name: feature.float() if feature.element_size() < 4 else feature for name, feature in found.items()}


def members(model: Model) -> Sequence[Model]:
    """The models of an `Ensemble`, or the one model."""
    return model.models if isinstance(model, Ensemble) else (model,)
