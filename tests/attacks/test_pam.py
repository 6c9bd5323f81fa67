"""The path-augmented method against its copies made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import ConvNet, Smooth, Watched, alternating, clips, problem_for

from robustvideo.attacks import load_attack
from robustvideo.attacks.attack import Problem
from robustvideo.attacks.averaged import Copies, repeat
from robustvideo.attacks.objectives import CrossEntropy
from robustvideo.attacks.pam import COLOURS, PAM, PathsToColours
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.threat import Joint, Linf


def copies_of(problem: Problem, scales: int, colours: int) -> Clip:
    """All copies of all clips, clip by clip."""
    count = 1 + scales * colours
    rows = repeat(problem, count)
    return PathsToColours(scales, colours)(rows.clip, Copies(rows, tuple(range(count)) * len(problem.clip), 0))


def by_hand(model: torch.nn.Module, video: Tensor, label: Tensor, scales: int, colours: int) -> Tensor:
    """The sum of gradients with respect to x, one copy at a time."""
    x = video.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model(Clip(x)), label)
    for j in range(colours):
        colour = torch.tensor(COLOURS[j], dtype=video.dtype).view(1, 3, 1, 1, 1)
        for i in range(1, scales + 1):
            copy = x / 2**i + (1 - 1 / 2**i) * colour
            loss = loss + torch.nn.functional.cross_entropy(model(Clip(copy)), label)
    return torch.autograd.grad(loss, x)[0]


@pytest.mark.parametrize(("scales", "colours"), [(4, 8), (2, 1), (1, 3)])
def test_it_is_the_mean_gradient_of_the_clip_and_its_copies(scales: int, colours: int) -> None:
    model = ConvNet().double().eval()
    clip, labels = clips(2), torch.tensor([0, 2])
    problem = problem_for(model, clip, labels, Linf(8 / 255))
    attack = PAM(scales=scales, colours=colours)
    found = attack.estimator()(problem, CrossEntropy(), (torch.zeros_like(clip.video),), 0)
    for i in range(2):
        expected = by_hand(model, clip.video[i : i + 1], labels[i : i + 1], scales, colours) / (1 + scales * colours)
        assert torch.allclose(found.gradients[0][i : i + 1], expected, rtol=1e-9, atol=1e-14)
    assert torch.allclose(found.logits, model(clip), rtol=1e-12)


def test_one_path_to_black_is_scale_invariance() -> None:
    problem = problem_for(Smooth(), clips(2), alternating(2), Linf(8 / 255))
    video = copies_of(problem, 4, 1).video.view(2, 5, 3, 4, 6, 8)
    for i in range(5):
        assert torch.equal(video[:, i], problem.clip.video / 2**i)


@pytest.mark.parametrize("colour", range(8))
def test_a_clip_of_one_colour_is_the_end_of_its_own_path(colour: int) -> None:
    video = torch.tensor(COLOURS[colour], dtype=torch.float64).view(1, 3, 1, 1, 1).expand(1, 3, 4, 6, 8)
    problem = problem_for(Smooth(), Clip(video), torch.tensor([0]), Linf(8 / 255))
    copies = copies_of(problem, 4, 8).video
    own = copies[1 + 4 * colour : 5 + 4 * colour]
    assert torch.allclose(own, video.expand_as(own), rtol=1e-15)
    assert len(copies) == 33
    assert copies.min() >= 0
    assert copies.max() <= 1


def test_sound_goes_silent_with_every_colour() -> None:
    problem = problem_for(Smooth(), clips(2, samples=30), alternating(2), Linf(8 / 255))
    sound = copies_of(problem, 3, 2).signal("audio").view(2, 7, 1, 30)
    for number, halvings in enumerate([0, 1, 2, 3, 1, 2, 3]):
        assert torch.equal(sound[:, number], problem.clip.signal("audio") / 2**halvings)


def test_grey_clips_go_to_grey_levels() -> None:
    video = torch.zeros(1, 1, 2, 3, 3, dtype=torch.float64)
    problem = problem_for(Smooth(), Clip(video), torch.tensor([0]), Linf(8 / 255))
    ends = copies_of(problem, 1, 8).video[1:, 0, 0, 0, 0] * 2
    assert torch.allclose(ends, torch.tensor(COLOURS, dtype=torch.float64).mean(1))


def test_thirty_three_passes_per_step() -> None:
    model = Watched(ConvNet().double())
    clip, labels = clips(3), torch.tensor([0, 1, 2])
    result = PAM(steps=2, early_stop=False)(model, clip, labels)
    assert result.backward_passes.tolist() == [33 * 2] * 3
    assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]


@pytest.mark.parametrize("copies_per_pass", [1, 8, 33])
def test_copies_per_pass_do_not_change_the_result(copies_per_pass: int) -> None:
    model, clip, labels = ConvNet().double(), clips(2, samples=20), torch.tensor([0, 1])
    threat = Joint((Linf(8 / 255), Linf(0.01, modality="audio")))
    expected = PAM(threat, steps=2, early_stop=False)(model, clip, labels)
    found = PAM(threat, steps=2, early_stop=False, copies_per_pass=copies_per_pass)(model, clip, labels)
    assert torch.equal(found.clip.video, expected.clip.video)


def test_specs_and_refusals() -> None:
    assert load_attack("pam(scales=2, colours=3)") == PAM(scales=2, colours=3)
    for options, message in (
        ({"scales": 0}, "at least one point"),
        ({"colours": 0}, "colours=0"),
        ({"colours": 9}, "colours=9"),
        ({"copies_per_pass": 0}, "At least one copy"),
    ):
        with pytest.raises(InputError, match=message):
            PAM(**options)
