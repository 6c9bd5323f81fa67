"""Averaged gradients: exact where the model is linear, less noisy with every copy, blind to how copies are packed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from toys import ConvNet, Linear, Smooth, TwoClass, Watched, alternating, clips, problem_for, short, weights

from robustvideo.attacks import PGD
from robustvideo.attacks.attack import Problem, margin
from robustvideo.attacks.averaged import Averaged, Copies, Expectation, repeat
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import CrossEntropy, Margin
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.support import Frames
from robustvideo.threat import FlowField, Joint, Linf


@dataclass(frozen=True)
class Noise:
    """Input noise: what smooths a rugged model."""

    sigma: float

    def __call__(self, clip: Clip, copies: Copies) -> Clip:
        draw = copies.random("noise").uniform(clip.video) * 2 - 1
        return clip.with_signal("video", clip.video + self.sigma * draw)


@dataclass(frozen=True)
class Masked:
    """Every copy lacks another frame."""

    def __call__(self, clip: Clip, copies: Copies) -> Clip:
        kept = torch.ones(len(clip), 1, clip.frames, 1, 1, dtype=clip.video.dtype)
        kept[torch.arange(len(clip)), 0, torch.tensor(copies.numbers) % clip.frames] = 0
        return clip.with_signal("video", clip.video * kept)


class RandomModel(TwoClass):
    """``sum w * x`` with a random w, drawn from the clips' names, as everything random must be."""

    def value(self, clip: Clip) -> Tensor:
        random = ClipRandom(seed_for("model", name) for name in clip.ids)
        weight = 1 + random.normal(clip.video)
        return (clip.video * weight).flatten(1).sum(1)


def mean_of(transform: object, copies: int, copies_per_pass: int | None = 3, origin: int | None = None) -> Averaged:
    return Averaged(transform, (1 / copies,) * copies, copies_per_pass, origin)  # type: ignore[arg-type]


def start(problem: Problem) -> tuple[Tensor, ...]:
    return tuple(p.zeros(problem.clip.signal(p.modality)) for p in problem.threat.parts)


def off_the_start(problem: Problem) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(5)
    return tuple(0.3 + 0.01 * torch.randn(v.shape, generator=random, dtype=v.dtype) for v in start(problem))


def test_repeat_keeps_what_is_known_of_a_clip_together() -> None:
    clip, labels = clips(3, samples=20), torch.tensor([0, 1, 0])
    threat = Joint((Linf(8 / 255, support=Frames((1,))), Linf(0.01, modality="audio")))
    problem = problem_for(Smooth(), clip, labels, threat)
    mask = torch.rand(3, 1, 4, 1, 1, dtype=torch.float64)
    eps = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    problem = replace(problem, eps=(eps, eps + 1), masks=(mask, None), reference={"a": eps})
    twice = repeat(problem, 2)
    order = [0, 0, 1, 1, 2, 2]
    assert twice.clip.ids == ("0", "0", "1", "1", "2", "2")
    assert torch.equal(twice.clip.video, clip.video[order])
    assert torch.equal(twice.clip.signal("audio"), clip.signal("audio")[order])
    assert torch.equal(twice.labels, labels[order])
    assert torch.equal(twice.eps[1], eps[order] + 1)
    assert twice.masks[0] is not None
    assert torch.equal(twice.masks[0], mask[order])
    assert twice.masks[1] is None
    assert torch.equal(twice.reference["a"], eps[order])


@pytest.mark.parametrize("copies", [1, 20])
def test_a_deterministic_model_needs_no_expectation(copies: int) -> None:
    problem = problem_for(Smooth(), clips(3), alternating(3), Linf(8 / 255))
    expected = plain(problem, CrossEntropy(), off_the_start(problem), 0)
    found = Expectation(plain, copies, 3)(problem, CrossEntropy(), off_the_start(problem), 0)
    assert torch.allclose(found.gradients[0], expected.gradients[0], rtol=1e-12, atol=0)
    assert torch.allclose(found.objective, expected.objective)
    assert torch.allclose(found.logits, expected.logits)
    assert (found.forwards, found.backwards) == (copies, copies)


