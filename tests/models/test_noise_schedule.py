"""Noise schedules, against the published numbers and against diffusers."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from robustvideo.errors import InputError
from robustvideo.models.noise_schedule import NoiseSchedule, coarser

SCHEDULE = NoiseSchedule()


def test_the_steps_are_the_published_ones() -> None:
    steps = SCHEDULE.steps(50, 6)
    assert [step.t for step in steps] == [101, 81, 61, 41, 21, 1]
    levels = [0.892981, 0.917138, 0.939783, 0.960873, 0.980381, 0.998296]
    assert [step.upper for step in steps] == pytest.approx(levels, abs=1e-6)
    assert [step.lower for step in steps] == pytest.approx([*levels[1:], 0.99915], abs=1e-6)
    logs = [-3.893, -4.045, -4.250, -4.607, -6.464, -7.760]
    assert [step.log_variance for step in steps] == pytest.approx(logs, abs=1e-3)


def test_ddpm_takes_every_timestep_and_its_variances_are_of_that_grid() -> None:
    steps = SCHEDULE.steps(1000, 101)
    assert [step.t for step in steps] == list(range(101, 0, -1))
    assert exp(steps[-1].log_variance) == pytest.approx(4.26e-4, rel=3e-3)
    assert exp(steps[0].log_variance) == pytest.approx(1.37e-3, rel=3e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1},
        {"beta_schedule": "linear", "set_alpha_to_one": False},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 200},
        {"trained_betas": [0.01, 0.02, 0.03, 0.04] * 25, "num_train_timesteps": 100},
    ],
)
def test_levels_and_steps_are_those_of_diffusers(options: dict[str, object]) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(**options)
    ours = NoiseSchedule.from_config(theirs.config)
    assert torch.allclose(torch.tensor(ours.levels()), theirs.alphas_cumprod, atol=2e-6)
    theirs.set_timesteps(20)
    steps = ours.steps(20, 20)
    assert [step.t for step in steps] == theirs.timesteps.tolist()
    assert steps[-1].lower == pytest.approx(float(theirs.final_alpha_cumprod), abs=1e-6)
    for step in steps[:-1]:
        assert exp(step.log_variance) == pytest.approx(
            float(theirs._get_variance(step.t, step.t - ours.timesteps // 20)), rel=1e-3
        )


@pytest.mark.parametrize("final_is_one", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(("grid", "count"), [(50, 6), (1000, 101)])
def test_the_levels_below_are_those_of_diffusers(final_is_one: bool, offset: int, grid: int, count: int) -> None:
    """Where a grid of all timesteps starts at 1, the level below its lowest step is that of timestep 0."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=offset,
        set_alpha_to_one=final_is_one,
    )  # fmt: skip
    theirs.set_timesteps(grid)
    timesteps = theirs.timesteps.tolist()[-count:]
    below = [t - 1000 // grid for t in timesteps]
    lower = [float(theirs.alphas_cumprod[t] if t >= 0 else theirs.final_alpha_cumprod) for t in below]
    schedule = NoiseSchedule.from_config(theirs.config)
    steps = schedule.steps(grid, count)
    assert [step.t for step in steps] == timesteps
    assert [step.lower for step in steps] == pytest.approx(lower, abs=1e-6)
    for few in (1, 3):
        chain = schedule.chain(coarser(steps, few), steps[-1].lower)
        assert chain[-1].lower == steps[-1].lower, "a coarser chain ends where the steps do"


def test_coarser_steps_keep_the_ends() -> None:
    steps = SCHEDULE.steps(50, 6)
    assert coarser(steps, 1) == [101]
    assert coarser(steps, 2) == [1, 101]
    assert coarser(steps, 6) == [1, 21, 41, 61, 81, 101]
    assert coarser(SCHEDULE.steps(1000, 101), 3) == [1, 51, 101]
    chain = SCHEDULE.chain([1, 101], 0.999)
    assert [(step.t, step.lower) for step in chain] == [(101, chain[1].upper), (1, 0.999)]


def test_a_level_without_noise_below_has_a_finite_weight() -> None:
    (step,) = NoiseSchedule(final_is_one=True).chain([21], 1.0)
    assert step.log_variance == pytest.approx(torch.tensor(1 - step.upper).log().item(), rel=1e-5)


def test_timestep_0_weighs_the_same_whichever_way_the_schedule_ends() -> None:
    """Where it ends at abar_0 the step changes nothing, and its variance is 0."""
    (still,) = NoiseSchedule(offset=0).steps(50, 1)
    (free,) = NoiseSchedule(offset=0, final_is_one=True).steps(50, 1)
    assert still.lower == still.upper == free.upper
    assert still.log_variance == free.log_variance == pytest.approx(log(1 - still.upper))


@pytest.mark.parametrize(("grid", "count"), [(0, 1), (50, 0), (50, 51), (1001, 1)])
def test_steps_that_cannot_be(grid: int, count: int) -> None:
    with pytest.raises(InputError, match="grid"):
        SCHEDULE.steps(grid, count)
    with pytest.raises(InputError, match="6 steps"):
        coarser(SCHEDULE.steps(50, 6), 7)


def test_what_is_no_such_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="Unknown noise schedule"):
        NoiseSchedule(kind="sigmoid")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="zero_snr"):
        NoiseSchedule.from_config({"rescale_betas_zero_snr": True})
    with pytest.raises(InputError, match="another kind"):
        NoiseSchedule.from_config({"sigma_min": 0.1})
