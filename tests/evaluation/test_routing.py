"""Measures of routing: identities of the IoU, a collapse, Lipschitz constants of linear maps, and transfer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import Linear, clips, mixture, weights

from robustvideo.attacks import JTLGA, PGD, TLGAR
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.evaluation.routing import (
    Spread,
    decision_iou,
    entropy,
    expert_shares,
    iou,
    measure_routing,
    soft_iou,
    top_iou,
    transfer_matrix,
)
from robustvideo.threat import Linf

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def logits(seed: int, batch: int = 40, count: int = 5) -> Tensor:
    return 2 * torch.randn(batch, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_iou_is_a_function_of_the_total_variation() -> None:
    u, v = logits(0).softmax(1), logits(1).softmax(1)
    variation = (u - v).abs().sum(1) / 2
    assert torch.allclose(iou(u, v), (1 - variation) / (1 + variation))
    assert torch.allclose(iou(u, v), iou(v, u))
    assert ((iou(u, v) > 0) & (iou(u, v) < 1)).all()
    assert torch.allclose(soft_iou(logits(0), logits(1)), iou(u, v))
    assert torch.allclose(soft_iou(logits(0), logits(0)), torch.ones(40, dtype=torch.float64))


def test_the_iou_of_a_decision_is_a_function_of_its_probability() -> None:
    clean, attacked = logits(0), logits(1)
    p = attacked.softmax(1).gather(1, clean.argmax(1, keepdim=True))[:, 0]
    assert torch.allclose(decision_iou(clean, attacked), p / (2 - p))
    certain = torch.tensor([[90.0, 0.0]])
    assert decision_iou(certain, certain).item() == pytest.approx(1)
    assert decision_iou(certain, certain.flip(1)).item() == pytest.approx(0)


def test_the_iou_of_the_top_counts_shared_places() -> None:
    a = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    assert top_iou(a, a, 2).tolist() == [1.0]
    assert top_iou(a, a.flip(1), 2).tolist() == [0.0]
    assert top_iou(a, torch.tensor([[3.0, 0.0, 2.0, 1.0]]), 2).item() == pytest.approx(1 / 3)


def test_shares_and_entropy_of_even_and_collapsed_routes() -> None:
    even = torch.eye(4)
    assert expert_shares(even).tolist() == [0.25] * 4
    assert entropy(expert_shares(even)) == pytest.approx(math.log(4))
    assert expert_shares(even[[1, 1, 1, 1]]).tolist() == [0, 1, 0, 0]
    assert entropy(expert_shares(even[[1, 1, 1, 1]])) == 0


def test_a_spread_tells_of_the_tail() -> None:
    found = Spread.of(torch.arange(101.0))
    assert (found.mean, found.median, found.percentile95) == (50, 50, 95)


def batches(clip: Clip) -> list[tuple[Clip, Tensor]]:
    return [(clip.select(rows), LABELS[rows]) for rows in ([0, 1, 2, 3], [4, 5])]


def test_measures_are_those_of_the_attacks_last_points_whatever_the_batches() -> None:
    model, clip = mixture(3), clips(6)
    router, joint = TLGAR(Linf(16 / 255)), JTLGA(Linf(16 / 255))
    found = measure_routing(model, batches(clip), router, joint)
    assert found == measure_routing(model, [(clip, LABELS)], router, joint)
    ended = replace(router, keep="last")(model, clip, LABELS).clip
    clean, attacked = model.router(clip).detach(), model.router(ended).detach()
    change = (ended.video - clip.video).square().flatten(1).mean(1)
    assert found.lips_r.mean == pytest.approx(float(((clean - attacked).square().mean(1) / change).mean()))
    assert found.clips == 6
    assert found.clean_shares == tuple((clean.argmax(1).bincount(minlength=3).double() / 6).tolist())
    assert found.changed == pytest.approx(float((clean.argmax(1) != attacked.argmax(1)).double().mean()))
    assert found.to_weakest == pytest.approx(float((clean.argmin(1) == attacked.argmax(1)).double().mean()))
    assert found.iou_attacked.mean < found.iou_clean.mean
    together = replace(joint, keep="last")(model, clip, LABELS).clip
    a, b = model(clip).detach(), model(together).detach()
    change = (together.video - clip.video).square().flatten(1).mean(1)
    assert found.lips_j.median == pytest.approx(float(((a - b).square().mean(1) / change).median()))


def test_no_router_is_steeper_than_its_matrix() -> None:
    model, clip = mixture(3), clips(6)
    matrix = model.router.weight.detach().flatten(1)
    bound = matrix.shape[1] / 3 * float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    found = measure_routing(model, [(clip, LABELS)]).lips_r
    assert 0.01 * bound < found.mean <= bound


def test_a_constant_router_has_no_steepness_and_the_entropy_says_why() -> None:
    model, clip = mixture(3), clips(6)
    with torch.no_grad():
        model.router.weight.zero_()
        model.router.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    found = measure_routing(model, [(clip, LABELS)])
    assert found.lips_r.mean == 0
    assert found.clean_entropy == found.attacked_entropy == found.changed == found.to_weakest == 0
    assert found.clean_shares == (0, 1, 0)


def test_the_model_is_left_as_it_was() -> None:
    model = mixture(3).train()
    measure_routing(model, [(clips(6), LABELS)])
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(InputError, match="no clips"):
        measure_routing(mixture(3), [])
    with pytest.raises(InputError, match="no mixture of experts"):
        measure_routing(Linear(weights()), [(clips(2), torch.tensor([0, 1]))])
    with pytest.raises(InputError, match="no clips"):
        transfer_matrix({"a": Linear(weights())}, PGD(Linf(8 / 255)), [])


def test_clips_transfer_to_a_twin_and_not_to_the_opposite() -> None:
    w, clip = weights(), clips(6)
    labels = torch.zeros(6, dtype=torch.long)
    models = {"one": Linear(w), "twin": Linear(2 * w), "other": Linear(-w)}
    reach = 8 / 255 * float(w.abs().sum())
    for name, model in models.items():
        value = model.value(clip).detach()
        model.bias.data -= value.max() + (0.3 if name != "twin" else 0.6) * reach
    found = transfer_matrix(models, PGD(Linf(8 / 255), steps=20), [(clip.select([0, 1]), labels[:2]), (clip, labels)])
    reached = {pair: accuracy for pair, accuracy in found.items() if pair[0] == pair[1]}
    assert set(found) == {(a, b) for a in models for b in models}
    assert all(found[name, name] < 1 for name in models)
    assert found["one", "twin"] == pytest.approx(found["one", "one"], abs=0.2)
    assert found["one", "other"] == 1
    assert reached["one", "one"] <= found["twin", "one"] + 1e-9
