"""What masked time steps do to an audio-visual model, and what they are good for in an attack (AV section 3).

Figure 1: accuracy against the share of the time steps that is masked. Figure 2: success of FGSM on masked copies on
models it has not seen. Figure 3: alignment of the two modalities' features against that success.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import correlation
from typing import Literal, get_args

import torch

from robustvideo.attacks.attack import Attack
from robustvideo.attacks.audio_visual import alignment, features_of
from robustvideo.attacks.input_transforms import masked, masks
from robustvideo.attacks.tma import TMA
from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.evaluation.crafting import clean_verdict, craft_for_others
from robustvideo.evaluation.metrics import Interval, wilson
from robustvideo.evaluation.records import CLEAN
from robustvideo.evaluation.sparsity import mean_interval
from robustvideo.evaluation.transfer import Batches, Success, mean_transfer, successes, tried
from robustvideo.model import Model, at_rest, frames_per_step
from robustvideo.progress import Advance
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.threat import AudioVisual, ThreatModel

Mode = Literal["video", "audio", "synchronous", "asynchronous"]
"""Which modalities are masked, and whether at the same steps."""

MODES: tuple[Mode, ...] = get_args(Mode)
RATIOS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
"""Shares of figures 1 and 2; clips of 20 steps or a multiple have them all."""


@dataclass(frozen=True)
class MaskedAccuracy:
    """One point of figure 1.

    Attributes:
        mode: what was masked.
        ratio: share of the time steps that was asked for.
        share: share that was masked: of 8 steps, 5 % is one and so is 15 %.
        accuracy: mean over seeds, with Wilson's interval over the clips (masks of a clip are no clips of their own).
    """

    mode: Mode
    ratio: float
    share: float
    accuracy: Interval


@dataclass(frozen=True)
class MaskedTransfer:
    """One point of figure 2.

    Attributes:
        mode, ratio: of the masked copies.
        success: mean misclassification rate of the models that the attack has not seen.
    """

    mode: Mode
    ratio: float
    success: Interval


@dataclass(frozen=True)
class AlignedTransfer:
    """One point of figure 3.

    Attributes:
        attack: its name; `CLEAN` for the undisturbed clips.
        alignment: mean cosine of the surrogate's features of picture and sound, with its normal interval.
        success: mean misclassification rate of the models that the attack has not seen.
    """

    attack: str
    alignment: Interval
    success: Interval


@dataclass(frozen=True)
class RankCorrelation:
    """How far the order of attacks by alignment is that by success (AV figure 3: it is the reverse).

    Attributes:
        rho: Spearman's correlation, in [-1, 1].
        chance: share of all orders that are at least as far from 0 on the same side (exact, one-sided).
        attacks: how many were ordered.
    """

    rho: float
    chance: float
    attacks: int


def corrupt(clip: Clip, ratio: float, mode: Mode, seed: int = 0, span: int = 1) -> Clip:
    """Clips with a share of their time steps black, silent or both.

    Every clip has one random order of its steps (out of step: one per modality), of which the first are masked: what
    a smaller ratio masks, a larger one does too.

    Args:
        clip: the clips.
        ratio: share of the steps: ``round(ratio T)`` of them, at least one where it is not 0.
        mode: see `Mode`.
        seed: another one, another order.
        span: frames of a time step, see `robustvideo.model.frames_per_step`; a step has as much of the sound.

    Raises:
        InputError: a ratio outside [0, 1], an unknown mode, or sound asked of silent clips.
    """
    if mode not in MODES:
        raise unknown("mode of masking:", mode, MODES)
    if not 0 <= ratio <= 1:
        raise InputError(f"The share of masked steps is in [0, 1], got {ratio:g}.")
    for modality in ("video", "audio"):
        if mode in ("video", "audio") and mode != modality:
            continue
        own = modality if mode == "asynchronous" else "both"
        random = ClipRandom(seed_for(seed, "corrupt", own, name) for name in clip.ids)
        order = random.uniform(clip.video.new_empty(len(clip), _steps(clip, span)))
        clip = clip.with_signal(modality, masked(clip.signal(modality), masks(order, ratio)))
    return clip


def masked_share(clip: Clip, ratio: float, span: int = 1) -> float:
    """The share of a clip's time steps that `corrupt` masks: that of whole ones."""
    return float((masks(torch.arange(_steps(clip, span))[None].double(), ratio) == 0).double().mean())


