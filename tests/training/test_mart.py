"""MART: its loss by hand, in regions where logarithms of probabilities fail."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from driving import Seen, a_step, network
from torch import Tensor

from robustvideo.errors import InputError
from robustvideo.training import load_training
from robustvideo.training.mart import boosted_cross_entropy


def by_hand(p: Tensor, labels: Tensor) -> Tensor:
    rows = []
    for row, label in zip(p, labels.tolist(), strict=True):
        rival = max(row[k].item() for k in range(len(row)) if k != label)
        rows.append(-row[label].log() - torch.log(torch.tensor(1 - rival, dtype=p.dtype)))
    return torch.stack(rows)


def test_the_boosted_cross_entropy_by_hand() -> None:
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    torch.testing.assert_close(boosted_cross_entropy(logits, labels), by_hand(logits.softmax(1), labels))


def test_of_two_classes_the_rival_is_the_other() -> None:
    logits, labels = torch.randn(6, 2, dtype=torch.float64), torch.tensor([0, 1] * 3)
    expected = 2 * F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(boosted_cross_entropy(logits, labels), expected)


def test_certain_and_wrong_has_a_finite_loss_and_gradient() -> None:
    logits = torch.tensor([[0.0, 200.0, 1.0], [200.0, 0.0, 1.0]], requires_grad=True)
    loss = boosted_cross_entropy(logits, torch.tensor([0, 0]))
    torch.testing.assert_close(loss, torch.tensor([200 + 200 - 1.3132617, 0.0]))  # log(1 + e) beside the rival
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0].tolist() == pytest.approx([-1 - 0.2689414, 2.0, -0.7310586])


@pytest.mark.parametrize("detach", [True, False])
def test_the_loss_of_a_batch_by_hand(detach: bool) -> None:
    model = network()
    step = a_step(model)
    (loss,) = load_training(f"mart(weight=3, detach_weight={detach})".lower()).losses(step)
    assert isinstance(step.forward, Seen)
    clean, perturbed = (model(clip) for clip in step.forward.clips)
    p, q = clean.softmax(1), perturbed.softmax(1)
    unsure = 1 - p[torch.arange(5), step.labels]
    apart = (p * (p.log() - q.log())).sum(1) * (unsure.detach() if detach else unsure)
    expected = (boosted_cross_entropy(perturbed, step.labels) + 3 * apart).mean()
    torch.testing.assert_close(loss.value, expected)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    for found, want in zip(torch.autograd.grad(loss.value, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(found, want)


def test_without_the_divergence_only_the_boosted_term_is_left() -> None:
    model = network()
    step = a_step(model)
    (loss,) = load_training("mart(weight=0)").losses(step)
    assert isinstance(step.forward, Seen)
    perturbed = model(step.forward.clips[1])
    torch.testing.assert_close(loss.value, by_hand(perturbed.softmax(1), step.labels).mean(), rtol=1e-4, atol=1e-5)


def test_a_spec_says_it_all_and_mistakes_are_named() -> None:
    assert load_training("mart").spec == "mart"
    method = load_training("mart(attack=pgd(eps=4/255), weight=5, detach_weight=true)")
    assert load_training(method.spec) == method
    for spec, message in (("mart(weight=-1)", "at least 0"), ("mart(attack=pgd(targeted=true))", "cannot be targeted")):
        with pytest.raises(InputError, match=message):
            load_training(spec)
