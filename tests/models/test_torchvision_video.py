from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights, list_models

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.models import load_model
from robustvideo.models.catalog import TORCHVISION

LEAST = {"s3d": (1, 14, 224), "mvit_v2_s": (1, 16, 224)}
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in LEAST]


def test_every_video_network_of_torchvision_is_known() -> None:
    import torchvision.models.video as video

    assert set(TORCHVISION) == set(list_models(module=video))


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "swin3d_t", *LARGE])
def test_untrained_networks(name: str) -> None:
    batch, frames, side = LEAST.get(name, (2, 4, 32))
    model = load_model(f"torchvision:{name}?classes=5")
    preset = get_model_weights(name).DEFAULT.transforms()
    clip = Clip(torch.rand(batch, 3, frames, side, side))
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (preset.mean, preset.std))
    with torch.no_grad():
        logits = model(clip)
        assert torch.allclose(logits, model.module((clip.video - mean) / std), atol=1e-5)
    assert logits.shape == (batch, 5)
    assert model.labels is None
    assert not model.training


def test_number_of_classes_comes_from_the_spec_then_the_data_then_kinetics() -> None:
    def classes(spec: str, num_classes: int | None) -> int:
        return load_model(spec, num_classes=num_classes).module.fc.out_features

    assert classes("torchvision:r3d_18?classes=5", 7) == 5
    assert classes("torchvision:r3d_18", 7) == 7
    assert classes("torchvision:r3d_18", None) == 400


def test_a_file_stands_in_for_the_download(tmp_path: Path) -> None:
    """The preprocessing and the class names are those of the weights, the numbers those of the file."""
    network = get_model("r3d_18")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    model = load_model(f"torchvision:r3d_18?weights=KINETICS400_V1&checkpoint={tmp_path / 'weights.pth'}")
    assert model.labels[:2] == ("abseiling", "air drumming")
    assert (model.frames, model.size) == (16, (112, 112))
    assert all(torch.equal(value, model.module.state_dict()[key]) for key, value in network.state_dict().items())
    with pytest.raises(InputError, match="set classes="):
        load_model(f"torchvision:r3d_18?classes=5&checkpoint={tmp_path / 'weights.pth'}")


@pytest.mark.parametrize(("name", "frames"), [("swin3d_t", 32), ("mvit_v2_s", 16), ("s3d", None), ("mc3_18", 16)])
def test_clips_are_those_the_weights_were_evaluated_on(name: str, frames: int | None, tmp_path: Path) -> None:
    torch.save(get_model(name).state_dict(), tmp_path / "weights.pth")
    model = load_model(f"torchvision:{name}?weights=DEFAULT&checkpoint={tmp_path / 'weights.pth'}")
    assert model.frames == frames
    assert model.size == ((112, 112) if name == "mc3_18" else (224, 224))
    assert len(model.labels) == 400


@pytest.fixture
def cached_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """torchvision's own cache, holding weights under the name and hash of the real ones."""
    import torch.hub

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    state = get_model("r3d_18").state_dict()
    torch.save(state, folder / Path(get_model_weights("r3d_18").DEFAULT.url).name)
    return state


def test_downloaded_weights_are_loaded(cached_weights: dict[str, torch.Tensor]) -> None:
    model = load_model("torchvision:r3d_18?weights=KINETICS400_V1")
    assert all(torch.equal(value, model.module.state_dict()[key]) for key, value in cached_weights.items())
    assert len(model.labels) == 400


def test_other_classes_put_a_new_layer_on_downloaded_weights(cached_weights: dict[str, torch.Tensor]) -> None:
    model = load_model("torchvision:r3d_18?weights=KINETICS400_V1&classes=6")
    own = model.module.state_dict()
    assert own["fc.weight"].shape == (6, 512)
    assert all(torch.equal(value, own[key]) for key, value in cached_weights.items() if not key.startswith("fc."))
    assert model.labels is None


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.hub

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match=r"cannot be downloaded .*: get https://\S+ elsewhere and add checkpoint="):
        load_model("torchvision:r3d_18?weights=KINETICS400_V1")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:r3d_19", "did you mean 'r3d_18'"),
        ("torchvision:r3d_18?weights=KINETICS400", "did you mean 'KINETICS400_V1'"),
        ("torchvision:r3d_18?clases=3", "did you mean 'classes'"),
        ("torchvision:r3d_18?classes=many", "valid integer"),
        ("torchvision:r3d_18?frames=0", "positive number, got 0"),
        ("torchvision:mvit_v2_s?frames=8", "16 frames of side 224 and no other"),
    ],
)
def test_specs_that_do_not_serve(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(spec)
