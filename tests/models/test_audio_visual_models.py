"""Audio-visual networks: what each step's features depend on, and what becomes of odd sound."""

from __future__ import annotations

import math
from urllib.parse import urlencode

import pytest
import torch

from robustvideo.attacks import FGSM, PGD, TMA
from robustvideo.attacks.attack import judge
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Featurised, at_rest, classify
from robustvideo.models import load_model
from robustvideo.models.audio_visual import AudioVisualModel, windows_of
from robustvideo.models.backbones import NAMES
from robustvideo.models.catalog import networks
from robustvideo.threat import AudioVisual, Linf

PAPER = ["AcR", "AcV", "AsR", "AsV", "RcR", "RcV", "RsR", "RsV"]
SMALL = {"size": 16, "features": 6, "rate": 8000, "n_fft": 64, "hop": 32, "mels": 8, "steps": 4}


def small(**changes: object) -> AudioVisualModel:
    options = {"visual": "resnet_small", "audio": "vgg_small", **SMALL, **changes}
    model = load_model(f"audio_visual?{urlencode(options)}", num_classes=3)
    assert isinstance(model, AudioVisualModel)
    return model.double()


def a_clip(frames: int = 4, samples: int = 2000, rate: int = 8000, channels: int = 1, side: int = 16) -> Clip:
    random = torch.Generator().manual_seed(5)
    video = torch.rand(2, 3, frames, side, side, generator=random, dtype=torch.float64)
    sound = 0.2 * torch.randn(2, channels, samples, generator=random, dtype=torch.float64)
    return Clip(video, sound, rate)


def test_the_papers_eight_models_go_by_its_names() -> None:
    names = [n for n in networks.entries() if len(n) == 3 and n[1] in "cs" and n[0] in "AR" and n[2] in "VR"]
    assert names == PAPER
    layers = {}
    for name in PAPER:
        model = load_model(f"{name}?scale=small", num_classes=8)
        assert isinstance(model, AudioVisualModel)
        assert isinstance(model, Featurised)
        assert model.fusion == {"c": "concat", "s": "sum"}[name[1]]
        layers[name] = (len(list(model.visual.modules())), len(list(model.audio.modules())))
        assert classify(model, a_clip(16, 8000, side=48).to(dtype=torch.float32)).shape == (2, 8)
    for fusion in "cs":
        assert layers[f"A{fusion}V"][0] == layers[f"A{fusion}R"][0] != layers[f"R{fusion}R"][0]
        assert layers[f"A{fusion}V"][1] == layers[f"R{fusion}V"][1] != layers[f"R{fusion}R"][1]


def test_the_full_models_are_torchvisions() -> None:
    model = load_model("AcV", num_classes=5)
    assert isinstance(model, AudioVisualModel)
    assert (model.frames, model.size, model.sample_rate, model.fused_size) == (8, (224, 224), 16000, 1024)
    counts = [sum(p.numel() for p in part.layers.parameters()) for part in (model.visual, model.audio)]  # type: ignore[union-attr]
    assert counts[0] == 2_469_696  # AlexNet without its classifier
    assert counts[1] == 9_225_984 - 2 * 64 * 9  # VGG-11 with batch norm, one input channel instead of three


@pytest.mark.parametrize("name", NAMES)
def test_any_backbone_takes_pictures_that_are_small_for_it(name: str) -> None:
    model = small(visual=name, audio=name, size=20)
    assert classify(model, a_clip(4, 400)).isfinite().all()


@pytest.mark.parametrize("span", [1, 2])
def test_a_step_depends_on_its_own_frames_and_window_alone(span: int) -> None:
    model = small(span=span)
    clip = a_clip(4 * span)
    assert clip.audio is not None
    before = model.features(clip)
    video, audio = clip.video.clone(), clip.audio.clone()
    video[:, :, 2 * span] += 0.1
    audio[:, :, 500:1000] += 0.1
    after = model.features(Clip(video, audio, 8000))
    changed = {m: [(before[m][:, t] != after[m][:, t]).any().item() for t in range(4)] for m in before}
    assert changed == {"video": [False, False, True, False], "audio": [False, True, False, False]}


def test_the_order_of_steps_does_not_matter() -> None:
    model, clip = small(), a_clip()
    assert clip.audio is not None
    order = [2, 0, 3, 1]
    windows = windows_of(clip.audio[:, 0], 4)[:, order].flatten(1)[:, None]
    shuffled = Clip(clip.video[:, :, order], windows, 8000)
    torch.testing.assert_close(model(shuffled), model(clip))


def test_fewer_frames_are_fewer_steps_and_more_are_sampled() -> None:
    model = small()
    for frames, steps in ((1, 1), (3, 3), (4, 4), (9, 4)):
        features = model.features(a_clip(frames, 900))
        assert [tuple(f.shape) for f in features.values()] == [(2, steps, 6)] * 2
    spanned = small(span=2)
    assert [spanned.features(a_clip(f))["video"].shape[1] for f in (1, 2, 3, 5, 8, 20)] == [1, 1, 1, 2, 4, 4]


def test_sum_and_concat_by_hand() -> None:
    clip = a_clip()
    model = small(fusion="sum")
    features = model.features(clip)
    seen, heard = features["video"].mean(1), features["audio"].mean(1)
    torch.testing.assert_close(model(clip), model.head(seen + heard))
    alone = {"video": features["video"], "audio": torch.zeros_like(features["audio"])}
    assert torch.equal(model.fuse(alone), model.head(seen))
    model = small(fusion="concat")
    features = model.features(clip)
    both = torch.cat([features["video"].mean(1), features["audio"].mean(1)], 1)
    torch.testing.assert_close(model(clip), model.head(both))


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_dropping_neurons_and_weights_of_the_fusion_layer(fusion: str) -> None:
    model, clip = small(fusion=fusion), a_clip()
    features = model.features(clip)
    keep = (torch.rand(2, model.fused_size) < 0.5).double() * 2
    expected = (model.join(features) * keep) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model.fuse(features, keep), expected)
    spread = keep[:, None].expand(-1, 3, -1)  # dropping a neuron is dropping all of its weights
    torch.testing.assert_close(model.fuse(features, spread), expected)


