"""The local Lipschitz ratio: closed forms of linear maps, its gradient, and clips that have not moved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import Linear, clips, problem_for, weights

from robustvideo.attacks.lipschitz import LipschitzTerm, local_lipschitz, mean_square_change
from robustvideo.clip import Clip
from robustvideo.threat import Joint, Linf

SHAPE = (2, 3, 4, 5)
VALUES = 120


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ratio(matrix: Tensor, delta: Tensor) -> Tensor:
    clean = Clip(torch.full_like(delta, 0.5))
    moved = Clip(clean.video + delta)
    outputs = [c.video.flatten(1) @ matrix.T for c in (clean, moved)]
    return local_lipschitz(*outputs, mean_square_change(clean, moved))


def test_of_a_matrix_it_is_at_most_its_largest_singular_value_and_reaches_it() -> None:
    matrix, outputs = drawn(7, VALUES), 7
    _, values, rows = torch.linalg.svd(matrix)
    bound = VALUES / outputs * values[0] ** 2
    delta = 0.01 * drawn(5, *SHAPE, seed=1)
    delta[0] = 0.01 * rows[0].view(SHAPE)
    found = ratio(matrix, delta)
    assert (found <= bound * (1 + 1e-9)).all()
    assert found[0] == pytest.approx(float(bound))
    assert found[1:].max() < bound


def test_of_a_multiple_of_the_clip_it_is_the_square_of_the_factor() -> None:
    found = ratio(3.0 * torch.eye(VALUES, dtype=torch.float64), 0.02 * drawn(4, *SHAPE))
    assert torch.allclose(found, torch.full((4,), 9.0, dtype=torch.float64))


def test_of_a_matrix_it_does_not_care_for_the_length_of_the_change() -> None:
    """Homogeneous of degree 0: ``<delta, grad> = 0``."""
    delta = (0.01 * drawn(3, *SHAPE)).requires_grad_()
    (gradient,) = torch.autograd.grad(ratio(drawn(7, VALUES), delta).sum(), delta)
    assert (gradient * delta).flatten(1).sum(1).abs().max() < 1e-10 * gradient.norm()
    assert gradient.norm() > 0


def test_gradient_is_that_of_finite_differences() -> None:
    matrix = drawn(3, VALUES)

    def value(delta: Tensor) -> Tensor:
        clean = Clip(torch.full_like(delta, 0.5))
        moved = Clip(clean.video + delta)
        outputs = [(c.video.flatten(1) @ matrix.T).tanh() for c in (clean, moved)]
        return local_lipschitz(*outputs, mean_square_change(clean, moved))

    assert torch.autograd.gradcheck(value, (0.1 * drawn(2, *SHAPE)).requires_grad_())


def test_a_clip_that_has_not_moved_has_ratio_and_gradient_zero() -> None:
    delta = (0.01 * drawn(2, *SHAPE)).requires_grad_()
    kept = delta * torch.tensor([1.0, 0.0], dtype=torch.float64).view(2, 1, 1, 1, 1)
    found = ratio(drawn(7, VALUES), kept)
    (gradient,) = torch.autograd.grad(found.sum(), delta)
    assert found[1] == 0
    assert found[0] > 0
    assert (gradient[1] == 0).all()
    assert gradient.isfinite().all()


def test_half_precision_outputs_are_subtracted_in_full() -> None:
    clean = torch.tensor([[256.0, 256.0]], dtype=torch.bfloat16)
    found = local_lipschitz(clean, clean.float() + 0.25, torch.tensor([1.0]))
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(0.0625)


@pytest.mark.parametrize("sound", [False, True])
def test_the_change_is_the_mean_over_what_is_attacked(sound: bool) -> None:
    clip = clips(2, samples=60)
    moved = Clip(clip.video + 0.1, clip.signal("audio") + 0.2, sample_rate=8000, ids=clip.ids)
    found = mean_square_change(clip, moved, ("video", "audio") if sound else ("video",))
    values = clip.video[0].numel()
    expected = (values * 0.01 + 60 * 0.04) / (values + 60) if sound else 0.01
    assert torch.allclose(found, torch.full((2,), expected, dtype=torch.float64))


def test_the_term_weighs_and_its_l2_form_is_the_ratio_of_squared_norms() -> None:
    model, clip, labels = Linear(weights()), clips(3), torch.zeros(3, dtype=torch.long)
    problem = problem_for(model, clip, labels, Linf(8 / 255))
    moved = Clip(clip.video + 0.01 * drawn(*clip.video.shape), ids=clip.ids)
    a, b = drawn(3, 5, seed=3), drawn(3, 5, seed=4)
    mse = LipschitzTerm(0.5)(a, b, problem, moved)
    assert torch.allclose(mse, 0.5 * (a - b).square().mean(1) / (clip.video - moved.video).square().flatten(1).mean(1))
    squares = (a - b).square().sum(1) / (clip.video - moved.video).square().flatten(1).sum(1)
    assert torch.allclose(LipschitzTerm(2.0, "l2")(a, b, problem, moved), 2 * squares)
    assert torch.equal(LipschitzTerm(0.0)(a, b, problem, moved), torch.zeros(3, dtype=torch.float64))


def test_only_attacked_modalities_count_in_the_term() -> None:
    clip, labels = clips(2, samples=60), torch.zeros(2, dtype=torch.long)
    moved = clip.with_signal("audio", clip.signal("audio") + 0.2)
    model = Linear(weights(), audio=weights((1, 60)))
    a, b = drawn(2, 5, seed=3), drawn(2, 5, seed=4)
    for threat, values in ((Linf(0.3, modality="audio"), 60), (Joint((Linf(0.1), Linf(0.3, modality="audio"))), 636)):
        found = LipschitzTerm(1.0)(a, b, problem_for(model, clip, labels, threat), moved)
        assert torch.allclose(found, (a - b).square().mean(1) / (0.04 * 60 / values))


def test_a_detached_denominator_leaves_the_value_and_changes_the_gradient() -> None:
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    problem = problem_for(Linear(weights()), clip, labels, Linf(8 / 255))
    gradients = []
    for detach in (False, True):
        delta = (0.01 * drawn(*clip.video.shape)).requires_grad_()
        output = delta.flatten(1)[:, :5]
        value = LipschitzTerm(1.0, detach_denominator=detach)(
            torch.zeros(2, 5), output, problem, Clip(clip.video + delta)
        )
        gradients.append(torch.autograd.grad(value.sum(), delta)[0])
    assert torch.allclose(gradients[0].flatten(1)[:, :5], gradients[1].flatten(1)[:, :5], rtol=0.1)
    assert (gradients[1].flatten(1)[:, 5:] == 0).all()
    assert (gradients[0].flatten(1)[:, 5:] != 0).all()
