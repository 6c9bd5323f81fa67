"""Several batch normalisations in one network: which runs when, and how the answers are mixed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.models import load_model
from robustvideo.models.acceleration import gradient_twin
from robustvideo.models.multi_bn import BranchedNorm, MultiBN, OneBranch, Selector


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv3d(3, 4, 3, 2, 1), nn.BatchNorm3d(4), nn.Softplus(), nn.BatchNorm3d(4))
        self.downsample = nn.Sequential(nn.Conv3d(3, 4, 1, 2), nn.BatchNorm3d(4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(self.branch(x) + self.downsample(x))


def a_network() -> Model:
    torch.manual_seed(0)
    network = nn.Sequential(Shortcut(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model = wrap(network, frames=4, size=8).double()
    for _ in range(3):
        model(a_clip(6))
    return model.eval()


def a_clip(clips: int = 4, seed: int = 1) -> Clip:
    return Clip(torch.rand(clips, 3, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def apart(model: MultiBN) -> MultiBN:
    """The same with branches that differ, and a selector that has an opinion."""
    for module in model.modules():
        if isinstance(module, BranchedNorm):
            for number, norm in enumerate(module.branches):
                norm.weight.data += 0.5 * number
                norm.running_mean += 0.2 * number
    nn.init.normal_(model.selector.head.weight, std=30, generator=torch.Generator().manual_seed(0))
    return model


def a_mixture(branches: int = 3, hard: bool = False) -> MultiBN:
    torch.manual_seed(1)
    return apart(MultiBN(a_network(), branches, hard).double().eval())


def norms(model: nn.Module) -> list[BranchedNorm]:
    return [m for m in model.modules() if isinstance(m, BranchedNorm)]


def test_every_normalisation_is_multiplied() -> None:
    model = MultiBN(a_network(), 3)
    assert len(norms(model)) == 4, "the shortcut's too"
    assert sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()) == 12


@pytest.mark.parametrize("hard", [False, True])
def test_equal_branches_answer_as_the_network_did(hard: bool) -> None:
    network, clip = a_network(), a_clip()
    model = MultiBN(copy.deepcopy(network), 3, hard).double().eval()
    torch.testing.assert_close(model(clip), network(clip).log_softmax(1))


def test_the_answer_is_the_mixture_of_the_branches_probabilities() -> None:
    model, clip = a_mixture(), a_clip()
    weights = model.selector(clip.video).softmax(1)
    answers = [part(clip).softmax(1) for part in model.separate.values()]
    expected = sum(weights[:, b, None] * answers[b] for b in range(3))
    torch.testing.assert_close(model(clip).exp(), expected)
    torch.testing.assert_close(model(clip).exp().sum(1), torch.ones(4, dtype=torch.float64))
    assert not torch.allclose(answers[0], answers[1])


def test_hard_selection_takes_one_branch_clip_by_clip() -> None:
    model, clip = a_mixture(hard=True), a_clip(8)
    chosen = model.selector(clip.video).argmax(1)
    assert len(set(chosen.tolist())) > 1, "the clips must differ for this test to mean anything"
    answers = torch.stack([part(clip).log_softmax(1) for part in model.separate.values()])
    torch.testing.assert_close(model(clip), answers[chosen, torch.arange(8)])


@pytest.mark.parametrize("hard", [False, True])
def test_a_clip_s_answer_depends_on_that_clip_alone(hard: bool) -> None:
    model, clip = a_mixture(hard=hard), a_clip(6)
    order = [4, 2, 0, 5]
    torch.testing.assert_close(model(clip.select(order)), model(clip)[order])
    torch.testing.assert_close(model(clip.select([3])), model(clip)[[3]])


def test_training_one_branch_leaves_the_statistics_of_the_others() -> None:
    model = a_mixture().train()
    before = copy.deepcopy(model.state_dict())
    model.answer(a_clip(), 1)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(".branches.1.running_" in key or ".branches.1.num_batches" in key for key in changed)


def test_a_layer_outside_of_any_branch_is_an_error() -> None:
    model = a_mixture()
    with pytest.raises(InputError, match="outside of any of its branches"):
        model.network(a_clip())
    with pytest.raises(RuntimeError):
        model.answer(Clip(torch.rand(1, 2, 4, 8, 8, dtype=torch.float64)), 1)
    assert model.branch.number is None, "a branch ends, however it ends"


def test_branches_are_models_of_their_own() -> None:
    model, clip = a_mixture(2), a_clip()
    assert list(model.separate) == ["branch0", "branch1"]
    for number, part in enumerate(model.separate.values()):
        assert isinstance(part, OneBranch)
        torch.testing.assert_close(part(clip), model.answer(clip, number))


def input_gradient(model: Model, clip: Clip) -> Tensor:
    video = clip.video.clone().requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    return torch.autograd.grad((model(Clip(video)) * weights).sum(), video)[0]


@pytest.mark.parametrize("which", ["soft", "hard", "branch1"])
def test_a_gradient_twin_has_the_same_gradient(which: str) -> None:
    model: Model = a_mixture(hard=which == "hard")
    if which == "branch1":
        model = model.separate[which]
    twin = gradient_twin(model, "fp32")
    assert twin is not model
    clip = a_clip()
    torch.testing.assert_close(input_gradient(twin, clip), input_gradient(model, clip))


def test_the_gradient_sees_the_selector() -> None:
    model, clip = a_mixture(), a_clip(1)
    direction = torch.randn(clip.video.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        ends = [(model(Clip(clip.video + sign * step * direction)) @ weights)[0] for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((input_gradient(model, clip) * direction).sum(), slope, rtol=1e-5, atol=1e-9)


def test_the_selector_cannot_read_the_batch() -> None:
    selector, video = Selector(3).double().train(), a_clip().video
    torch.testing.assert_close(selector(video)[1:2], selector(video[1:2]))


def test_a_normalisation_used_twice_stays_one() -> None:
    norm = nn.BatchNorm3d(3)
    network = nn.Sequential(norm, nn.Sequential(nn.ReLU(), norm), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    assert len(norms(MultiBN(wrap(network, frames=None, size=None), 2))) == 1


def test_a_network_without_batch_normalisation_is_refused() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(InputError, match="this one has none"):
        MultiBN(wrap(network, frames=None, size=None), 2)


def test_frames_encoded_one_by_one_have_branches_too() -> None:
    model = load_model("embedded:cnn_lstm?with=multi_bn(branches=2)")
    plain = load_model("embedded:cnn_lstm")
    clip = Clip(torch.rand(2, 3, 16, 48, 48, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(model(clip), plain(clip).log_softmax(1))
    assert model.labels == plain.labels