@pytest.mark.parametrize("copies", [1, 7])
def test_noise_on_a_linear_model_changes_no_gradient(copies: int) -> None:
    """The gradient of ``<w, x + u>`` is w, whatever u."""
    model = Linear(weights())
    problem = problem_for(model, clips(3), alternating(3), Linf(8 / 255))
    found = mean_of(Noise(0.1), copies)(problem, Margin(), start(problem), 0)
    expected = plain(problem, Margin(), start(problem), 0)
    assert torch.allclose(found.gradients[0], expected.gradients[0], rtol=1e-12, atol=0)
    assert not torch.equal(found.objective, expected.objective)


def test_masked_copies_add_up_to_their_frames() -> None:
    """With frame r missing from copy r of T, every frame keeps its weight in T - 1 of T copies."""
    model = Linear(weights())
    problem = problem_for(model, clips(3), alternating(3), Linf(8 / 255))
    found = mean_of(Masked(), 4)(problem, Margin(), start(problem), 0)
    expected = plain(problem, Margin(), start(problem), 0)
    assert torch.allclose(found.gradients[0], 0.75 * expected.gradients[0], rtol=1e-12, atol=0)


def test_weights_are_used_as_they_are() -> None:
    problem = problem_for(Linear(weights()), clips(2), alternating(2), Linf(8 / 255))
    found = Averaged(Masked(), (1.0, 0.0, 0.5), 2)(problem, Margin(), start(problem), 0)
    expected = plain(problem, Margin(), start(problem), 0).gradients[0]
    for frame, weight in enumerate((0.5, 1.5, 1.0, 1.5)):
        assert torch.allclose(found.gradients[0][:, :, frame], weight * expected[:, :, frame], rtol=1e-12, atol=0)


@pytest.mark.parametrize("source", ["model", "input"])
def test_the_variance_falls_with_the_number_of_copies(source: str) -> None:
    """The mean of R independent gradients has 1/R of the variance of one."""
    shape = (3, 2, 4, 4)
    model = RandomModel() if source == "model" else Smooth(shape)
    problem = problem_for(model, clips(2, shape=shape), alternating(2), Linf(8 / 255))

    def spread(copies: int) -> Tensor:
        mean = Expectation(plain, copies, 16) if source == "model" else mean_of(Noise(0.2), copies, 16)
        draws = [mean(problem, Margin(), start(problem), step).gradients[0] for step in range(120)]
        return torch.stack(draws).var(0).flatten(1).mean(1)

    ratio = spread(1) / spread(16)
    assert (ratio > 16 * 0.7).all(), ratio
    assert (ratio < 16 / 0.7).all(), ratio


def test_the_mean_is_the_true_one() -> None:
    """Over names, E[w] of the random model is 1."""
    problem = problem_for(RandomModel(), clips(2, shape=(3, 2, 4, 4)), torch.zeros(2, dtype=torch.long), Linf(8 / 255))
    found = Expectation(plain, 4000, 500)(problem, Margin(), start(problem), 0).gradients[0]
    assert (found - 1).abs().max() < 5 / 4000**0.5


@pytest.mark.parametrize(
    "threat", [Linf(8 / 255), FlowField(1.0), Linf(8 / 255, parametrisation="frame_colour")], ids=short
)
def test_how_copies_are_packed_does_not_matter(threat: Linf | FlowField) -> None:
    problem = problem_for(ConvNet().double().eval(), clips(3), torch.tensor([0, 1, 2]), threat)
    problem = replace(problem, clip=replace(problem.clip, ids=("a", "b", "c")))
    results = [
        mean_of(Noise(0.05), 7, packed)(problem, CrossEntropy(), off_the_start(problem), 3)
        for packed in (1, 2, 7, 50, None)
    ]
    for other in results[1:]:
        assert torch.allclose(results[0].gradients[0], other.gradients[0], rtol=1e-10, atol=1e-14)
        assert torch.allclose(results[0].objective, other.objective, rtol=1e-12, atol=0)
        assert torch.allclose(results[0].logits, other.logits, rtol=1e-12, atol=0)
        assert (other.forwards, other.backwards) == (7, 7)


