"""DiffPure, on models whose noise is known."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from diffusing import SCHEDULE, SpaceToDepth, a_video, known, latents, nothing, rugged
from torch import Tensor

from robustvideo.purification.diffpure import DiffPureDDIM, DiffPureDDPM
from robustvideo.purification.diffusion_model import Diffusion
from robustvideo.purification.diffusion_steps import posterior
from robustvideo.randomness import ClipRandom, seed_for

LAST = SCHEDULE.levels()[0]


def drawn(like: Tensor, seeds: list[int], what: object) -> Tensor:
    return ClipRandom([seed_for(seed, "noise", what) for seed in seeds]).normal(like)


def test_an_oracle_of_the_noise_leaves_that_of_the_last_level() -> None:
    clip, seeds = a_video(), [3, 4]
    source = 2 * clip.video - 1
    noise = drawn(source, seeds, "start")
    network = known(lambda state, t: noise)
    diffusion = network["diffusion"]
    assert isinstance(diffusion, Diffusion)
    passage = DiffPureDDIM().passage(diffusion, clip, seeds, network, recorded=True)
    assert torch.allclose(passage.candidates[0], sqrt(LAST) * source + sqrt(1 - LAST) * noise, atol=1e-12)
    assert torch.allclose(passage.deviation, torch.zeros(2, dtype=torch.float64), atol=1e-24)
    assert diffusion.network.asked == [101, 81, 61, 41, 21, 1]


def test_ddpm_runs_every_timestep_with_its_posterior() -> None:
    clip, seeds = a_video(), [3, 4]
    network = known(nothing)
    diffusion = network["diffusion"]
    assert isinstance(diffusion, Diffusion)
    passage = DiffPureDDPM().passage(diffusion, clip, seeds, network)
    assert diffusion.network.asked == list(range(101, 0, -1))
    source = 2 * clip.video - 1
    steps = SCHEDULE.steps(1000, 101)
    state = sqrt(steps[0].upper) * source + sqrt(1 - steps[0].upper) * drawn(source, seeds, "start")
    gain = 1.0
    for step in steps:
        mean, variance = posterior(state, state / sqrt(step.upper), step)
        gain *= float((mean / state).median())
        state = mean + sqrt(variance) * drawn(state, seeds, step.t)
    assert torch.allclose(passage.candidates[0], state, atol=1e-12)
    assert gain == pytest.approx(sqrt(LAST / steps[0].upper), rel=1e-9)  # noise 0: what is left is the signal's share


def test_of_normal_data_ddpm_gives_normal_data_back() -> None:
    """The exact noise of N(0.1, 0.4^2): both mean and spread survive, frame by frame."""

    def gaussian(state: Tensor, t: int) -> Tensor:
        level = SCHEDULE.levels()[t]
        return sqrt(1 - level) * (state - sqrt(level) * 0.1) / (level * 0.4**2 + 1 - level)

    random = torch.Generator().manual_seed(0)
    source = 0.1 + 0.4 * torch.randn(1, 3, 4, 32, 32, generator=random, dtype=torch.float64)
    clip = a_video(1, 4, 32, 32)
    clip = clip.with_signal("video", source / 2 + 0.5)
    for purifier in (DiffPureDDPM(), DiffPureDDIM(steps=101, grid=1000)):
        network = known(gaussian)
        diffusion = network["diffusion"]
        assert isinstance(diffusion, Diffusion)
        (found,) = purifier.passage(diffusion, clip, [5], network).candidates
        assert found.mean() == pytest.approx(0.1, abs=0.02)
        assert found.std() == pytest.approx(0.4, rel=0.02)
        correlation = torch.corrcoef(torch.stack([found.flatten(), source.flatten()]))[0, 1]
        assert 0.3 < correlation < 0.9  # something of the clip is gone, something is left


@pytest.mark.parametrize("purifier", [DiffPureDDIM(), DiffPureDDPM(steps=4)])
def test_noise_is_the_clip_s_own_whatever_its_batch(purifier: DiffPureDDIM) -> None:
    clip = a_video(3)
    network = known(rugged, SpaceToDepth())
    (together,) = purifier.purify(clip, [7, 8, 9], network)
    (alone,) = purifier.purify(clip.select([2]), [9], network)
    assert torch.allclose(together.video[2:], alone.video, atol=1e-12)
    (other,) = purifier.purify(clip.select([2]), [10], network)
    assert not torch.allclose(alone.video, other.video)


def test_frames_have_noise_of_their_own() -> None:
    source = latents()
    noise = drawn(source, [0, 1], "start")
    assert not torch.equal(noise[:, :, 0], noise[:, :, 1])


def test_of_few_steps_ddpm_starts_at_the_same_timestep() -> None:
    network = known(nothing)
    diffusion = network["diffusion"]
    assert isinstance(diffusion, Diffusion)
    DiffPureDDPM(substeps=3).purify(a_video(), [0, 1], network)
    assert diffusion.network.asked == [101, 51, 1]
