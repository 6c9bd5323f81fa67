"""The attack on the clean prediction, and its objective."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from toys import ConvNet, Linear, Smooth, Watched, alternating, clips, problem_for, weights

from robustvideo.attacks import DivergencePGD, load_attack
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import Divergence, divergence
from robustvideo.errors import InputError
from robustvideo.threat import Linf


def test_the_objective_is_zero_at_the_clean_clip_and_so_is_its_gradient() -> None:
    model, clip = ConvNet().double().eval(), clips(3)
    problem = problem_for(model, clip, torch.tensor([0, 1, 2]), Linf(8 / 255))
    problem = replace(problem, reference=Divergence().reference(problem))
    estimate = plain(problem, Divergence(), (torch.zeros_like(clip.video),))
    torch.testing.assert_close(estimate.objective, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(estimate.gradients[0], torch.zeros_like(clip.video), atol=1e-12, rtol=0)


def test_its_gradient_agrees_with_finite_differences() -> None:
    clip = clips(2)
    problem = problem_for(Smooth(), clip, alternating(2), Linf(0.1))
    problem = replace(problem, reference=Divergence().reference(problem))
    random = torch.Generator().manual_seed(0)
    here, way = (torch.randn(clip.video.shape, generator=random, dtype=torch.float64) for _ in range(2))
    here = 0.05 * here
    estimate = plain(problem, Divergence(), (here,))
    change = [plain(problem, Divergence(), (here + step * way,)).objective for step in (1e-6, -1e-6)]
    slope = (estimate.gradients[0] * way).flatten(1).sum(1)
    torch.testing.assert_close(slope, (change[0] - change[1]) / 2e-6, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_on_a_linear_model_it_ends_at_one_of_the_two_optima(labels: list[int]) -> None:
    """The divergence of a linear model has a maximum at either end; which one is climbed is the start's affair."""
    clip, threat = clips(4), Linf(8 / 255, stored=False)
    model = Linear(weights(), scale=0.1)
    attack = DivergencePGD(threat, steps=30, early_stop=False)
    result = attack(model, clip, torch.tensor(labels))
    clean = model(clip).detach()
    reach = 0.1 * 8 / 255 * float(weights().abs().sum()) / 2
    ends = [divergence(clean, clean + sign * torch.tensor([-reach, reach], dtype=torch.float64)) for sign in (1, -1)]
    last = result.loss_trace[:, -1].double()
    distance = torch.stack([(last - end).abs() / end for end in ends]).amin(0)
    assert (distance < 1e-3).all(), distance


def test_the_labels_do_not_steer_it() -> None:
    model, clip = ConvNet().double(), clips(3)
    attack = DivergencePGD(Linf(8 / 255), steps=4, early_stop=False)
    traces = [attack(model, clip, torch.tensor(y)).loss_trace for y in ([0, 1, 2], [2, 2, 0])]
    assert torch.equal(traces[0], traces[1])


def test_more_steps_climb_higher() -> None:
    model, clip = ConvNet().double(), clips(6)
    with torch.no_grad():
        clean = model.eval()(clip)
    predicted = clean.argmax(1)
    reached = []
    for steps in (1, 10):
        result = DivergencePGD(Linf(8 / 255), steps=steps, early_stop=False)(model, clip, predicted)
        reached.append(divergence(clean, result.logits))
    assert (reached[1] > reached[0] - 1e-6).all()


@pytest.mark.parametrize("restarts", [1, 3])
def test_every_pass_is_counted(restarts: int) -> None:
    watched = Watched(Linear(weights(dtype=torch.float32)))
    clip = clips(2, dtype=torch.float32)
    result = DivergencePGD(steps=2, restarts=restarts)(watched, clip, alternating(2))
    assert result.forward_passes.tolist() == [watched.tally.forwards(name) for name in clip.ids]


def test_it_has_no_target() -> None:
    with pytest.raises(InputError, match="reaches for no class"):
        load_attack("pgd_kl(targeted=true)")


def test_the_divergence_of_pytorch_is_ours() -> None:
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    theirs = F.kl_div(b.log_softmax(1), a.softmax(1), reduction="batchmean")
    torch.testing.assert_close(divergence(a, b).mean(), theirs)
