"""Mixtures of experts: routing, gates, sparse execution, and building them from a spec."""

from __future__ import annotations

import pytest
import torch
from toys import LinearLogits, clips, mixture

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, route
from robustvideo.models import load_model
from robustvideo.models.acceleration import gradient_twin
from robustvideo.models.moe import LEAST_CLIPS, MixtureOfExperts, gate_weights, load_balance, top_experts

SMALL = "video_moe?experts=3&frames=4&size=16"


def some(batch: int = 6, seed: int = 0) -> Clip:
    random = torch.Generator().manual_seed(seed)
    return Clip(torch.rand(batch, 3, 4, 16, 16, generator=random, dtype=torch.float64))


def spread_out(spec: str) -> MixtureOfExperts:
    """A mixture with untrained weights whose router sends neighbours to different experts."""
    model = load_model(spec, num_classes=5).double()
    assert isinstance(model, MixtureOfExperts)
    logits = model.router(some(32))
    last = model.router.module[-1]
    with torch.no_grad():
        scale = 1 / logits.std(0)
        last.weight.mul_(scale[:, None])
        last.bias.copy_((last.bias - logits.mean(0)) * scale)
    return model


@pytest.mark.parametrize("gate", ["kept", "renormalised", "straight_through"])
@pytest.mark.parametrize("top", [1, 2, 3])
def test_logits_are_the_weighted_sum_of_the_chosen_experts(top: int, gate: str) -> None:
    model, clip = mixture(3, top=top, gate=gate), clips(7)
    routing = model.route(clip)
    p = routing.router_logits.softmax(1)
    best = p.topk(top, dim=1).indices
    for row in range(7):
        total = p[row, best[row]].sum()
        expected = torch.zeros(3, dtype=torch.float64)
        for i in best[row].tolist():
            weight = {"kept": p[row, i], "renormalised": p[row, i] / total, "straight_through": 1 / top}[gate]
            assert torch.allclose(routing.weights[row, i], torch.as_tensor(weight, dtype=torch.float64))
            expected += weight * model.experts[i](clip)[row]
        assert torch.allclose(routing.logits[row], expected)
        others = [i for i in range(3) if i not in best[row].tolist()]
        assert (routing.weights[row, others] == 0).all()
        assert routing.expert_logits[row, others].isnan().all()
        assert routing.expert_logits[row, best[row]].isfinite().all()
    assert torch.equal(model(clip), routing.logits)


@pytest.mark.parametrize("top", [1, 2])
def test_a_clip_is_told_the_same_alone_and_in_any_batch(top: int) -> None:
    model, clip = spread_out(f"{SMALL}&top={top}"), some()
    together = model.route(clip)
    assert len(set(together.router_logits.argmax(1).tolist())) > 1, "the test needs clips of several experts"
    order = [3, 0, 5, 1, 4, 2]
    assert torch.allclose(model(clip.select(order)), together.logits[order], atol=1e-12)
    for i in range(6):
        alone = model.route(clip.select([i]))
        assert torch.allclose(alone.logits[0], together.logits[i], atol=1e-12)
        assert torch.allclose(alone.expert_logits[0], together.expert_logits[i], atol=1e-12, equal_nan=True)


def test_an_expert_runs_only_on_the_clips_that_are_routed_to_it() -> None:
    model, clip = spread_out(SMALL), some(12)
    seen: dict[int, tuple[str, ...]] = {}
    for i, expert in enumerate(model.experts):
        expert.register_forward_pre_hook(lambda _, given, i=i: seen.__setitem__(i, given[0].ids))
    routes = model.route(clip).router_logits.argmax(1)
    for i in range(3):
        assert list(seen.get(i, ())) == [name for name, r in zip(clip.ids, routes.tolist(), strict=True) if r == i]


