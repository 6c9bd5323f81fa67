"""DDIM inversion and back, on models whose noise is known."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from diffusing import SCHEDULE, SpaceToDepth, Tiny, a_video, known, latents, networks, nothing, rugged
from torch import Tensor

from robustvideo.purification import load_defense
from robustvideo.purification.ddim_inversion import DDIMInversion, inverted
from robustvideo.purification.diffusion_model import Diffusion

STEPS = SCHEDULE.steps(50, 6)
LOWEST, TOP = STEPS[-1].lower, STEPS[0].upper
MIDDLE, SPREAD = 0.1, 0.4


def the_diffusion(function: object) -> Diffusion:
    found = known(function)["diffusion"]  # type: ignore[arg-type]
    assert isinstance(found, Diffusion)
    return found


def gaussian(state: Tensor, t: int) -> Tensor:
    """The exact noise of data that are normal, of mean 0.1 and standard deviation 0.4."""
    level = SCHEDULE.levels()[t]
    return sqrt(1 - level) * (state - sqrt(level) * MIDDLE) / (level * SPREAD**2 + 1 - level)


def test_each_step_up_asks_for_the_timestep_it_leads_to() -> None:
    diffusion = the_diffusion(nothing)
    way = inverted(diffusion, latents(), STEPS)
    assert diffusion.network.asked == [1, 21, 41, 61, 81, 101]
    assert len(way) == 7


def test_differences_of_frames_pass_the_temporal_inversion_whatever_the_network() -> None:
    source = latents()
    top = inverted(the_diffusion(rugged), source, STEPS, 0)[-1]
    factor = sqrt(TOP / LOWEST)
    assert factor == pytest.approx(0.945378, abs=1e-6)
    assert torch.allclose(top[:, :, 1:] - top[:, :, :-1], factor * (source[:, :, 1:] - source[:, :, :-1]), atol=1e-12)
    plain = inverted(the_diffusion(rugged), source, STEPS)[-1]
    assert not torch.allclose(plain[:, :, 1:] - plain[:, :, :-1], factor * (source[:, :, 1:] - source[:, :, :-1]))


def test_of_a_single_frame_temporal_is_plain() -> None:
    source = latents(frames=1)
    diffusion = the_diffusion(rugged)
    assert torch.equal(inverted(diffusion, source, STEPS, 0)[-1], inverted(diffusion, source, STEPS)[-1])


def test_the_inversion_is_diffusers_inversion() -> None:
    """Theirs moves the state of a timestep to the next; ours asks for the noise at that next one, as the paper does."""
    theirs = pytest.importorskip("diffusers").DDIMInverseScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, set_alpha_to_one=False,
        clip_sample=False,
    )  # fmt: skip
    theirs.set_timesteps(50)
    source = state = latents()
    for t in theirs.timesteps[:6].tolist():
        state = theirs.step(rugged(state, t), t, state).prev_sample
    assert theirs.timesteps[:6].tolist() == [1, 21, 41, 61, 81, 101]
    assert torch.allclose(inverted(the_diffusion(rugged), source, STEPS)[-1], state, atol=1e-5)


@pytest.mark.parametrize("function", [nothing, lambda state, t: torch.full_like(state, 0.7)])
def test_where_noise_does_not_depend_on_the_state_the_clip_comes_back(function: object) -> None:
    clip = a_video()
    (back,) = DDIMInversion().purify(clip, [0, 1], known(function))  # type: ignore[arg-type]
    assert torch.allclose(back.video, clip.video, atol=1e-12)


def test_of_normal_data_the_way_up_is_the_one_known_on_paper() -> None:
    """The exact flow keeps (z_t - sqrt(abar) mean) / sqrt(abar s^2 + 1 - abar); finer steps come closer to it."""
    source = latents()
    shares = {level: sqrt(level * SPREAD**2 + 1 - level) for level in (LOWEST, TOP)}
    exact = sqrt(TOP) * MIDDLE + (source - sqrt(LOWEST) * MIDDLE) * shares[TOP] / shares[LOWEST]
    errors = []
    for steps in (SCHEDULE.steps(50, 6), SCHEDULE.steps(200, 21), SCHEDULE.steps(1000, 101)):
        assert steps[0].t == 101
        errors.append((inverted(the_diffusion(gaussian), source, steps)[-1] - exact).abs().max())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02


def test_of_normal_data_the_clip_comes_back() -> None:
    clip = a_video()
    errors = []
    for spec in ("steps=6", "steps=21, grid=200", "steps=101, grid=1000"):
        (back,) = load_defense(f"ddim_inversion({spec})").purify(clip, [0, 1], known(gaussian))
        errors.append((back.video - clip.video).abs().max())
    assert errors[0] < 0.05
    assert errors[2] < 0.002
    assert errors[0] > errors[1] > errors[2]


def test_it_is_the_same_in_latents() -> None:
    clip = a_video(height=13, width=18)
    (back,) = DDIMInversion().purify(clip, [0, 1], known(nothing, SpaceToDepth()))
    assert torch.allclose(back.video, clip.video, atol=1e-12)


def test_passes_of_the_network_are_counted() -> None:
    found = networks(Tiny())
    diffusion = found["diffusion"]
    assert isinstance(diffusion, Diffusion)
    clip = a_video()
    with torch.no_grad():
        DDIMInversion().purify(clip, [0, 1], found)
    assert diffusion.calls.batches == 12
    video = clip.video.requires_grad_()
    (back,) = DDIMInversion().purify(clip.with_signal("video", video), [0, 1], found)
    torch.autograd.grad(back.video.sum(), video)
    assert diffusion.calls.batches == 12 + 24
