"""Measures of routing: identities of the IoU, a collapse, Lipschitz constants of linear maps, and step sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import Linear, clips, mixture, weights

from robustvideo.attacks import FGSM, JTLGA, PGD, PGDR, TLGAR
from robustvideo.attacks.temporal_momentum import damping
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.evaluation.routing import (
    CLEAN,
    Measured,
    Spread,
    Summary,
    decision_iou,
    entropy,
    iou,
    measure_routing,
    summarise,
    to_the_end,
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
    assert torch.allclose(iou(u, u), torch.ones(40, dtype=torch.float64))


def test_the_iou_of_a_decision_is_a_function_of_its_probability() -> None:
    clean, attacked = logits(0), logits(1)
    p = attacked.softmax(1).gather(1, clean.argmax(1, keepdim=True))[:, 0]
    assert torch.allclose(decision_iou(clean, attacked), p / (2 - p))
    certain = torch.tensor([[90.0, 0.0]])
    assert decision_iou(certain, certain).item() == pytest.approx(1)
    assert decision_iou(certain, certain.flip(1)).item() == pytest.approx(0)


def test_entropy_of_even_and_collapsed_shares() -> None:
    assert entropy(torch.full((4,), 0.25, dtype=torch.float64)) == pytest.approx(math.log(4))
    assert entropy(torch.tensor([0.0, 1.0, 0.0, 0.0])) == 0


def test_a_spread_tells_of_the_tail() -> None:
    found = Spread.of(torch.arange(101.0))
    assert (found.mean, found.median, found.percentile95) == (50, 50, 95)


def batches(clip: Clip) -> list[tuple[Clip, Tensor]]:
    return [(clip.select(rows), LABELS[rows]) for rows in ([0, 1, 2, 3], [4, 5])]


def of(found: Measured, attack: str) -> Summary:
    (summary,) = [s for s in found.summaries if s.attack.startswith(attack)]
    return summary


def test_measures_are_those_of_the_attacks_last_points_whatever_the_batches() -> None:
    model, clip = mixture(3), clips(6)
    router, joint = TLGAR(Linf(16 / 255)), JTLGA(Linf(16 / 255))
    found = measure_routing(model, batches(clip), [router, joint])
    assert found == measure_routing(model, [(clip, LABELS)], [router, joint])
    assert [s.attack for s in found.summaries] == [CLEAN, router.spec, joint.spec]
    ended = replace(router, keep="last")(model, clip, LABELS).clip
    clean, attacked = model.router(clip).detach(), model.router(ended).detach()
    change = (ended.video - clip.video).square().flatten(1).mean(1)
    under = of(found, "tlga_r")
    assert under.lips_router.mean == pytest.approx(float(((clean - attacked).square().mean(1) / change).mean()))
    assert under.clips == 6
    assert found.summaries[0].shares == pytest.approx((clean.argmax(1).bincount(minlength=3).double() / 6).tolist())
    assert under.shares == pytest.approx((attacked.argmax(1).bincount(minlength=3).double() / 6).tolist())
    assert under.changed == pytest.approx(float((clean.argmax(1) != attacked.argmax(1)).double().mean()))
    assert under.to_weakest == pytest.approx(float((clean.argmin(1) == attacked.argmax(1)).double().mean()))
    assert under.correct == int((model(ended).argmax(1) == LABELS).sum())
    assert under.iou_router.mean < found.summaries[0].iou_router.mean
    together = replace(joint, keep="last")(model, clip, LABELS).clip
    a, b = model(clip).detach(), model(together).detach()
    change = (together.video - clip.video).square().flatten(1).mean(1)
    expected = float(((a - b).square().mean(1) / change).median())
    assert of(found, "j_tlga").lips_whole.median == pytest.approx(expected)


def test_answers_are_those_of_each_clip() -> None:
    model, clip = mixture(3), clips(6)
    found = measure_routing(model, [(clip, LABELS)], [PGDR(Linf(16 / 255))])
    assert [c.sample_id for c in found.clips] == list(clip.ids)
    clean = model.router(clip).detach().softmax(1)
    for row, own in enumerate(found.clips):
        before, after = own.answers.values()
        assert before.probabilities == pytest.approx(clean[row].tolist())
        assert (before.expert, before.weakest) == (int(clean[row].argmax()), int(clean[row].argmin()))
        assert before.lips_router == before.lips_whole == 0 < after.lips_router
        assert before.prediction == int(model(clip)[row].argmax())
        p = max(before.probabilities)
        assert before.iou_router == pytest.approx(p / (2 - p))
        assert before.steps == after.steps == ()


def test_no_router_is_steeper_than_its_matrix() -> None:
    model, clip = mixture(3), clips(6)
    matrix = model.router.weight.detach().flatten(1)
    bound = matrix.shape[1] / 3 * float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    found = of(measure_routing(model, [(clip, LABELS)], [TLGAR(Linf(8 / 255))]), "tlga_r").lips_router
    assert 0.01 * bound < found.mean <= bound


def test_a_constant_router_has_no_steepness_and_the_entropy_says_why() -> None:
    model, clip = mixture(3), clips(6)
    with torch.no_grad():
        model.router.weight.zero_()
        model.router.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    found = of(measure_routing(model, [(clip, LABELS)], [TLGAR(Linf(8 / 255))]), "tlga_r")
    assert found.lips_router.mean == found.entropy == found.changed == found.to_weakest == 0
    assert found.shares == (0, 1, 0)


def test_steps_are_those_of_equation_6_and_smaller_where_gradients_add_up() -> None:
    """Guidance of weight 1 alone is a difference of logits: a linear router has the same gradient everywhere."""
    model, clip = mixture(3), clips(6)
    attack = TLGAR(Linf(16 / 255), lam=0.0, steps=4, step_size=4 / 255)
    ended, steps = to_the_end(attack, model, clip, LABELS)
    assert steps is not None
    router = model.router(clip).detach()
    matrix = model.router.weight.detach()
    for row in range(6):
        gradient = matrix[router[row].argmin()] - matrix[router[row].argmax()]
        accumulated, expected = 0.0, []
        for frame in range(clip.frames):
            accumulated = 0.9 * accumulated + float(gradient[:, frame].norm())
            expected.append(4 / 255 * float(damping(torch.tensor(accumulated, dtype=torch.float64))))
        assert steps[row].tolist() == pytest.approx(expected)
    assert ((steps > 0) & (steps <= 4 / 255)).all()
    assert torch.equal(ended.video, replace(attack, keep="last")(model, clip, LABELS).clip.video)


def test_pgd_goes_to_its_end_as_well_and_others_keep_their_own_result() -> None:
    model, clip = mixture(3), clips(6)
    ended, steps = to_the_end(PGD(Linf(16 / 255), steps=3), model, clip, LABELS)
    longer, _ = to_the_end(PGD(Linf(16 / 255), steps=3, early_stop=False), model, clip, LABELS)
    assert steps is None
    assert torch.equal(ended.video, longer.video)
    fgsm = FGSM(Linf(16 / 255))
    assert torch.equal(to_the_end(fgsm, model, clip, LABELS)[0].video, fgsm(model, clip, LABELS).clip.video)


def test_the_model_is_left_as_it_was() -> None:
    model = mixture(3).train()
    measure_routing(model, [(clips(6), LABELS)], [JTLGA(Linf(8 / 255))])
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_what_cannot_be_measured_is_said() -> None:
    one = [(clips(2), torch.tensor([0, 1]))]
    with pytest.raises(InputError, match="no clips"):
        measure_routing(mixture(3), [], [])
    with pytest.raises(InputError, match="no clips"):
        summarise([])
    with pytest.raises(InputError, match="no mixture of experts"):
        measure_routing(Linear(weights()), one, [])
    with pytest.raises(InputError, match="one expert"):
        measure_routing(mixture(1), one, [])
    with pytest.raises(InputError, match="untargeted"):
        measure_routing(mixture(3), one, [PGD(Linf(8 / 255), targeted=True)])
