"""The arithmetic of diffusion steps, against diffusers and closed forms."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
from diffusing import SCHEDULE, Tiny, a_video, latents
from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.models.noise_schedule import NoiseSchedule
from robustvideo.purification.ddim_inversion import DDIMInversion
from robustvideo.purification.diffpure import DiffPureDDIM, DiffPureDDPM
from robustvideo.purification.diffusion_model import Diffusion, Pixels
from robustvideo.purification.diffusion_steps import as_noise, moved, noised, of_one_frame, posterior, predicted_clean
from robustvideo.purification.videopure import VideoPure

CONFIG = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
OPTIONS = [{**CONFIG, "prediction_type": kind} for kind in ("epsilon", "v_prediction", "sample")]


def draw(seed: int) -> Tensor:
    return torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options["prediction_type"])
def test_ddim_is_diffusers_ddim(options: dict[str, object]) -> None:
    """Theirs has levels in single precision, which a network that predicts the clean sample feels most."""
    theirs = pytest.importorskip("diffusers").DDIMScheduler(**options)
    theirs.set_timesteps(50)
    schedule = NoiseSchedule.from_config(theirs.config)
    for step in schedule.steps(50, 6):
        state, output = draw(step.t), draw(step.t + 1)
        noise = as_noise(output, state, step.upper, schedule.prediction)
        found = theirs.step(output, step.t, state)
        assert torch.allclose(moved(state, noise, step.upper, step.lower), found.prev_sample, atol=1e-4)
        assert torch.allclose(predicted_clean(state, noise, step.upper), found.pred_original_sample, atol=1e-4)


def test_ddpm_is_diffusers_ddpm() -> None:
    diffusers = pytest.importorskip("diffusers")
    options = {name: value for name, value in CONFIG.items() if name not in ("steps_offset", "set_alpha_to_one")}
    theirs = diffusers.DDPMScheduler(**options, variance_type="fixed_small")
    for step in SCHEDULE.steps(1000, 101)[::20]:
        state, noise = draw(step.t), draw(step.t + 1)
        mean, variance = posterior(state, predicted_clean(state, noise, step.upper), step)
        drawn = torch.Generator().manual_seed(4)
        found = theirs.step(noise, step.t, state, generator=drawn).prev_sample
        fresh = torch.randn(state.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        if step.t == 1:  # diffusers goes on to timestep 0, whose level is the one below
            assert step.lower == SCHEDULE.levels()[0]
        assert torch.allclose(mean + sqrt(variance) * fresh, found, atol=1e-5)


def test_a_prediction_of_the_sample_says_nothing_of_noise_that_is_not_there() -> None:
    state, output = draw(0), draw(1)
    assert torch.equal(as_noise(output, state, 1, "epsilon"), output)
    assert torch.equal(as_noise(output, state, 1, "v_prediction"), output)
    with pytest.raises(InputError, match="cannot be inverted"):
        as_noise(output, state, 1, "sample")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("final_is_one", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
def test_every_schedule_purifies_or_says_in_a_sentence_why_not(kind: Any, final_is_one: bool, offset: int) -> None:
    schedule = NoiseSchedule(prediction=kind, final_is_one=final_is_one, offset=offset)
    network = nn.ModuleDict({"diffusion": Diffusion(Tiny(), Pixels(1), schedule)})
    for purifier in (DDIMInversion(), VideoPure(flow=None), DiffPureDDIM(), DiffPureDDPM(steps=5)):
        with torch.no_grad():
            if kind == "sample" and final_is_one and isinstance(purifier, DDIMInversion | VideoPure):
                with pytest.raises(InputError, match="cannot be inverted"):
                    purifier.purify(a_video(), [0, 1], network)
            else:
                assert all(vote.video.isfinite().all() for vote in purifier.purify(a_video(), [0, 1], network))


def test_up_and_down_with_the_same_noise_returns() -> None:
    state, noise = draw(0), draw(1)
    assert torch.allclose(moved(moved(state, noise, 0.99, 0.4), noise, 0.4, 0.99), state, atol=1e-12)
    assert torch.allclose(predicted_clean(noised(state, noise, 0.3), noise, 0.3), state, atol=1e-12)


def test_the_noise_of_one_frame_is_that_of_the_same_clip() -> None:
    noise = latents(3)
    assert torch.equal(of_one_frame(noise, 2)[1, :, 0], noise[1, :, 2])
    assert torch.equal(of_one_frame(noise)[2, :, 3], noise[2, :, 0])