def test_a_clip_without_sound_is_heard_as_silence() -> None:
    model = small()
    clip = a_clip()
    silent = Clip(clip.video, torch.zeros(2, 1, 4 * 1000, dtype=torch.float64), 8000)  # 1/8 second per frame
    assert torch.equal(model(Clip(clip.video)), model(silent))
    assert torch.equal(model(Clip(clip.video, torch.zeros(2, 1, 0, dtype=torch.float64), 8000)), model(silent))
    assert not torch.allclose(model(clip), model(silent))


def test_silence_has_a_finite_gradient() -> None:
    model = small()
    silent = torch.zeros(2, 1, 2000, dtype=torch.float64, requires_grad=True)
    model(Clip(a_clip().video, silent, 8000)).sum().backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all()


def tone(rate: int, seconds: float = 0.5) -> torch.Tensor:
    time = torch.arange(round(rate * seconds), dtype=torch.float64) / rate
    return 0.3 * torch.sin(2 * math.pi * 600 * time) + 0.2 * torch.sin(2 * math.pi * 1500 * time)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
def test_sound_of_any_rate_is_heard_alike(rate: int) -> None:
    model = small()
    video = a_clip().video

    def heard(at: int) -> torch.Tensor:
        return model.features(Clip(video, tone(at).expand(2, 1, -1), at))["audio"]

    reference = heard(8000)
    assert (heard(rate) - reference).abs().max() < 0.1 * reference.abs().max()


def test_stereo_is_mixed_down_and_both_channels_can_be_attacked() -> None:
    model, clip = small(), a_clip(channels=2)
    assert clip.audio is not None
    mono = Clip(clip.video, clip.audio.mean(1, keepdim=True), 8000)
    torch.testing.assert_close(model(clip), model(mono))
    result = FGSM(Linf(0.01, modality="audio"), early_stop=False)(model, clip, torch.tensor([0, 1]))
    assert result.clip.audio is not None
    assert ((result.clip.audio - clip.audio).abs().amax(2) > 0.009).all()
    assert torch.equal(result.clip.video, clip.video)


def test_sound_shorter_than_its_steps_is_followed_by_silence() -> None:
    assert windows_of(torch.ones(1, 3), 4).tolist() == [[[1.0], [1.0], [1.0], [0.0]]]
    assert windows_of(torch.arange(11.0)[None], 3).tolist() == [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]
    assert small()(Clip(a_clip().video, torch.full((2, 1, 2), 0.1, dtype=torch.float64), 8000)).isfinite().all()


def test_grey_clips_and_half_precision() -> None:
    model = small().float()
    clip = a_clip().to(dtype=torch.float32)
    grey = Clip(clip.video[:, :1], clip.audio, 8000)
    assert torch.equal(model(grey), model(Clip(clip.video[:, :1].expand(-1, 3, -1, -1, -1), clip.audio, 8000)))
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(clip).float() - model(clip)).abs().max() < 1
        spectrogram = model.spectrogram(clip.audio[:, 0], 8000)  # type: ignore[index]
    assert spectrogram.dtype == torch.float32


def test_clips_without_a_track_are_attacked_in_the_picture_alone() -> None:
    model, clip = small(), a_clip()
    attack = TMA(AudioVisual(audio=0), steps=2, copies=2, early_stop=False)
    result = attack(model, Clip(clip.video), torch.tensor([0, 1]))
    assert result.clip.audio is None
    assert ((result.clip.video - clip.video).abs() * 255).max() > 7.9


def test_exact_silence_has_no_gradient_but_a_random_start_leaves_it() -> None:
    model = small()
    clip = Clip(a_clip().video, torch.zeros(2, 1, 2000, dtype=torch.float64), 8000)
    labels = torch.tensor([0, 1])
    assert not FGSM(AudioVisual(), early_stop=False)(model, clip, labels).clip.signal("audio").any()
    found = PGD(AudioVisual(0, 0.012), steps=4, early_stop=False)(model, clip, labels)
    at_the_bound = (found.clip.signal("audio").abs() * 32768).round() == int(0.012 * 32768)
    assert (at_the_bound.double().mean((1, 2)) > 0.1).all()  # a random start alone has hardly any


def classify_margin(model: AudioVisualModel, clip: Clip, labels: torch.Tensor) -> torch.Tensor:
    with at_rest(model):
        return judge(model, clip, labels).margin


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_gradients_in_low_precision_point_the_same_way(precision: str) -> None:
    model, clip = small().float(), a_clip().to(dtype=torch.float32)
    attack = TMA(precision=precision, steps=4, copies=2, lam1=0, lam2=0, early_stop=False)  # type: ignore[arg-type]
    result = attack(model, clip, torch.tensor([0, 1]))
    assert (result.margin > classify_margin(model, clip, torch.tensor([0, 1]))).all()
    assert result.loss_trace.isfinite().all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("audio_visual?visual=resnet19", "Unknown backbone 'resnet19': did you mean 'resnet18'"),
        ("audio_visual?fusion=max", "fusion"),
        ("audio_visual?steps=1", "steps= of an audio-visual model is at least 2"),
        ("audio_visual?mels=500", "more than 512 Fourier points"),
        ("AcV?scale=tiny", "scale"),
    ],
)
def test_mistakes_are_named(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(spec, num_classes=3)