def test_a_clip_draws_the_same_alone_in_a_batch_and_in_any_order() -> None:
    problem = problem_for(ConvNet().double().eval(), clips(3), torch.tensor([0, 1, 2]), Linf(8 / 255))
    estimator = mean_of(Noise(0.05), 5)
    together = estimator(problem, CrossEntropy(), start(problem), 2)
    for rows in ([1], [2, 0]):
        some = problem.select(torch.tensor(rows))
        apart = estimator(some, CrossEntropy(), start(some), 2)
        assert torch.allclose(apart.gradients[0], together.gradients[0][rows], rtol=1e-10, atol=1e-14)


def test_draws_are_fresh_in_every_step_copy_and_search() -> None:
    problem = problem_for(Smooth(), clips(1), torch.tensor([0]), Linf(8 / 255))

    def gradient(step: int, seed: int = 0) -> Tensor:
        return mean_of(Noise(0.2), 1)(replace(problem, seed=seed), Margin(), start(problem), step).gradients[0]

    assert torch.equal(gradient(0), gradient(0))
    assert not torch.equal(gradient(0), gradient(1))
    assert not torch.equal(gradient(0), gradient(0, seed=1))
    rows = repeat(problem, 3)
    draws = Copies(rows, (0, 1, 2), 0).random().uniform(rows.clip.video)
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


def test_every_copy_is_counted_and_seen() -> None:
    model = Watched(Smooth())
    problem = problem_for(model, clips(3), alternating(3), Linf(8 / 255))
    found = mean_of(Noise(0.1), 7, 3)(problem, CrossEntropy(), start(problem), 0)
    assert [len(ids) for ids in model.tally.calls] == [6, 6, 9]
    assert [model.tally.forwards(name) for name in problem.clip.ids] == [found.forwards] * 3 == [7] * 3


def test_passes_stay_full_while_clips_leave() -> None:
    """Left to itself it packs about eight clips into a pass, whatever the batch."""
    for batch, expected in ((1, [7, 8]), (3, [3] + [6] * 7), (9, [9] * 15)):
        model = Watched(Smooth())
        problem = problem_for(model, clips(batch), alternating(batch), Linf(8 / 255))
        mean_of(Noise(0.1), 15, None)(problem, CrossEntropy(), start(problem), 0)
        assert [len(ids) for ids in model.tally.calls] == expected


def test_logits_are_those_of_the_origin_or_of_the_copy_furthest_from_success() -> None:
    problem = problem_for(ConvNet().double().eval(), clips(3), torch.tensor([0, 1, 2]), Linf(8 / 255))
    transform = Noise(0.4)
    rows = repeat(problem, 5)
    every = problem.gradient_model(transform(rows.clip, Copies(rows, (0, 1, 2, 3, 4) * 3, 1))).view(3, 5, -1)
    given = mean_of(transform, 5, 2, origin=3)(problem, CrossEntropy(), start(problem), 1).logits
    assert torch.allclose(given, every[:, 3], rtol=1e-10)
    for targeted in (False, True):
        found = mean_of(transform, 5, 2)(replace(problem, targeted=targeted), CrossEntropy(), start(problem), 1).logits
        margins = torch.stack([margin(every[:, i], problem.labels, targeted) for i in range(5)])
        assert torch.allclose(margin(found, problem.labels, targeted), margins.amin(0), rtol=1e-10)


def test_a_model_that_cuts_the_graph_gives_no_gradient_and_no_backward_pass() -> None:
    class Cut(Smooth):
        def value(self, clip: Clip) -> Tensor:
            return super().value(clip).detach()

    problem = problem_for(Cut(), clips(2), alternating(2), Linf(8 / 255))
    found = mean_of(Noise(0.1), 4)(problem, CrossEntropy(), start(problem), 0)
    assert not found.gradients[0].any()
    assert (found.forwards, found.backwards) == (4, 0)


def test_half_precision_passes_average_in_full_precision() -> None:
    problem = problem_for(
        ConvNet().eval(), clips(2, dtype=torch.float32), torch.tensor([0, 1]), Linf(8 / 255), precision="bf16"
    )
    found = mean_of(Noise(0.05), 4)(problem, CrossEntropy(), start(problem), 0)
    full = mean_of(Noise(0.05), 4)(replace(problem, precision="fp32"), CrossEntropy(), start(problem), 0)
    assert found.gradients[0].dtype == found.objective.dtype == torch.float32
    assert torch.cosine_similarity(found.gradients[0].flatten(1), full.gradients[0].flatten(1)).min() > 0.99