def _steps(clip: Clip, span: int) -> int:
    return max(1, clip.frames // span)


def masking_study(
    model: Model,
    batches: Batches,
    ratios: Sequence[float] = RATIOS,
    modes: Sequence[Mode] = MODES,
    seeds: Sequence[int] = range(5),
    advance: Advance = lambda clips, note: None,
) -> list[MaskedAccuracy]:
    """Accuracy of a model on masked clips (AV figure 1).

    What masks the same steps is measured once.

    Args:
        model: classifies clips with sound.
        batches: clean clips with their labels.
        ratios, modes, seeds: see `corrupt`; accuracy is a mean over seeds.
        advance: told how many clips were classified: of every mode, ratio and seed all, at once where they are known.

    Raises:
        InputError: there are no clips or seeds; see `corrupt`.
    """
    if not batches or not seeds:
        raise InputError("There is nothing to mask: give clips and seeds.")
    found = []
    known: dict[tuple[Mode | None, tuple[float, ...]], Interval] = {}
    span = frames_per_step(model)
    clips = sum(len(clip) for clip, _ in batches)
    for mode in modes:
        for ratio in ratios:
            note = f"{mode}, {ratio:.0%}"
            shares = tuple(masked_share(clip, ratio, span) for clip, _ in batches)
            key = (mode if any(shares) else None, shares)
            if key in known:
                advance(clips * len(seeds), note)
            else:
                right = 0
                for seed in seeds:
                    for clip, labels in batches:
                        verdict = clean_verdict(model, corrupt(clip, ratio, mode, seed, span), labels)
                        right += int((~verdict.success).sum())
                        advance(len(clip), note)
                known[key] = wilson(right / len(seeds), clips)
            share = sum(s * len(clip) for s, (clip, _) in zip(shares, batches, strict=True)) / clips
            found.append(MaskedAccuracy(mode, ratio, share, known[key]))
    return found


def masked_fgsm(ratio: float, mode: Mode, copies: int = 5, threat: ThreatModel | None = None) -> TMA:
    """FGSM on the mean gradient of a clip and of masked copies (AV figure 2; the paper does not say how many).

    Args:
        ratio: share of the steps masked; 0 is plain FGSM.
        mode: see `Mode`.
        copies: masked ones.
        threat: Default: 8/255 of the pixels and 0.012 of the waveform.
    """
    return TMA(
        threat=threat or AudioVisual(),
        lam1=0.0,
        lam2=0.0,
        steps=1,
        copies=1 + copies if ratio > 0 else 1,
        transforms=("mask",),
        mask_ratio=ratio,
        where=mode if mode in ("video", "audio") else "both",
        synchronous=mode != "asynchronous",
        early_stop=False,
    )


def masked_transfer(
    surrogate: Model,
    targets: Mapping[str, Model],
    batches: Batches,
    ratios: Sequence[float] = RATIOS,
    modes: Sequence[Mode] = MODES,
    copies: int = 5,
    threat: ThreatModel | None = None,
) -> list[MaskedTransfer]:
    """Success of `masked_fgsm` on models it has not seen (AV figure 2)."""
    found = []
    for mode in modes:
        for ratio in ratios:
            attack = masked_fgsm(ratio, mode, copies, threat)
            success = mean_transfer(successes(surrogate, targets, attack, batches).values())
            found.append(MaskedTransfer(mode, ratio, success))
    return found


def alignment_study(
    surrogate: Model,
    targets: Mapping[str, Model],
    attacks: Mapping[str, Attack],
    batches: Batches,
    advance: Advance = lambda clips, note: None,
) -> list[AlignedTransfer]:
    """Alignment of the modalities on adversarial clips, and their success on models not seen (AV figure 3).

    The first point is that of the undisturbed clips.

    Args:
        surrogate: shows its features, as an audio_visual model does.
        targets: models that the clips are tried on.
        attacks: name -> attack; each takes all its steps. The paper's: FGSM, I-FGSM, MI-FGSM and NI-FGSM.
        batches: clean clips with their labels.
        advance: told after every attack on a batch how many clips it was.

    Raises:
        InputError: there are no clips, or the surrogate has no features to compare.
    """
    if not batches:
        raise InputError("There are no clips to transfer.")
    cosines: dict[str, list[float]] = {name: [] for name in (CLEAN, *attacks)}
    found = {name: dict.fromkeys(targets, Success()) for name in cosines}
    for clip, labels in batches:
        for name in cosines:
            crafted = clip if name == CLEAN else craft_for_others(attacks[name], surrogate, clip, labels).clip
            with at_rest(surrogate), torch.no_grad():
                cosines[name] += alignment(features_of(surrogate, crafted)).double().tolist()
            for target, success in tried([crafted], targets, [(clip, labels)]).items():
                found[name][target] += success
            if name != CLEAN:
                advance(len(clip), name)
    return [AlignedTransfer(name, _cosine(cosines[name]), mean_transfer(found[name].values())) for name in cosines]


def _cosine(values: Sequence[float]) -> Interval:
    """A mean cosine with its interval, within what a cosine can be."""
    mean = mean_interval(values)
    return Interval(max(-1.0, mean.low), mean.estimate, min(1.0, mean.high))


def rank_correlation(points: Sequence[AlignedTransfer]) -> RankCorrelation | None:
    """Spearman's rank correlation of alignment and success over attacks; the undisturbed clips are none.

    It goes through every order of the attacks, so let them be ten at most.

    Returns:
        None where it has no meaning: of fewer than four attacks, of whose orders none is rarer than one in six, or
        where all are equal in alignment or in success.
    """
    points = [point for point in points if point.attack != CLEAN]
    aligned = _ranks([point.alignment.estimate for point in points])
    succeeded = _ranks([point.success.estimate for point in points])
    if len(points) < 4 or len(set(aligned)) == 1 or len(set(succeeded)) == 1:
        return None
    rho = correlation(aligned, succeeded)
    side = -1 if rho < 0 else 1
    orders = [side * correlation(aligned, order) for order in permutations(succeeded)]
    chance = sum(other >= side * rho - 1e-9 for other in orders) / len(orders)
    return RankCorrelation(rho, chance, len(points))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    return [(1 + sum(v < value for v in values) + sum(v <= value for v in values)) / 2 for value in values]
