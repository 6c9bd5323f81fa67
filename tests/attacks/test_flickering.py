"""Flickering: the regularisers' closed forms, the authors' trajectory, the bounded optimum, universal patterns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import SHAPE, ConvNet, Linear, Smooth, alternating, clips, problem_for, signs, weights

from robustvideo.attacks.flickering import (
    Flickering,
    FlickerMargin,
    Regularised,
    roughness,
    thickness,
    universal_flicker,
    with_flicker,
)
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.support import Frames
from robustvideo.threat import Joint, Linf

COLOURS = Linf(1.0, stored=False, parametrisation="frame_colour")


class Fixed(Model):
    """Returns given logits, whatever it sees."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, clip: Clip) -> Tensor:
        return self.logits + 0 * clip.video.flatten(1).sum(1, keepdim=True)


def colours(batch: int = 2, seed: int = 0, scale: float = 0.02) -> Tensor:
    draw = torch.randn(batch, 3, 4, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * draw


def test_regularisers_in_closed_form() -> None:
    c = 0.1
    still = torch.full((1, 3, 6, 1, 1), c)
    assert thickness(still).item() == pytest.approx(c**2)
    assert roughness(still).item() == 0
    alternate = still * (1 - 2 * (torch.arange(6) % 2)).view(1, 1, 6, 1, 1)
    assert thickness(alternate).item() == pytest.approx(c**2)
    assert roughness(alternate).item() == pytest.approx(4 * c**2 + 16 * c**2)
    pulse = torch.zeros(1, 1, 5, 1, 1)
    pulse[0, 0, 4] = c  # circular: the last frame has the first as its neighbour
    assert roughness(pulse).item() == pytest.approx((2 * c**2 + 6 * c**2) / 5)


@pytest.mark.parametrize("scores", ["logits", "probabilities"])
def test_the_loss_is_zero_then_quadratic_then_linear(scores: str) -> None:
    clip = clips(1)
    labels = torch.zeros(1, dtype=torch.long)

    def loss(gap: float) -> tuple[float, float, float]:
        """Loss, distance l to the wanted margin, and mu, for a margin of ``gap`` between logits."""
        logits = torch.tensor([[0.0, gap, -30.0]], dtype=torch.float64)
        value, _ = FlickerMargin(scores)(problem_for(Fixed(logits), clip, labels, COLOURS), clip)  # type: ignore[arg-type]
        p = logits.softmax(1)[0]
        mu = math.log(1 + 0.05 / (float(p[0]) + 1e-5)) if scores == "logits" else 0.05
        reached = gap if scores == "logits" else float(p[1] - p[0])
        return -float(value[0]), mu - reached, mu

    for gap in (-4.0, -1.0, -0.2, -0.01, 0.0, 0.02, 0.05, 0.5, 2.0, 9.0):
        value, short, mu = loss(gap)
        expected = 0.0 if short <= 0 else short**2 / mu if short <= mu else short
        assert value == pytest.approx(expected, abs=1e-9)
    left, right = loss(-1e-9)[0], loss(1e-9)[0]  # l = mu at a margin of 0
    assert left == pytest.approx(right, abs=1e-7)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_true_class_is_no_rival_of_itself(targeted: bool) -> None:
    """Subtracting a one-hot from logits, as the original does, would leave the true class among the others."""
    clip, labels = clips(1), torch.zeros(1, dtype=torch.long)
    logits = torch.tensor([[30.0, 4.0, 1.0]], dtype=torch.float64)
    problem = problem_for(Fixed(logits), clip, labels, COLOURS, targeted=targeted)
    value, _ = FlickerMargin("logits")(problem, clip)
    assert float(value[0]) == (0 if targeted else pytest.approx(-26 - math.log(1 + 0.05 / 1.00001)))


@pytest.mark.parametrize("scores", ["logits", "probabilities"])
@pytest.mark.parametrize("cyclic", [False, True])
def test_gradient_against_finite_differences(scores: str, cyclic: bool) -> None:
    clip, labels = clips(2), alternating(2)
    problem = problem_for(Smooth(), clip, labels, COLOURS)
    objective = FlickerMargin(scores)  # type: ignore[arg-type]
    point = colours()
    estimator = Regularised(2.0, 3.0, cyclic)
    exact = estimator(problem, objective, (point,), 5).gradients[0]
    for place in ((0, 0, 0), (1, 3, 1), (2, 2, 0)):
        step = torch.zeros_like(point)
        step[:, place[0], place[1]] = 1e-6
        ahead, behind = (estimator(problem, objective, (point + s * step,), 5).objective for s in (1, -1))
        if scores == "probabilities":  # mu is held constant for logits: there the difference is not the gradient
            assert torch.allclose((ahead - behind) / 2e-6, exact[:, place[0], place[1], 0, 0], rtol=1e-4, atol=1e-8)
        else:
            assert torch.equal((ahead - behind).sign(), exact[:, place[0], place[1], 0, 0].sign())


@pytest.mark.parametrize("adam", [False, True])
def test_the_authors_units_give_the_same_trajectory(adam: bool) -> None:
    """Pixels in [-1, 1] with lam 1 and rate r are pixels in [0, 1] with lam 4 and rate r / 4, or r / 2 under Adam."""
    clip, labels = clips(1), torch.ones(1, dtype=torch.long)
    model = Smooth()
    attack = Flickering(scores="probabilities", cyclic=False)
    rate = 0.001 if adam else 0.01
    theirs = torch.zeros(1, 3, 4, 1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = (torch.optim.Adam if adam else torch.optim.SGD)([theirs], lr=rate)
    for _ in range(12):
        scores = model(Clip((2 * clip.video - 1 + theirs + 1) / 2)).softmax(1)[0]
        short = scores[1] - scores[0] + 0.05
        loss = torch.minimum(short**2 / 0.05, short).clamp_min(0)
        loss = loss + 0.5 * thickness(theirs)[0] + 0.5 * roughness(theirs)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    ours = torch.zeros(1, 3, 4, 1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = (torch.optim.Adam if adam else torch.optim.SGD)([ours], lr=rate / (2 if adam else 4))
    problem = problem_for(model, clip, labels, COLOURS)
    for step in range(12):
        estimate = attack.estimator()(problem, attack.objective(), (ours.detach(),), step)
        ours.grad = -estimate.gradients[0]
        optimizer.step()
    assert torch.allclose(2 * ours, theirs, atol=1e-12 if not adam else 1e-6)
    assert ours.detach().abs().max() > 1e-4


@pytest.mark.parametrize("optimizer", ["adam", "sign"])
@pytest.mark.parametrize("stored", [True, False])
def test_the_bounded_version_reaches_the_optimum(optimizer: str, stored: bool) -> None:
    clip, labels = clips(3), alternating(3)
    model = Linear(weights())
    attack = Flickering(
        Linf(8 / 255, stored=stored),
        optimizer=optimizer,  # type: ignore[arg-type]
        lam=0.0,
        steps=80,
        step_size=0.002,
        early_stop=False,
    )
    model.bias.data = -model.value(clip).detach().mean()  # close enough that no hinge is ever satisfied
    result = attack(model, clip, labels)
    gain = result.margin.double() - model.value(clip).detach() * signs(labels, labels)
    optimum = 8 / 255 * float(model.weight.detach().sum((2, 3)).abs().sum())
    # the loss is 0 once the margin is mu: there the attack goes no further on purpose
    assert (result.success | (gain >= 0.99 * optimum)).all()
    difference = result.clip.video - clip.video
    assert torch.allclose(difference, difference[..., :1, :1].expand_as(difference), atol=1e-12)


def test_far_from_the_boundary_the_optimum_is_exact() -> None:
    clip, labels = clips(3), torch.zeros(3, dtype=torch.long)
    model = Linear(weights())
    model.bias.data = -model.value(clip).detach().max() - 100
    result = Flickering(eps=8 / 255, optimizer="sign", lam=0.0, steps=10, early_stop=False)(model, clip, labels)
    gain = result.margin.double() - model.value(clip).detach()
    assert torch.allclose(gain, 8 / 255 * model.weight.detach().sum((2, 3)).abs().sum().expand(3), rtol=1e-5)


def test_without_a_budget_it_stays_thin_and_smooth() -> None:
    clip = clips(4)
    model = ConvNet(seed=1).double().eval()
    labels = model(clip).argmax(1)
    plain, thin = (Flickering(lam=lam, step_size=0.005, steps=200)(model, clip, labels) for lam in (0.0, 40.0))
    assert plain.success.all()
    size = [(r.clip.video - clip.video).square().mean() for r in (plain, thin)]
    assert size[1] < size[0]


def test_clipping_happens_after_adding() -> None:
    """The offset itself is not kept in the box: bright pixels are clipped, dark ones still move."""
    clip = clips(1, low=0, high=256)
    labels = torch.zeros(1, dtype=torch.long)
    model = Linear(torch.ones(SHAPE, dtype=torch.float64))
    model.bias.data = -model.value(clip).detach()[0] - 1e4
    result = Flickering(optimizer="sign", lam=0.0, step_size=0.1, steps=3, early_stop=False)(model, clip, labels)
    assert torch.allclose(result.clip.video, (clip.video + 0.3).clamp(0, 1), atol=0.5 / 255 + 1e-9)


def test_some_frames_only_and_then_without_roughness() -> None:
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    model = Linear(weights())
    model.bias.data = -model.value(clip).detach().max() - 100
    threat = Linf(0.2, support=Frames((1,)))
    result = Flickering(threat, steps=5, optimizer="sign", early_stop=False)(model, clip, labels)
    touched = (result.clip.video != clip.video).flatten(3).any(3).any(1)
    assert touched.tolist() == [[False, True, False, False]] * 2
    problem = problem_for(model, clip, labels, COLOURS)
    mask = Frames((1,)).mask(clip.video, None)  # type: ignore[arg-type]
    point = colours()
    for masks, rough in (((None,), 1.0), ((mask,), 0.0)):
        here = replace(problem, masks=masks)
        value = Regularised(1.0, 1.0)(here, FlickerMargin("logits"), (point,), 0).objective
        bare = Regularised(0.0, 0.0)(here, FlickerMargin("logits"), (point,), 0).objective
        assert torch.allclose(bare - value, thickness(point) + rough * roughness(point))


def test_a_cyclic_pattern_is_learnt_from_every_phase() -> None:
    """A model that looks at the first frame only: unshifted, the pattern is one frame; cyclic, it is every frame."""
    weight = torch.zeros(SHAPE, dtype=torch.float64)
    weight[:, 0] = 1.0
    clip, labels = clips(1), torch.zeros(1, dtype=torch.long)
    model = Linear(weight)
    model.bias.data = -model.value(clip).detach()[0] - 1e4
    options = {"optimizer": "sign", "lam": 0.0, "steps": 30, "early_stop": False, "eps": 8 / 255}
    still, cyclic = (Flickering(cyclic=c, **options)(model, clip, labels) for c in (False, True))  # type: ignore[arg-type]
    frames = [(r.clip.video != clip.video).flatten(3).any(3).any(1)[0].tolist() for r in (still, cyclic)]
    assert frames == [[True, False, False, False], [True] * 4]


def test_universal_flicker_fools_clips_it_has_not_seen() -> None:
    model = Linear(torch.ones(SHAPE, dtype=torch.float64))
    seen, unseen = clips(6), clips(6, seed=11)
    labels = torch.zeros(6, dtype=torch.long)
    model.bias.data = -torch.cat([model.value(seen), model.value(unseen)]).detach().max() - 20
    before = [p.requires_grad for p in model.parameters()]
    batches = [(seen.select([0, 1, 2]), labels[:3]), (seen.select([3, 4, 5]), labels[3:])]
    attack = Flickering(eps=0.15, steps=60, step_size=0.01)
    pattern = universal_flicker(model, batches, attack)
    assert pattern.shape == (3, 4)
    assert pattern.abs().max() <= 0.15 + 1e-9
    assert not pattern.requires_grad
    assert [p.requires_grad for p in model.parameters()] == before
    flickering = with_flicker(unseen, pattern)
    assert (model(flickering).argmax(1) != 0).all()
    assert (model(unseen).argmax(1) == 0).all()
    levels = flickering.video * 255
    assert torch.allclose(levels, levels.round(), atol=1e-9)
    again = universal_flicker(model, batches, attack)
    assert torch.equal(again, pattern)


def test_universal_flicker_says_what_is_wrong_with_its_clips() -> None:
    model = Linear(weights())
    batch = (clips(2), alternating(2))
    with pytest.raises(InputError, match="no clips to learn"):
        universal_flicker(model, [], Flickering(steps=2))
    with pytest.raises(InputError, match="only one pass"):
        universal_flicker(model, iter([batch]), Flickering(steps=3))
    longer = (clips(2, shape=(3, 5, 6, 8)), alternating(2))
    with pytest.raises(InputError, match="of one length"):
        universal_flicker(Smooth(), [batch, longer], Flickering(steps=3))


def test_what_cannot_be_is_refused() -> None:
    for bad in (
        {"optimizer": "sgd"},
        {"scores": "logit"},
        {"lam": -1.0},
        {"norm": "flow", "eps": 1.0},
        {"threat": Joint((Linf(0.1), Linf(0.1, modality="audio")))},
        {"threat": Linf(0.1, support=Frames((0,))), "cyclic": True},
    ):
        with pytest.raises(InputError):
            Flickering(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"cyclic": True}, {"optimizer": "sign", "scores": "probabilities"}], ids=str)
def test_neither_batch_nor_order_matters(options: dict[str, object]) -> None:
    clip, model = clips(4), ConvNet(seed=1).double().eval()
    labels = model(clip).argmax(1)
    labels[1] = (labels[1] + 1) % 3
    attack = Flickering(eps=32 / 255, steps=12, step_size=0.02, **options)  # type: ignore[arg-type]
    together = attack(model, clip, labels)
    for row in range(4):
        alone = attack(model, clip.select([row]), labels[row : row + 1])
        assert torch.equal(alone.clip.video[0], together.clip.video[row])
        assert alone.forward_passes[0] == together.forward_passes[row]
