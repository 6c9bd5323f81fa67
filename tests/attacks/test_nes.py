"""NES: the estimate's expectation, its symmetries, its queries, and success where there is no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import SHAPE, ConvNet, Linear, Smooth, Stairs, Watched, alternating, clips, problem_for, signs, weights

from robustvideo.attacks import IFGSM
from robustvideo.attacks.nes import NES, NESGradient, PlateauStep
from robustvideo.attacks.objectives import Margin
from robustvideo.attacks.updates import Position
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.threat import L2, Joint, Linf


class Ungraded(Model):
    """Refuses to be differentiated, and to see what no 8-bit file holds."""

    def __init__(self, inner: Model, on_grid: bool):
        super().__init__()
        self.inner, self.on_grid = inner, on_grid

    def forward(self, clip: Clip) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not clip.video.requires_grad
        assert clip.video.min() >= 0
        assert clip.video.max() <= 1
        levels = clip.video * 255
        assert not self.on_grid or torch.allclose(levels, levels.round(), atol=1e-6)
        return self.inner(clip)


def test_the_estimate_of_a_linear_margin_is_its_gradient() -> None:
    """2 x 10^4 pairs, spread over clips that differ only in their streams."""
    shape = (1, 2, 2, 3)
    clip = Clip(torch.full((200, *shape), 0.5, dtype=torch.float64))
    weight = weights(shape)
    problem = problem_for(Linear(weight), clip, torch.zeros(200, dtype=torch.long), Linf(1.0, stored=False))
    estimate = NESGradient(samples=200, sigma=1e-3)(problem, Margin(), (torch.zeros_like(clip.video),), 0)
    error = estimate.gradients[0].mean(0) - weight
    assert error.norm() / weight.norm() < 0.05
    assert (estimate.forwards, estimate.backwards) == (201, 0)


def test_constant_and_even_terms_cancel_exactly() -> None:
    class Even(Linear):
        def value(self, clip: Clip) -> Tensor:
            return super().value(Clip((clip.video - 0.5).square()))

    clip = Clip(torch.full((2, *SHAPE), 0.5, dtype=torch.float64))
    point = (torch.zeros_like(clip.video),)
    for model in (Linear(torch.zeros(SHAPE, dtype=torch.float64), bias=3.0), Even(weights())):
        problem = problem_for(model, clip, alternating(2), Linf(1.0, stored=False))
        estimate = NESGradient(samples=10, sigma=0.25)(problem, Margin(), point, 0)
        assert estimate.gradients[0].abs().max() < 1e-9


@pytest.mark.parametrize("space", ["pixel", "lowres", "frame", "flicker"])
def test_the_estimate_lies_in_its_space(space: str) -> None:
    clip = clips(2)
    problem = problem_for(Smooth(), clip, alternating(2), Linf(8 / 255))
    estimate = NESGradient(8, 2 / 255, space, on_grid=True)(  # type: ignore[arg-type]
        problem, Margin(), (torch.zeros_like(clip.video),), 3
    )
    (g,) = estimate.gradients
    assert g.abs().sum() > 0
    if space == "frame":
        assert torch.allclose(g, g[:, :, :1].expand_as(g))
    if space in ("flicker", "lowres"):  # at 6 x 8 pixels a low resolution is one value per channel
        assert torch.allclose(g, g[..., :1, :1].expand_as(g))


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("query_grid", [True, False])
@pytest.mark.parametrize("queries", [2, 5, 30, 51, 120, 200])
def test_queries_are_counted_and_limited(queries: int, query_grid: bool, early_stop: bool) -> None:
    clip, labels = clips(4), alternating(4)
    model = Watched(Ungraded(Smooth(), query_grid))
    attack = NES(eps=8 / 255, queries=queries, query_grid=query_grid, early_stop=early_stop)
    result = attack(model, clip, labels)
    assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]
    assert result.forward_passes.max() <= queries
    assert result.backward_passes.tolist() == [0] * 4
    if queries >= 120 and not early_stop:
        assert result.forward_passes.min() >= queries - 60


@pytest.mark.parametrize(
    "threat", [Linf(8 / 255), Linf(8 / 255, stored=False), L2(1.0), L2(1.0, stored=False)], ids=str
)
def test_it_approaches_the_linear_optimum(threat: Linf | L2) -> None:
    clip, labels = clips(3, shape=(1, 2, 3, 3)), alternating(3)
    weight = weights((1, 2, 3, 3))
    model = Linear(weight)
    result = NES(threat, queries=2000, space="pixel", early_stop=False)(model, clip, labels)
    gain = result.margin.double() - model.value(clip).detach() * signs(labels, labels)
    optimum = threat.eps * float(weight.abs().sum() if isinstance(threat, Linf) else weight.norm())
    assert (gain >= (0.9 if isinstance(threat, Linf) else 0.8) * optimum).all(), (gain / optimum).tolist()


def test_a_clip_is_done_at_its_first_success() -> None:
    clip = clips(3)
    model = ConvNet(seed=1).double().eval()
    labels = model(clip).argmax(1)
    labels[1] = (labels[1] + 1) % 3  # already wrong
    result = NES(eps=0.3, queries=500, samples=10)(model, clip, labels)
    assert result.success.all()
    assert result.first_success_step[1] == 0
    assert result.forward_passes[1] == 12  # one estimate, one verdict
    assert (model(result.clip).argmax(1) != labels).all()


def test_masked_gradients_do_not_stop_it() -> None:
    """A rounded output has no gradient: iterated ascent stays where it is, scores still tell the way."""
    clip, labels = clips(3), torch.zeros(3, dtype=torch.long)
    model = Stairs(weights())
    model.linear.bias.data = -model.linear.value(clip).detach().max() - 1.2
    assert not IFGSM(eps=8 / 255)(model, clip, labels).success.any()
    assert NES(eps=8 / 255, queries=1500, sigma=0.05, space="pixel")(model, clip, labels).success.all()


def test_sound_and_picture_together() -> None:
    clip, labels = clips(2, samples=30), alternating(2)
    model = Linear(weights(), audio=weights((1, 30), seed=5))
    threat = Joint((Linf(8 / 255), Linf(0.012, modality="audio")))
    result = NES(threat, queries=300, space="pixel", early_stop=False)(model, clip, labels)
    assert result.clip.audio is not None
    assert clip.audio is not None
    assert (result.clip.audio != clip.audio).any()
    start = (model.value(clip) * signs(labels, labels)).detach()
    assert (result.margin.double() > start).all()


def test_a_plateau_halves_the_step() -> None:
    rule = PlateauStep(0.2, least=0.04, patience=3)
    clip = clips(2)
    variable = torch.zeros_like(clip.video)
    state = rule.init(variable)
    values = [
        torch.tensor([v, float(i)]) for i, v in enumerate([1.0, 1.0, 0.5, 0.9, 2.0, 2.0, 2.0, 2.0, 1, 1, 1, 1, 1])
    ]
    sizes = []
    for step, value in enumerate(values):
        here = Position(
            part=Linf(0.1, stored=False),
            signal=clip.video,
            eps=torch.full((2,), 0.1, dtype=torch.float64),
            mask=None,
            variable=variable,
            gradient=torch.ones_like(variable),
            value=value,
            step=step,
            steps=len(values),
        )
        moved, state = rule.step(here, state)
        sizes.append((moved.flatten(1)[:, 0] / 0.1).tolist())
    assert [round(s[0], 3) for s in sizes] == [0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.04, 0.04, 0.04]
    assert {round(s[1], 3) for s in sizes} == {0.2}


def test_what_cannot_be_is_refused() -> None:
    for bad in ({"samples": 7}, {"samples": 0}, {"sigma": 0.0}, {"sigma": 1 / 255}, {"step_size": 0.0}):
        with pytest.raises(InputError):
            NES(**bad)  # type: ignore[arg-type]
    assert NES(sigma=1e-6, query_grid=False).spec.startswith("nes(")
