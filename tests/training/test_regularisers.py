"""Outer regularisers: where they vanish, their bounds and symmetries, and one by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.training.regularisers import Views, regularisers

SHAPE = (2, 3, 2, 4, 4)
LABELS = torch.tensor([0, 2])


class Curved(nn.Module):
    """A map with two layers in float64."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(0.2 * torch.randn(5, 96, generator=random, dtype=torch.float64))
        self.last = nn.Parameter(torch.randn(3, 5, generator=random, dtype=torch.float64))

    def forward(self, clip: Clip) -> Tensor:
        return (clip.video.flatten(1) @ self.first.T).tanh() @ self.last.T


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def views(change: float = 0.05, seed: int = 0) -> Views:
    clean = Clip(drawn(*SHAPE), ids=("a", "b"))
    moved = Clip((clean.video + change * (drawn(*SHAPE, seed=1) - 0.5)).clamp(0, 1), ids=("a", "b"))
    return Views.of(Curved(), clean, moved, LABELS, seed)


def of_logits(clean: Tensor, moved: Tensor) -> Views:
    clip = Clip(torch.rand(len(clean), 3, 1, 2, 2))
    return Views(lambda c: clean, clip, clip, clean, moved, torch.zeros(len(clean), dtype=torch.long), 0)


@pytest.mark.parametrize("name", ["lipschitz", "kl", "js", "cos"])
def test_they_vanish_where_nothing_changed_and_not_elsewhere(name: str) -> None:
    regulariser = regularisers.build(name)
    assert regulariser(views(0.0)).abs().max() < 1e-12
    assert (regulariser(views(0.5)) > 1e-6).all()
    assert regulariser(views()).shape == (2,)


@pytest.mark.parametrize("name", list(regularisers.entries()))
def test_each_is_a_sentence_and_a_clip_s_own_and_reaches_the_weights(name: str) -> None:
    entry = regularisers.entries()[name]
    assert entry.summary.endswith(".")
    regulariser, together = regularisers.build(name), views()
    value = regulariser(together)
    for i in range(2):
        one = Views.of(
            together.map, together.clean.select([i]), together.attacked.select([i]), LABELS[i : i + 1], together.seed
        )
        assert torch.allclose(regulariser(one)[0], value[i])
    assert isinstance(together.map, Curved)
    (gradient,) = torch.autograd.grad(value.sum(), together.map.first)
    assert (gradient != 0).any()


def test_the_lipschitz_ratio_is_per_clip() -> None:
    found = views()
    change = (found.clean.video - found.attacked.video).square().flatten(1).mean(1)
    expected = (found.clean_logits - found.logits).square().mean(1) / change
    assert torch.allclose(regularisers.build("lipschitz")(found), expected)
    assert regularisers.build("lipschitz").weight == 0.0001


def test_kl_is_that_of_trades_and_never_negative() -> None:
    a, b = 3 * torch.randn(50, 4, dtype=torch.float64), 3 * torch.randn(50, 4, dtype=torch.float64)
    found = regularisers.build("kl")(of_logits(a, b))
    assert torch.allclose(found, F.kl_div(b.log_softmax(1), a.softmax(1), reduction="none").sum(1))
    assert (found >= 0).all()


def test_js_is_symmetric_bounded_and_survives_certainty() -> None:
    a, b = 5 * torch.randn(50, 4, dtype=torch.float64), 5 * torch.randn(50, 4, dtype=torch.float64)
    js = regularisers.build("js")
    assert torch.allclose(js(of_logits(a, b)), js(of_logits(b, a)))
    assert (js(of_logits(a, b)) <= math.log(2)).all()
    certain = torch.tensor([[800.0, 0.0]], dtype=torch.float64)
    assert js(of_logits(certain, certain.flip(1))).item() == pytest.approx(math.log(2))
    p, q = torch.tensor([0.2, 0.8], dtype=torch.float64), torch.tensor([0.6, 0.4], dtype=torch.float64)
    m = (p + q) / 2
    by_hand = 0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum()
    assert js(of_logits(p.log()[None], q.log()[None])).item() == pytest.approx(float(by_hand))


