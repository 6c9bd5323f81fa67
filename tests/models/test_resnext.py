"""3-D ResNeXt: its shapes on a small variant, and the names of public checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import WrappedModel
from robustvideo.models import load_model
from robustvideo.models.resnext import Bottleneck, ResNeXt101

TINY = "resnext3d_101?blocks=[1,2,1,1]&classes=5&frames=4&size=32"


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dictionary by the names of kenshohara/3D-ResNets-PyTorch in 2018, written out by hand."""
    renamed = {}
    for name, tensor in state.items():
        plain = name.removeprefix("module.").replace("stem.", "").replace("branch.", "")
        if not plain.endswith("num_batches_tracked"):
            renamed["module." + plain] = tensor
    return renamed


@pytest.fixture(scope="module")
def tiny() -> WrappedModel:
    model = load_model(TINY, seed=1)
    assert isinstance(model, WrappedModel)
    return model


def test_shapes_of_the_stages(tiny: WrappedModel) -> None:
    shapes = {}
    for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
        module = tiny.module.get_submodule(name)
        module.register_forward_hook(lambda m, inputs, output, name=name: shapes.update({name: output.shape[1:]}))
    with torch.no_grad():
        tiny.module(torch.rand(1, 3, 16, 112, 112))
    assert shapes == {
        "stem": (64, 8, 56 // 2, 56 // 2),
        "layer1": (256, 8, 28, 28),
        "layer2": (512, 4, 14, 14),
        "layer3": (1024, 2, 7, 7),
        "layer4": (2048, 1, 4, 4),
    }
    for name in shapes:
        tiny.module.get_submodule(name)._forward_hooks.clear()


def test_it_has_101_layers_in_32_groups() -> None:
    with torch.device("meta"):
        network = ResNeXt101().build()
    convolutions = [m for n, m in network.named_modules() if isinstance(m, nn.Conv3d) and "downsample" not in n]
    assert len(convolutions) + 1 == 101
    assert {m.groups for m in convolutions if m.kernel_size == (3, 3, 3)} == {32}
    assert sum(isinstance(m, Bottleneck) for m in network.modules()) == 33
    assert sum(p.numel() for p in network.parameters()) == 48_340_816
    assert (network.frames, network.size) == (16, (112, 112))


def test_options_and_odd_clips(tiny: WrappedModel) -> None:
    clip = Clip(torch.rand(2, 3, 7, 30, 41))
    assert tiny(clip).shape == (2, 5)
    assert load_model("resnext3d_101?blocks=[1,1,1,1]&frames=2&size=16", num_classes=3)(clip).shape == (2, 3)
    for bad in ("blocks=[1,2]", "blocks=[0,1,1,1]", "classes=1", "size=8"):
        with pytest.raises(InputError, match="resnext3d_101"):
            load_model(f"resnext3d_101?{bad}")


def test_pixels_are_normalised_as_in_the_release(tiny: WrappedModel) -> None:
    video = torch.tensor([114.7748, 107.7354, 99.4750]).view(1, 3, 1, 1, 1).expand(1, 3, 4, 32, 32) / 255
    assert float(tiny.prepare(video).abs().max()) < 1e-3
    torch.testing.assert_close(tiny.prepare(video + 1 / 255), torch.ones(1, 3, 4, 32, 32), rtol=1e-3, atol=1e-3)


def test_public_names_load(tiny: WrappedModel, tmp_path: Path) -> None:
    state = published(tiny.state_dict())
    assert {
        "module.conv1.weight",
        "module.bn1.running_var",
        "module.layer1.0.conv2.weight",
        "module.layer2.1.bn3.bias",
        "module.layer2.0.downsample.0.weight",
        "module.layer2.0.downsample.1.running_mean",
        "module.fc.weight",
    } <= state.keys()
    path = tmp_path / "resnext.pth"
    torch.save({"arch": "resnext-101", "epoch": 3, "state_dict": state}, path)
    loaded = load_model(f"{TINY}&checkpoint={path}", seed=2)
    clip = Clip(torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(loaded(clip), tiny(clip), rtol=0, atol=0)


def test_its_own_names_load_too(tiny: WrappedModel, tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    state = tiny.state_dict()
    torch.save(state, path)
    loaded = load_model(f"{TINY}&checkpoint={path}", seed=2).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_another_network_s_checkpoint_is_refused(tiny: WrappedModel, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    state = published(tiny.state_dict())
    torch.save({key: value for key, value in state.items() if "layer4" not in key}, path)
    with pytest.raises(InputError, match="is of another network"):
        load_model(f"{TINY}&checkpoint={path}")
