"""Selectors of key frames: on additive losses, whose best frames are known, and clip by clip as in a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from toys import Linear, alternating, clips, problem_for, weights

from robustvideo.attacks import DeepSAVA, bayesian_frames, forecast_frames
from robustvideo.attacks.bayesian_frames import evenly_spread, expected_improvement, matern, posterior
from robustvideo.attacks.key_frames import FrameSearch, Selector, selectors, swapped
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.threat import WarpAndNoise

PROBING = {
    "brute": selectors.build("brute"),
    "bo": selectors.build("bo(guided=100, tolerance=0)"),
    "bo_gradient": selectors.build("bo_gradient(guided=100, tolerance=0)"),
    "sa": selectors.build("sa(evaluations=300, cooling=0.99)"),
    "ga": selectors.build("ga(evaluations=300)"),
}


@dataclass
class Additive:
    """A loss that is a sum over the frames, each clip's own; it writes down what it is asked."""

    costs: torch.Tensor
    asked: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def __call__(self, rows: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        self.asked += [(r, tuple(f)) for r, f in zip(rows.tolist(), frames.tolist(), strict=True)]
        return self.costs[rows].gather(1, frames).sum(1)


def every(frames: int, batch: int) -> torch.Tensor:
    return torch.arange(frames).expand(batch, -1)


def a_search(costs: torch.Tensor, k: int, names: list[int] | None = None) -> tuple[FrameSearch, Additive]:
    batch, frames = costs.shape
    names = list(range(batch)) if names is None else names
    clip = clips(batch, shape=(3, frames, 4, 4))
    problem = problem_for(Linear(weights((3, frames, 4, 4))), clip, alternating(batch), WarpAndNoise(0.1))
    random = ClipRandom(seed_for("test", name) for name in names)
    probe = Additive(costs)
    nothing_told = (torch.ones_like(costs), costs.sum(1) + 10)
    climb = DeepSAVA().ascent()
    return FrameSearch(problem, every(frames, batch), k, probe, random, climb, lambda: nothing_told), probe


def some_costs(batch: int, frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("name", PROBING)
def test_with_probes_enough_the_best_frames_are_found(name: str, k: int) -> None:
    costs = some_costs(4, 7)
    search, probe = a_search(costs, k)
    choice = PROBING[name].choose(search)
    expected = costs.argsort(1)[:, :k].sort(1).values
    assert choice.frames.tolist() == expected.tolist()
    best = costs.gather(1, expected).sum(1)
    assert torch.allclose(choice.losses.nan_to_num(nan=math.inf).amin(1), best)
    assert len(probe.asked) == int(choice.losses.isfinite().sum())
    for row, frames in probe.asked:
        assert 0 <= row < 4
        assert len(set(frames)) == k
        assert list(frames) == sorted(frames)
        assert all(0 <= f < 7 for f in frames)


@pytest.mark.parametrize("k", [1, 3])
def test_bayesian_optimisation_and_brute_force_never_ask_twice(k: int) -> None:
    for name in ("bo", "bo_gradient", "brute"):
        search, probe = a_search(some_costs(3, 8), k)
        PROBING[name].choose(search)
        assert len(probe.asked) == len(set(probe.asked))
    assert len(probe.asked) == 3 * math.comb(8, k)


def test_random_candidates_are_not_asked_twice_either() -> None:
    search, probe = a_search(some_costs(2, 24), 4)
    selectors.build("bo(guided=12, tolerance=0)").choose(search)
    assert len(probe.asked) == len(set(probe.asked)) == 2 * 17


@pytest.mark.parametrize(
    "spec", ["bo", "bo(guided=4)", "bo_gradient(tolerance=0)", "brute", "sa", "ga", "random", "first", "last"]
)
@pytest.mark.parametrize("k", [1, 3])
def test_a_choice_does_not_depend_on_the_batch(spec: str, k: int) -> None:
    selector, costs = selectors.build(spec), some_costs(4, 12)
    together = selector.choose(a_search(costs, k)[0])
    for i in range(4):
        alone = selector.choose(a_search(costs[i : i + 1], k, [i])[0])
        assert alone.frames[0].tolist() == together.frames[i].tolist()
        count = int(alone.losses.isfinite().sum())
        assert alone.tried[0, :count].tolist() == together.tried[i, :count].tolist()
        assert together.losses[i, count:].isnan().all()


def forecasting(gains: torch.Tensor, forecast: torch.Tensor) -> tuple[FrameSearch, Additive]:
    """A search of one frame each, in which every loss is 10 less the gain."""
    search, probe = a_search(10 - gains, 1)
    return replace(search, forecast=lambda: (forecast, torch.full((len(gains),), 10.0))), probe


def test_a_forecast_that_is_right_costs_the_first_probes_alone() -> None:
    gains = some_costs(20, 30).exp()
    search, probe = forecasting(gains, 3 * gains)
    choice = selectors.build("bo_gradient").choose(search)
    assert choice.frames[:, 0].tolist() == gains.argmax(1).tolist()
    assert len(probe.asked) < 3 * 20
    assert (choice.forwards, choice.backwards) == (1, 1)


def test_a_forecast_that_is_wrong_by_a_smooth_factor_is_corrected() -> None:
    place = torch.linspace(0, 1, 40, dtype=torch.float64)
    forecast = (0.5 * some_costs(30, 40, seed=4)).exp()
    centres = torch.rand(30, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gains = forecast * (0.8 * torch.cos(4 * (place - centres))).exp()
    search, probe = forecasting(gains, forecast)
    reached = gains.gather(1, selectors.build("bo_gradient").choose(search).frames)[:, 0]
    by_forecast = gains.gather(1, forecast.argmax(1, keepdim=True))[:, 0]
    best = gains.amax(1)
    assert (reached >= 0.95 * best).float().mean() >= 0.8 > (by_forecast >= 0.95 * best).float().mean()
    assert len(probe.asked) <= 30 * 8


@pytest.mark.parametrize("forecast", [0.0, 1.0])
def test_a_forecast_without_content_and_probes_without_gain_do_no_harm(forecast: float) -> None:
    search, _ = forecasting(torch.zeros(3, 12, dtype=torch.float64) - 1, torch.full((3, 12), forecast))
    choice = selectors.build("bo_gradient(guided=20, tolerance=0)").choose(search)
    assert choice.losses.isfinite().any(1).all()
    assert (choice.frames >= 0).all()


def test_the_correction_is_a_gaussian_process_with_an_unknown_mean() -> None:
    """Against the textbook's universal kriging: a constant of boundless variance added to the covariance."""
    places = torch.tensor([0, 0.2, 0.5, 0.9]).double()[None, :, None].expand(2, -1, 1)
    candidates = torch.tensor([0.1, 0.4, 0.7, 1]).double()[None, :, None].expand(2, -1, 1)
    seen = some_costs(2, 4)
    mean, deviation = forecast_frames.corrected(places, seen, candidates)
    scale, boundless = torch.tensor(0.2, dtype=torch.float64), 1e4
    around = matern(places, places, scale) + forecast_frames._JITTER * torch.eye(4).double() + boundless
    cross = matern(candidates, places, scale) + boundless
    weights_ = cross @ torch.linalg.inv(around)
    assert torch.allclose(mean, (weights_ @ seen[:, :, None])[:, :, 0], atol=1e-3)
    left = 1 + boundless - (weights_ * cross).sum(2)
    ratio = deviation.square() / left
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3), "the variance is one number per clip"
    spread = seen - seen.mean(1, keepdim=True)
    far = torch.linspace(0, 1000, 4).double()[None, :, None].expand(2, -1, 1)
    _, apart = forecast_frames.corrected(far, seen, far + 100)
    expected = (2 * 0.3**2 + spread.square().sum(1)) / (2 + 3) * (1 + 1 / 4)
    assert torch.allclose(apart[:, 0].square(), expected, rtol=1e-3)


def test_ties_are_not_broken_by_the_batch() -> None:
    """Equal losses, symmetric frames: the improvement is the same on both sides up to rounding."""
    costs = torch.zeros(5, 41, dtype=torch.float64)
    costs[:, 20] = -1
    costs[:, [10, 30]] = 0.5
    selector = selectors.build("bo(guided=10, tolerance=0)")
    together = selector.choose(a_search(costs, 1)[0])
    for i in range(5):
        assert selector.choose(a_search(costs[:1], 1, [i])[0]).tried[0].tolist() == together.tried[i].tolist()


def test_smooth_losses_are_minimised_with_a_quarter_of_the_probes() -> None:
    place = torch.linspace(0, 1, 40, dtype=torch.float64)
    centres = torch.rand(30, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    costs = -torch.exp(-((place - centres) ** 2) / 0.05) - 0.3 * torch.cos(9 * (place - centres))
    search, probe = a_search(costs, 1)
    choice = selectors.build("bo(guided=5)").choose(search)
    reached = costs.gather(1, choice.frames)[:, 0]
    assert len(probe.asked) <= 30 * 10
    assert (reached <= 0.98 * costs.amin(1)).float().mean() >= 0.9  # the losses are negative


def test_random_search_of_as_many_probes_is_worse() -> None:
    """The comparison is of search, not of budget: on smooth losses the model of them must pay."""
    place = torch.linspace(0, 1, 60, dtype=torch.float64)
    centres = torch.rand(40, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    costs = ((place - centres) ** 2) ** 0.5
    found = selectors.build("bo(guided=7, tolerance=0)").choose(a_search(costs, 1)[0])
    drawn = torch.rand(40, 60, generator=torch.Generator().manual_seed(3)).argsort(1)[:, :12]
    assert costs.gather(1, found.frames).mean() < 0.5 * costs.gather(1, drawn).amin(1).mean()


def test_a_flat_loss_ends_the_search_after_the_first_probes() -> None:
    search, probe = a_search(torch.ones(3, 30, dtype=torch.float64), 1)
    choice = selectors.build("bo").choose(search)
    assert choice.frames.tolist() == [[0]] * 3
    assert len(probe.asked) == 3 * 5


@pytest.mark.parametrize("spec", ["sa", "ga", "sa(evaluations=3)", "ga(evaluations=7)"])
def test_budgets_are_kept(spec: str) -> None:
    selector: Any = selectors.build(spec)
    search, probe = a_search(some_costs(2, 12), 2)
    selector.choose(search)
    assert len(probe.asked) == 2 * selector.evaluations


def test_expected_improvement_against_monte_carlo() -> None:
    random = torch.Generator().manual_seed(0)
    draws = torch.randn(400_000, generator=random, dtype=torch.float64)
    for mean, deviation in ((0.0, 1.0), (0.7, 0.5), (-1.0, 0.2), (0.3, 2.0)):
        exact = expected_improvement(*(torch.tensor([[v]], dtype=torch.float64) for v in (mean, deviation, 0.25)))
        sampled = (0.25 - mean - deviation * draws).clamp_min(0).mean()
        assert float(exact) == pytest.approx(float(sampled), abs=1e-2 * max(1.0, float(sampled)))
    zero = expected_improvement(torch.tensor([-5.0]), torch.tensor([0.0]), torch.tensor([1.0]))
    assert zero.tolist() == [0.0]


def test_the_process_interpolates_and_knows_where_it_has_not_been() -> None:
    places = torch.tensor([[[0.0], [0.4], [1.0]]], dtype=torch.float64)
    values = torch.tensor([[1.0, -1.0, 0.3]], dtype=torch.float64)
    mean, deviation = posterior(places, values, places)
    assert torch.allclose(mean, values, atol=1e-3)
    assert (deviation < 1e-2).all()
    _, between = posterior(places, values, torch.tensor([[[0.7]]], dtype=torch.float64))
    assert float(between) > 0.05


def test_the_process_and_its_improvement_are_botorch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    gpytorch = pytest.importorskip("gpytorch")
    pytest.importorskip("botorch")
    from botorch.acquisition import ExpectedImprovement
    from botorch.models import SingleTaskGP

    random = torch.Generator().manual_seed(4)
    places = torch.rand(6, 2, generator=random, dtype=torch.float64)
    values = torch.randn(6, generator=random, dtype=torch.float64)
    candidates = torch.rand(20, 2, generator=random, dtype=torch.float64)
    scale = 0.4
    monkeypatch.setattr(bayesian_frames, "_SCALES", (scale,))
    mean, deviation = posterior(places[None], values[None], candidates[None])
    ours = expected_improvement(mean, deviation, values.min()[None, None])[0]

    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=2.5))
    model = SingleTaskGP(
        places,
        values[:, None],
        torch.full((6, 1), 1e-6, dtype=torch.float64),
        covar_module=kernel,
        outcome_transform=None,
    )
    covariance = matern(places, places, torch.tensor([[scale]], dtype=torch.float64)) + 1e-6 * torch.eye(6)
    variance = float(values @ torch.linalg.solve(covariance, values)) / 6
    model.covar_module.outputscale = variance
    model.covar_module.base_kernel.lengthscale = scale
    model.mean_module.constant = 0.0
    model.likelihood.noise_covar.noise = torch.full((6,), 1e-6 * variance, dtype=torch.float64)
    model.eval()
    theirs = model.posterior(candidates)
    assert torch.allclose(mean[0], theirs.mean[:, 0], atol=1e-4)
    assert torch.allclose(deviation[0], theirs.variance[:, 0].sqrt(), atol=1e-4)
    expected = ExpectedImprovement(model, values.min(), maximize=False)(candidates[:, None])
    assert torch.allclose(ours, expected, atol=1e-4)


def test_first_probes_are_spread_from_end_to_end() -> None:
    assert evenly_spread(40, 1, 5) == [(0,), (10,), (20,), (29,), (39,)]
    assert evenly_spread(3, 1, 5) == [(0,), (1,), (2,)]
    for frames, k in ((16, 2), (16, 5), (7, 3), (5, 4)):
        chosen = evenly_spread(frames, k, 5)
        assert all(len(set(c)) == k and max(c) < frames for c in chosen)


def test_a_swap_exchanges_one_frame() -> None:
    frames = torch.tensor([[0, 3, 5]]).expand(200, -1)
    luck = torch.rand(200, 7, generator=torch.Generator().manual_seed(0))
    after = swapped(frames, luck)
    for row in after.tolist():
        assert row == sorted(row)
        assert len(set(row)) == 3
        assert len(set(row) & {0, 3, 5}) == 2
    assert len({tuple(row) for row in after.tolist()}) == 3 * 4


@pytest.mark.parametrize("least", [False, True])
def test_saliency_reads_the_pixels_gradient(least: bool) -> None:
    weight = weights((3, 6, 4, 4)) * torch.tensor([1.0, 5, 0.1, 3, 2, 4])[:, None, None]
    search, _ = a_search(some_costs(2, 6), 2)
    search = FrameSearch(
        problem_for(Linear(weight), search.problem.clip, alternating(2), WarpAndNoise(0.1)),
        every(6, 2),
        2,
        search.probe,
        search.random,
        search.climb,
        search.forecast,
    )
    choice = selectors.build(f"saliency(least={str(least).lower()})").choose(search)
    assert choice.frames.tolist() == [[0, 2] if least else [1, 5]] * 2
    assert (choice.forwards, choice.backwards) == (1, 1)


def test_a_relaxed_mask_finds_the_frames_that_count() -> None:
    weight = weights((3, 6, 4, 4)) * torch.tensor([0.1, 5, 0.1, 0.1, 5, 0.1])[:, None, None]
    climb = DeepSAVA(loss="margin", lam=0.1).ascent()
    clip, labels = clips(3, shape=(3, 6, 4, 4)), alternating(3)
    problem = problem_for(Linear(weight), clip, labels, WarpAndNoise(12.0))
    relaxed = selectors.build("relaxed")

    def chosen(rows: list[int]) -> list[list[int]]:
        random = ClipRandom(seed_for("test", name) for name in rows)
        here = problem.select(torch.tensor(rows))
        untold = (torch.empty(0), torch.empty(0))
        search = FrameSearch(here, every(6, len(rows)), 2, Additive(weight), random, climb, lambda: untold)
        return relaxed.choose(search).frames.tolist()

    assert chosen([0, 1, 2]) == [[1, 4]] * 3
    assert chosen([1]) == [[1, 4]]


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="use select=bo"):
        selectors.build("brute(most=5)").choose(a_search(some_costs(1, 8), 2)[0])  # type: ignore[union-attr]
    for spec in ("bo(initial=1)", "bo_gradient(initial=0)", "sa(evaluations=0)", "ga(elite=10)", "relaxed(steps=0)"):
        with pytest.raises(InputError):
            selectors.build(spec)
    with pytest.raises(InputError, match="did you mean"):
        selectors.build("brutal")
    for name in selectors.entries():
        assert isinstance(selectors.build(name), Selector)
