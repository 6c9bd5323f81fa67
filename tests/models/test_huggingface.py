"""Every family of Hugging Face video classifiers, tiny, saved and loaded as a user would."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import device_of
from robustvideo.models import load_model

transformers = pytest.importorskip("transformers")

SIZE, FRAMES, CLASSES = 32, 4, 5
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_labels": CLASSES,
    "id2label": {i: f"class {i}" for i in range(CLASSES)},
}
PATCHES = {"image_size": SIZE, "num_frames": FRAMES, "intermediate_size": 64}
CONFIGURATIONS = {
    "videomae": partial(transformers.VideoMAEConfig, patch_size=8, tubelet_size=2, **PATCHES, **SMALL),
    "timesformer": partial(transformers.TimesformerConfig, patch_size=8, **PATCHES, **SMALL),
    "vivit": partial(transformers.VivitConfig, tubelet_size=[2, 8, 8], **PATCHES, **SMALL),
    "vjepa2": partial(
        transformers.VJEPA2Config,
        crop_size=SIZE,
        patch_size=8,
        frames_per_clip=FRAMES,
        tubelet_size=2,
        mlp_ratio=2,
        pred_hidden_size=32,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        num_pooler_layers=1,
        **SMALL,
    ),
}
PROCESSORS = [
    ("videomae", "VideoMAEImageProcessor"),
    ("videomae", "VideoMAEVideoProcessor"),
    ("timesformer", "VideoMAEImageProcessor"),
    ("vivit", "VivitImageProcessor"),
    ("vivit", "VivitVideoProcessor"),
    ("vjepa2", "VJEPA2VideoProcessor"),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def save(folder: Path, family: str, processor: str | None, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Save a network, as it is after some training, and its processor; returns both."""
    classifier = transformers.AutoModelForVideoClassification.from_config(CONFIGURATIONS[family](**changes))
    for parameter in classifier.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    classifier = classifier.eval().to(dtype)
    classifier.save_pretrained(folder)
    if processor is None:
        return classifier, None
    extent = {"height": SIZE, "width": SIZE}
    changes = {"crop_size": extent, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    made = getattr(transformers, processor)(**changes)
    made.save_pretrained(folder)
    return classifier, made


def eight_bit_clip() -> Clip:
    return Clip(torch.randint(0, 256, (2, 3, FRAMES, SIZE, SIZE)) / 255)


def processed(processor: Any, clip: Clip) -> Tensor:
    """The same clip through the processor's own code, from 8-bit frames, without resizing."""
    videos = []
    for video in (clip.video * 255).round().to(torch.uint8):
        frames = list(video.permute(1, 2, 3, 0).numpy())
        given = processor(frames, do_resize=False, do_center_crop=False, return_tensors="pt")
        videos.append(given["pixel_values"] if "pixel_values" in given else given["pixel_values_videos"])
    return torch.cat(videos)


@pytest.mark.parametrize(("family", "processor"), [p for p in PROCESSORS if hasattr(transformers, p[1])])
def test_logits_are_those_of_the_plain_network_after_its_own_processor(
    tmp_path: Path, family: str, processor: str
) -> None:
    classifier, processing = save(tmp_path, family, processor)
    model = load_model(f"hf:{tmp_path}")
    clip = eight_bit_clip()
    pixels = processed(processing, clip)
    assert torch.allclose(model.prepare(clip.video), pixels, atol=1e-5)
    with torch.no_grad():
        expected = classifier(pixels).logits
        assert expected.std(0).max() > 1e-3, "the clips must differ for this to mean anything"
        assert torch.allclose(model(clip), expected, atol=1e-4)
    assert (model.frames, model.size) == (FRAMES, (SIZE, SIZE))
    assert model.labels == tuple(f"class {i}" for i in range(CLASSES))
    assert not model.training


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_gradients_reach_every_frame(tmp_path: Path, family: str) -> None:
    save(tmp_path, family, dict(PROCESSORS)[family])
    model = load_model(f"hf:{tmp_path}")
    clip = eight_bit_clip()
    video = clip.video.requires_grad_()
    gradient = torch.autograd.grad(model(Clip(video))[:, 0].sum(), video)[0]
    assert gradient.isfinite().all()
    assert (gradient.abs().amax((1, 3, 4)) > 0).all()
    step = torch.randn(video.shape) * 1e-3
    with torch.no_grad():
        change = model(Clip(video + step))[:, 0] - model(Clip(video - step))[:, 0]
    assert torch.allclose(change, 2 * (gradient * step).sum((1, 2, 3, 4)), rtol=0.05, atol=1e-4)


def test_half_precision_weights_give_single_precision_verdicts(tmp_path: Path) -> None:
    save(tmp_path, "videomae", "VideoMAEImageProcessor", dtype=torch.bfloat16)
    model = load_model(f"hf:{tmp_path}")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(eight_bit_clip()).dtype == torch.float32


def test_own_classes_and_own_weights(tmp_path: Path) -> None:
    classifier, _ = save(tmp_path, "videomae", "VideoMAEImageProcessor")
    changed = load_model(f"hf:{tmp_path}?classes=3")
    assert changed(eight_bit_clip()).shape == (2, 3)
    assert changed.labels is None
    own = changed.module.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in classifier.state_dict().items() if not k.startswith("classifier."))
    state = {key: torch.zeros_like(value) for key, value in classifier.state_dict().items()}
    torch.save(state, tmp_path / "own.pt")
    assert not load_model(f"hf:{tmp_path}?checkpoint={tmp_path / 'own.pt'}")(eight_bit_clip()).any()


def test_generic_labels_are_no_labels(tmp_path: Path) -> None:
    save(tmp_path, "timesformer", "VideoMAEImageProcessor", id2label={i: f"LABEL_{i}" for i in range(CLASSES)})
    assert load_model(f"hf:{tmp_path}").labels is None


def test_without_a_processor_nothing_is_guessed(tmp_path: Path) -> None:
    save(tmp_path, "videomae", None)
    with pytest.raises(InputError, match=r"does not say how to normalise .* preprocessor_config\.json"):
        load_model(f"hf:{tmp_path}")


def test_an_untrained_head_is_no_classifier(tmp_path: Path) -> None:
    classifier, _ = save(tmp_path, "videomae", "VideoMAEImageProcessor")
    classifier.videomae.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is not a trained classifier: it has no 'classifier"):
        load_model(f"hf:{tmp_path}")
    assert device_of(load_model(f"hf:{tmp_path}?classes=4")).type == "cpu"


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    classifier, _ = save(tmp_path, "videomae", "VideoMAEImageProcessor")
    (tmp_path / "model.safetensors").unlink()
    torch.save(classifier.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(f"hf:{tmp_path}")


def test_other_networks_and_places_that_do_not_exist(tmp_path: Path) -> None:
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    for spec in (f"hf:{tmp_path}", "hf:nobody/nothing-of-the-kind"):
        with pytest.raises(InputError, match=f"The video classifier {spec} cannot be loaded"):
            load_model(spec)
    with pytest.raises(InputError, match="There is no folder"):
        load_model(f"hf:{tmp_path}/nowhere")
    with pytest.raises(InputError, match="did you mean 'classes'"):
        load_model(f"hf:{tmp_path}?clases=3")