def test_nothing_to_average_is_refused() -> None:
    with pytest.raises(InputError, match="at least one copy"):
        Averaged(Noise(0.1), (), 1)
    with pytest.raises(InputError, match="At least one copy"):
        Averaged(Noise(0.1), (1.0,), 0)
    with pytest.raises(InputError, match="at least one copy"):
        Expectation(plain, 0)
    with pytest.raises(InputError, match="At least one copy"):
        Expectation(plain, 2, 0)
    with pytest.raises(InputError, match="noise"):
        Expectation(plain, 2, noise=-0.1)
    for options in ({"eot": 0}, {"eot_noise": -0.1}):
        with pytest.raises(InputError, match="at least one copy, and noise"):
            PGD(**options)


def test_noise_smooths_ripples() -> None:
    """A rippled slope has a misleading gradient, and the true one in expectation over the input."""

    class Rippled(Smooth):
        def value(self, clip: Clip) -> Tensor:
            x = clip.video
            return (x + 0.02 * torch.sin(-600 * x)).flatten(1).sum(1)

    model = Rippled()
    problem = problem_for(model, clips(2), torch.zeros(2, dtype=torch.long), Linf(8 / 255))
    rugged = plain(problem, Margin(), start(problem)).gradients[0]
    smoothed = Expectation(plain, 2000, 100, noise=8 / 255)(problem, Margin(), start(problem), 0)
    assert (rugged < 0).any()
    assert (smoothed.gradients[0] > 0).all()
    assert abs(float(smoothed.gradients[0].mean()) - 1) < 0.1
    packed = [Expectation(plain, 3, n, noise=0.01)(problem, Margin(), start(problem), 0).gradients[0] for n in (1, 3)]
    assert torch.allclose(*packed, rtol=1e-12)


@pytest.mark.parametrize("packed", [1, 2, 7, None])
def test_an_expectation_of_an_average_is_the_mean_over_the_draws(packed: int | None) -> None:
    """Any estimator can stand inside: here one that masks frames, which on its own is known to give 3/4 of each."""
    problem = problem_for(RandomModel(), clips(2, shape=(3, 4, 4, 4)), alternating(2), Linf(8 / 255))
    inner = mean_of(Masked(), 4)
    found = Expectation(inner, 7, packed)(problem, Margin(), start(problem), 5)
    draws = []
    for n in range(7):
        named = replace(problem, clip=replace(problem.clip, ids=tuple(f"{i}/0/5/{n}" for i in problem.clip.ids)))
        draws.append(inner(named, Margin(), start(problem), 5).gradients[0])
    assert torch.allclose(found.gradients[0], torch.stack(draws).mean(0), rtol=1e-12, atol=1e-15)
    assert not torch.allclose(draws[0], draws[1])
    assert (found.forwards, found.backwards) == (28, 28)


@pytest.mark.parametrize("options", [{"eot": 2}, {"fresh_draws": True}, {"eot_noise": 0.01}], ids=str)
def test_every_restart_and_every_seed_draws_anew_and_no_copy_has_the_draws_of_the_verdict(options) -> None:
    def names(**others: object) -> tuple[list[str], int]:
        model, clip = Watched(Smooth()), replace(clips(1), ids=("a",))
        attack = PGD(Linf(1 / 255), steps=3, early_stop=False, **{**options, **others})  # type: ignore[arg-type]
        attack(model, clip, torch.tensor([0]))
        called = [name for ids in model.tally.calls for name in ids]
        return [name for name in called if name != "a"], called.count("a")

    copies = options.get("eot", 1)
    one, verdicts = names()
    assert len(set(one)) == len(one) == 3 * copies
    assert verdicts >= 1
    several, _ = names(restarts=2)
    assert len(set(several)) == len(several) == 2 * len(one)
    assert several[: len(one)] == one
    assert not set(names(seed=1)[0]) & set(one)
    assert names() == (one, verdicts)