def test_cosine_does_not_care_for_the_scale_of_either() -> None:
    a, b = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 4, dtype=torch.float64)
    cosine = regularisers.build("cos")
    assert torch.allclose(cosine(of_logits(a, b)), cosine(of_logits(7 * a, 0.3 * b)))
    assert torch.allclose(cosine(of_logits(a, -a)), torch.full((20,), 2.0, dtype=torch.float64))


class Normalised(Curved):
    """`Curved` on clips that are normalised by the statistics of their batch."""

    def forward(self, clip: Clip) -> Tensor:
        normal = F.batch_norm(clip.video.flatten(2), None, None, training=True)
        return super().forward(clip.with_signal("video", normal.view_as(clip.video)))


@pytest.mark.parametrize("detach", [False, True])
def test_no_noise_costs_nothing_under_batch_statistics(detach: bool) -> None:
    clean = Clip(drawn(*SHAPE), ids=("a", "b"))
    attacked = Clip(drawn(*SHAPE, seed=1), ids=("a", "b"))
    together = Views.of(Normalised(), clean, attacked, LABELS, 0)
    together = together.detached() if detach else together
    assert regularisers.build("noise(eps=0)")(together).abs().max() < 1e-12
    assert (regularisers.build("noise")(together) > 1e-6).all()


def test_noise_s_gradient_passes_the_clean_clips_unless_they_are_detached() -> None:
    clean = Clip(drawn(*SHAPE), ids=("a", "b"))
    network = Curved()

    def slope(detach: bool) -> Tensor:
        found = Views.of(network, clean, clean, LABELS, 0)
        noise = regularisers.build("noise")(found.detached() if detach else found)
        (gradient,) = torch.autograd.grad(noise.sum(), network.last)
        return gradient

    assert not torch.allclose(slope(False), slope(True))


def test_noise_is_of_the_size_it_says_and_each_clip_s_own() -> None:
    seen: list[Clip] = []

    def remember(clip: Clip) -> Tensor:
        seen.append(clip)
        return clip.video.flatten(1)[:, :3]

    clean = Clip(0.25 + 0.5 * drawn(*SHAPE), ids=("a", "b"))
    for seed in (1, 1, 2):
        regularisers.build("noise(eps=2/255)")(Views.of(remember, clean, clean, LABELS, seed))
    noisy = [clip.select([2, 3]) for clip in seen[1::2]]
    assert torch.allclose((noisy[0].video - clean.video).abs(), torch.full(SHAPE, 2 / 255, dtype=torch.float64))
    assert torch.equal(noisy[0].video, noisy[1].video)
    assert not torch.equal(noisy[0].video, noisy[2].video)
    assert not torch.equal((noisy[0].video - clean.video)[0].sign(), (noisy[0].video - clean.video)[1].sign())


def test_the_squared_gradient_is_that_of_finite_differences_and_can_be_differentiated() -> None:
    found = views()
    value = regularisers.build("gradient")(found)
    step, expected = 1e-5, torch.zeros(2, dtype=torch.float64)
    for place in range(96):
        change = torch.zeros(96, dtype=torch.float64)
        change[place] = step
        losses = [
            F.cross_entropy(found.map(Clip(found.clean.video + s * change.view(SHAPE[1:]))), LABELS, reduction="none")
            for s in (1, -1)
        ]
        expected += ((losses[0] - losses[1]) / (2 * step)).square().detach()
    assert torch.allclose(value, expected, rtol=1e-6)

    model = Curved()

    def of_weight(first: Tensor) -> Tensor:
        def forward(clip: Clip) -> Tensor:
            return (clip.video.flatten(1) @ first.T).tanh() @ model.last.detach().T

        return regularisers.build("gradient")(Views.of(forward, found.clean, found.attacked, LABELS, 0)).sum()

    first = model.first.detach()[:2]
    model.last.data = model.last.data[:, :2]
    assert torch.autograd.gradcheck(of_weight, (first.clone().requires_grad_(),))


def test_the_clean_branch_can_be_held() -> None:
    clean, model = views(), Curved()
    held = Views.of(model, clean.clean, clean.attacked, LABELS, 0).detached()
    assert not held.clean_logits.requires_grad
    assert held.logits.requires_grad


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(InputError, match="weight="):
        regularisers.build("kl(weight=-1)")