@pytest.mark.parametrize("shape", [(6, 3), (6, 1)])
def test_experts_that_are_asked_for_run_and_change_nothing_else(shape: tuple[int, int]) -> None:
    model, clip = mixture(3), clips(6)
    needed = torch.ones(shape, dtype=torch.bool)
    plain, full = route(model, clip), route(model, clip, needed)
    assert torch.allclose(plain.logits, full.logits, atol=1e-12)
    assert torch.equal(plain.weights, full.weights)
    assert torch.allclose(full.expert_logits, torch.stack([e(clip) for e in model.experts], 1))


def test_gradients_through_groups_are_those_of_finite_differences() -> None:
    model, clip = mixture(3, top=2), clips(4)
    needed = torch.tensor([[True, False, False]]).expand(4, 3)

    def value(corner: torch.Tensor) -> torch.Tensor:
        video = clip.video.clone()
        video[:, :, 0, 0, :2] = corner
        routing = model.route(Clip(video), needed)
        return routing.logits.square().sum() + routing.expert_logits[:, 0].sin().sum()

    assert torch.autograd.gradcheck(value, (clip.video[:, :, 0, 0, :2].clone().requires_grad_(),))


@pytest.mark.parametrize(("gate", "reached"), [("kept", True), ("renormalised", False), ("straight_through", True)])
def test_whether_a_gradient_reaches_the_router_with_one_chosen_expert(gate: str, reached: bool) -> None:
    model = mixture(3, gate=gate)
    model(clips(5)).sin().sum().backward()
    gradient = model.router.weight.grad
    assert (gradient is not None and bool((gradient != 0).any())) is reached


def test_a_gate_that_hides_its_router_says_so() -> None:
    with pytest.warns(UserWarning, match="no gradient reaches the router"):
        load_model(f"{SMALL}&gate=renormalised")


