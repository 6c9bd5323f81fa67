"""Steps of diffusion, as functions of the state, the predicted noise and the levels: DDIM, its inversion, DDPM.

States and noise are latents (B, C, T, H, W); a level is abar, the share of the signal in the state's variance.
"""

from __future__ import annotations

from math import sqrt

from torch import Tensor

from robustvideo.errors import InputError
from robustvideo.models.noise_schedule import Step


def predicted_clean(state: Tensor, noise: Tensor, level: float) -> Tensor:
    """``z_0^t = (z_t - sqrt(1 - abar_t) e) / sqrt(abar_t)`` (VideoPure, eq. 15)."""
    return (state - sqrt(1 - level) * noise) / sqrt(level)


def noised(clean: Tensor, noise: Tensor, level: float) -> Tensor:
    """``sqrt(abar) z_0 + sqrt(1 - abar) n``."""
    return sqrt(level) * clean + sqrt(1 - level) * noise


def moved(state: Tensor, noise: Tensor, before: float, after: float) -> Tensor:
    """DDIM without added noise, from a level to another: down it denoises (eq. 8), up it inverts (eq. 10)."""
    return noised(predicted_clean(state, noise, before), noise, after)


def of_one_frame(noise: Tensor, frame: int = 0) -> Tensor:
    """Every frame's noise replaced by that of one frame of the same clip (eq. 11)."""
    return noise[:, :, frame : frame + 1].expand_as(noise)


def posterior(state: Tensor, clean: Tensor, step: Step) -> tuple[Tensor, float]:
    """Mean and variance of DDPM's state below, given the state and the clean latent (Ho et al. 2020, eqs. 6 and 7).

    The variance is the "fixed small" one, ``(1 - abar_p) / (1 - abar_t) beta_t``, ``beta_t = 1 - abar_t / abar_p``.
    """
    beta = 1 - step.upper / step.lower
    share = (1 - step.lower) / (1 - step.upper)
    mean = sqrt(step.lower) * beta / (1 - step.upper) * clean + sqrt(1 - beta) * share * state
    return mean, share * beta


def as_noise(output: Tensor, state: Tensor, level: float, prediction: str) -> Tensor:
    """The noise that a network's output stands for, whichever of epsilon, v_prediction and sample it predicts.

    Raises:
        InputError: a network that predicts the sample, asked about a state without noise (an inversion that starts at
            the level 1): the noise would be 0 / 0.
    """
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return sqrt(level) * output + sqrt(1 - level) * state
    if level == 1:
        raise InputError(
            "A diffusion model of prediction_type=sample and set_alpha_to_one=true cannot be inverted, which videopure "
            "and ddim_inversion do: take diffpure_ddim or diffpure_ddpm, or another model."
        )
    return (state - sqrt(level) * output) / sqrt(1 - level)
