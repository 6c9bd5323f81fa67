"""What masked time steps do to an audio-visual model, and what they are good for in an attack (AV section 3).

Figure 1: accuracy against the share of the time steps that is masked. Figure 2: success of FGSM on masked copies on
models it has not seen. Figure 3: alignment of the two modalities' features against that success.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from robustvideo.evaluation.transfer import Batches, mean_transfer, successes, tried
from robustvideo.model import Model, at_rest, frames_per_step
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
        ratio: share of the time steps.
        accuracy: mean over seeds, with Wilson's interval over the clips (masks of a clip are no clips of their own).
    """

    mode: Mode
    ratio: float
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
        attack: its name.
        alignment: mean cosine of the surrogate's features of picture and sound on the adversarial clips.
        success: mean misclassification rate of the models that the attack has not seen.
    """

    attack: str
    alignment: float
    success: Interval


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
        order = random.uniform(clip.video.new_empty(len(clip), max(1, clip.frames // span)))
        clip = clip.with_signal(modality, masked(clip.signal(modality), masks(order, ratio)))
    return clip


def masking_study(
    model: Model,
    batches: Batches,
    ratios: Sequence[float] = RATIOS,
    modes: Sequence[Mode] = MODES,
    seeds: Sequence[int] = range(5),
) -> list[MaskedAccuracy]:
    """Accuracy of a model on masked clips (AV figure 1).

    Raises:
        InputError: there are no clips or seeds; see `corrupt`.
    """
    if not batches or not seeds:
        raise InputError("There is nothing to mask: give clips and seeds.")
    found = []
    span = frames_per_step(model)
    clips = sum(len(clip) for clip, _ in batches)
    for mode in modes:
        for ratio in ratios:
            right = 0
            for seed in seeds:
                for clip, labels in batches:
                    verdict = clean_verdict(model, corrupt(clip, ratio, mode, seed, span), labels)
                    right += int((~verdict.success).sum())
            found.append(MaskedAccuracy(mode, ratio, wilson(right / len(seeds), clips)))
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
    surrogate: Model, targets: Mapping[str, Model], attacks: Mapping[str, Attack], batches: Batches
) -> list[AlignedTransfer]:
    """Alignment of the modalities on adversarial clips, and their success on models not seen (AV figure 3).

    Args:
        surrogate: shows its features, as an audio_visual model does.
        targets: models that the clips are tried on.
        attacks: name -> attack; each takes all its steps. The paper's: FGSM, I-FGSM, MI-FGSM and NI-FGSM.
        batches: clean clips with their labels.
    """
    found = []
    for name, attack in attacks.items():
        crafted = [craft_for_others(attack, surrogate, clip, labels).clip for clip, labels in batches]
        with at_rest(surrogate), torch.no_grad():
            cosines = [alignment(features_of(surrogate, clip)).double() for clip in crafted]
        success = mean_transfer(tried(crafted, targets, batches).values())
        found.append(AlignedTransfer(name, float(torch.cat(cosines).mean()), success))
    return found
