"""The over-and-under-complete block: what it leaves alone, its sizes, and where it is put."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.models import load_model
from robustvideo.models.acceleration import gradient_twin
from robustvideo.models.oud import Oud, Restoration, Restored


def a_network() -> Model:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(nn.Conv3d(3, 4, 3, (1, 2, 2), 1), nn.BatchNorm3d(4), nn.ReLU()),
        nn.Sequential(nn.Conv3d(4, 6, 3, (1, 2, 2), 1), nn.BatchNorm3d(6), nn.ReLU()),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
    return wrap(network, frames=4, size=24).eval()


def a_clip(clips: int = 2) -> Clip:
    return Clip(torch.rand(clips, 3, 4, 24, 24, generator=torch.Generator().manual_seed(1)))


def blocks(model: Model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Restored)]


def awake(model: nn.Module) -> nn.Module:
    """The same with blocks that do something."""
    for module in model.modules():
        if isinstance(module, Restoration):
            nn.init.normal_(module.restore.weight, generator=torch.Generator().manual_seed(2))
    return model


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 9), (5, 10, 15)])
def test_shapes_stay_and_the_new_block_is_the_identity(shape: tuple[int, int, int], depth: int) -> None:
    block, h = Restoration(5, depth), torch.rand(2, 5, *shape)
    assert torch.equal(block(h), h)
    changed = awake(block)(h)
    assert changed.shape == h.shape
    assert not torch.allclose(changed, h)
    assert torch.equal(Restoration(5, depth)(-h), torch.zeros_like(h)), "the outer ReLU is part of it"


def test_a_network_s_answers_stay_and_gradients_reach_both_branches() -> None:
    plain, clip = a_network(), a_clip()
    altered = Oud().apply(a_network()).eval()
    torch.testing.assert_close(altered(clip), plain(clip), rtol=0, atol=0)
    model = awake(altered)
    model(clip).square().sum().backward()
    (block,) = (m for m in model.modules() if isinstance(m, Restoration))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


def test_the_over_complete_branch_works_at_eight_times_the_size() -> None:
    block, sizes = Restoration(3, 1), []
    block.over.there[2].register_forward_hook(lambda module, inputs, output: sizes.append(output.shape))
    block.over.back[0].register_forward_hook(lambda module, inputs, output: sizes.append(output.shape))
    block.under.back[0].register_forward_hook(lambda module, inputs, output: sizes.append(output.shape))
    block(torch.rand(1, 3, 2, 7, 6))
    assert sizes == [(1, 64, 2, 28, 24), (1, 32, 2, 56, 48), (1, 8, 2, 3, 3)]


def test_no_biases_and_no_normalisation() -> None:
    block = Restoration(5, 2)
    assert all(m.bias is None for m in block.modules() if isinstance(m, nn.Conv3d))
    assert {type(m) for m in block.modules() if not list(m.children())} == {nn.Conv3d}


def test_where_it_is_put() -> None:
    assert blocks(Oud().apply(a_network())) == ["module.0"], "12 pixels wide; the next has 6"
    assert blocks(Oud(after="module.1").apply(a_network())) == ["module.1"]
    assert blocks(Oud(after=("module.1", "module.0.2")).apply(a_network())) == ["module.0.2", "module.1"]
    assert blocks(load_model("torchvision:r3d_18?size=112&frames=4&with=oud()")) == ["module.layer3"]


def test_every_expert_of_a_mixture_has_its_own() -> None:
    model = load_model("video_moe?experts=3&with=oud()")
    assert blocks(model) == [f"experts.{i}.module.5" for i in range(3)]
    clip, plain = Clip(torch.rand(2, 3, 16, 48, 48)), load_model("video_moe?experts=3")
    torch.testing.assert_close(model(clip), plain(clip))


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (Oud(after="module.7"), "Unknown module of this network: 'module.7'"),
        (Oud(after="module.4"), "returns no map"),
        (Oud(after="module.1", depth=3), "too small to be halved 3 times"),
    ],
)
def test_places_that_do_not_suit(configuration: Oud, message: str) -> None:
    with pytest.raises(InputError, match=message):
        configuration.apply(a_network())


def test_a_network_without_a_wide_map_needs_a_place() -> None:
    small = wrap(nn.Sequential(nn.Conv3d(3, 4, 3, 4), nn.Flatten(), nn.LazyLinear(3)), frames=4, size=24)
    small(a_clip())
    with pytest.raises(InputError, match="name one, after="):
        Oud().apply(small)


def test_a_gradient_twin_has_the_same_gradient() -> None:
    model, clip = awake(Oud().apply(a_network()).double()).eval(), a_clip(1)
    gradients = []
    for network in (model, gradient_twin(model, "fp32")):
        video = clip.video.double().requires_grad_()
        gradients.append(torch.autograd.grad(network(Clip(video)).square().sum(), video)[0])
    torch.testing.assert_close(*gradients)


def test_trying_it_out_leaves_no_trace() -> None:
    model = a_network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    Oud(after="module.1").apply(model)
    assert model.training
    assert torch.equal(model.state_dict()["module.0.1.running_mean"], before["module.0.1.running_mean"])
    assert not any(m._forward_hooks for m in model.modules())