def test_the_load_balance_is_one_where_even_and_grows_to_the_number_of_experts() -> None:
    even = 30 * torch.eye(4, dtype=torch.float64)
    assert load_balance(even) == pytest.approx(1)
    assert load_balance(even[[0, 0, 0, 0]]) == pytest.approx(4)
    by_hand = torch.tensor([[2.0, 1.0], [3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    p = by_hand.softmax(1).mean(0)
    assert load_balance(by_hand) == pytest.approx(float(2 * (2 / 3 * p[0] + 1 / 3 * p[1])))
    assert load_balance(by_hand, top=2) == pytest.approx(float(2 * (0.5 * p[0] + 0.5 * p[1])))


def test_following_the_balance_s_gradient_spreads_the_clips() -> None:
    logits = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 0.1 + torch.tensor([1.0, 0, 0, 0])
    offset = torch.zeros(4, requires_grad=True)
    for _ in range(300):
        (gradient,) = torch.autograd.grad(load_balance(logits + offset), offset)
        offset = (offset - 0.1 * gradient).detach().requires_grad_()
    assert top_experts(logits, 1).float().mean(0).max() == 1
    assert top_experts(logits + offset, 1).float().mean(0).max() < 0.6


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gradient_twin_routes_like_the_model(precision: str) -> None:
    model, clip = spread_out(SMALL).float().eval(), some().to(dtype=torch.float32)
    twin = gradient_twin(model, precision)  # type: ignore[arg-type]
    assert twin is not model
    needed = torch.ones(6, 1, dtype=torch.bool)
    dtype = torch.bfloat16 if precision == "bf16" else None
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        found = twin.route(clip, needed)
    expected = model.route(clip, needed)
    tolerance = 1e-4 if dtype is None else 5e-2
    for name in ("router_logits", "expert_logits", "logits"):
        assert getattr(found, name).dtype is torch.float32
    assert torch.allclose(found.router_logits, expected.router_logits, atol=10 * tolerance)
    assert torch.allclose(found.expert_logits, expected.expert_logits, atol=tolerance)


@pytest.mark.parametrize(("batch", "moves"), [(LEAST_CLIPS - 1, False), (LEAST_CLIPS, True)])
def test_few_clips_leave_an_expert_s_statistics_alone_in_training(batch: int, moves: bool) -> None:
    model = load_model(SMALL).train()
    assert isinstance(model, MixtureOfExperts)
    before = [b.clone() for b in model.experts[0].buffers()]
    model.expert_logits(0, some(batch).to(dtype=torch.float32))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.experts[0].buffers(), strict=True)) is moves
    assert all(m.training for m in model.modules())


def test_experts_of_a_spec_start_differently_and_the_spec_is_the_same_model_again() -> None:
    model, again = (load_model(SMALL, num_classes=5) for _ in range(2))
    assert isinstance(model, MixtureOfExperts)
    first, second = (next(iter(e.parameters())) for e in model.experts[:2])
    assert not torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert model(some(2)).shape == (2, 5)


def test_experts_may_differ_in_kind_and_options() -> None:
    spec = "video_moe?experts=[r3d_small, tsm_r18(frames=4), slowfast_r50(width=8, frames=8), r3d_18]&size=32&top=4"
    model = load_model(spec, num_classes=5)
    assert isinstance(model, MixtureOfExperts)
    assert [e.frames for e in model.experts] == [16, 4, 8, None]
    assert {e.size for e in model.experts} == {(32, 32)}
    assert (model.frames, model.size) == (None, (32, 32))
    assert model(Clip(torch.rand(2, 3, 8, 40, 40))).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("experts=1", "two experts or more"),
        ("experts=3&top=4", "between 1 and all 3"),
        ("experts=[r3d_small,r3d_smal]", "did you mean 'r3d_small'"),
        ("experts=[r3d_small,r3d_small]&expert=r3d_small", "a list experts="),
        ("expert=r3d_small(colour=1)", "Unknown parameter of r3d_small"),
        ("gate=soft", "gate="),
    ],
)
def test_what_cannot_be_built_is_said(options: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(f"video_moe?{options}")


def test_experts_of_different_classes_are_refused() -> None:
    weight = torch.randn(3, 3, 4, 6, 8, dtype=torch.float64)
    model = MixtureOfExperts([LinearLogits(weight), LinearLogits(weight[:2])], LinearLogits(weight[:2]), top=2)
    with pytest.raises(InputError, match="same classes"):
        model(clips(2))


def test_routing_of_a_model_without_a_router_is_refused() -> None:
    model: Model = LinearLogits(torch.randn(3, 3, 4, 6, 8, dtype=torch.float64))
    with pytest.raises(InputError, match="no mixture of experts"):
        route(model, clips(2))


def test_renormalised_weights_of_a_chosen_pair() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    weights = gate_weights(logits, top_experts(logits, 2), "renormalised")
    assert torch.allclose(weights, torch.tensor([[0.0, 1 / (1 + torch.e**2), 1 / (1 + torch.e**-2)]]))


def test_router_and_experts_learn_together() -> None:
    """Four classes of plain colours: after a few updates the mixture knows them, and no expert takes every clip."""
    model = load_model(SMALL, num_classes=4).train()
    assert isinstance(model, MixtureOfExperts)
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(32) % 4
    colours = torch.tensor([[0.2, 0.2, 0.2], [0.8, 0.2, 0.2], [0.2, 0.8, 0.2], [0.2, 0.2, 0.8]])
    clip = Clip(colours[labels][:, :, None, None, None] + 0.1 * torch.rand(32, 3, 4, 16, 16, generator=random))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    before = [p.clone() for p in model.router.parameters()]
    for _ in range(30):
        routing = model.route(clip)
        loss = torch.nn.functional.cross_entropy(routing.logits, labels) + 0.1 * load_balance(routing.router_logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(clip).argmax(1) == labels).float().mean() > 0.95
    assert top_experts(model.route(clip).router_logits, 1).float().mean(0).max() < 0.9
    assert all(not torch.equal(a, b) for a, b in zip(before, model.router.parameters(), strict=True))


def test_experts_may_start_from_trained_weights() -> None:
    moe = load_model("video_moe?expert='embedded:r3d'&experts=2")
    r3d = load_model("embedded:r3d")
    clip = Clip(torch.rand(2, 3, 16, 48, 48, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for index in range(2):
            torch.testing.assert_close(moe.expert_logits(index, clip), r3d(clip))  # type: ignore[operator]
