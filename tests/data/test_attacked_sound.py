"""`robustvideo attack` on files with sound: every rate, stereo, sound that ends early, and files that have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from films import film

from robustvideo.cli.attack import attack
from robustvideo.clip import Clip
from robustvideo.data.video_file import read_lossless
from robustvideo.errors import InputError

MODEL = "audio_visual?visual=resnet_small&audio=vgg_small&size=16&features=6&rate=8000&n_fft=64&hop=32&mels=8&steps=4"
FRAMES, FPS = 8, 10
TRACKS = {
    "8 kHz": (8000, 1, 0.8),
    "44.1 kHz": (44100, 1, 0.8),
    "stereo": (44100, 2, 0.8),
    "short": (16000, 1, 0.3),
    "silent": (16000, 1, 0.0),
}
BUDGETS = {"picture": (4 / 255, 0.0), "sound": (0.0, 0.01), "both": (4 / 255, 0.01)}


def written(folder: Path, track: tuple[int, int, float] | None) -> tuple[Path, torch.Tensor, torch.Tensor | None]:
    """A file, its pixels and its sound for as long as the picture lasts."""
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(FRAMES)]
    sound = None
    if track is not None:
        rate, channels, seconds = track
        sound = np.zeros((channels, round(rate * FRAMES / FPS)), np.int16)
        heard = round(rate * seconds)
        sound[:, :heard] = random.integers(-9000, 9000, (channels, heard))
        stored = sound[:, :heard] if heard > 0 else sound
        path = film(folder / "in.mkv", frames, fps=FPS, sound=stored, rate=rate)
    else:
        path = film(folder / "in.mkv", frames, fps=FPS)
    video = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None].float() / 255
    return path, video, None if sound is None else torch.from_numpy(sound)[None].float() / 32768


def attacked(folder: Path, path: Path, eps: float, audio: float) -> Clip:
    out = folder / "out.mkv"
    spec = f"pgd(threat=audio_visual(eps={eps}, audio={audio}), steps=2, early_stop=false)"
    attack(path, model=MODEL, out=out, attack=spec, defense=None, label="3", device="cpu")
    return read_lossless(out)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", TRACKS)
def test_a_file_keeps_what_has_no_budget_and_changes_within_the_others(name: str, budget: str, tmp_path: Path) -> None:
    path, video, sound = written(tmp_path, TRACKS[name])
    eps, audio = BUDGETS[budget]
    found = attacked(tmp_path, path, eps, audio)
    assert sound is not None
    assert found.sample_rate == TRACKS[name][0]
    assert found.signal("audio").shape == sound.shape
    for clean, adversarial, limit, grid in (
        (video, found.video, eps, 255),
        (sound, found.signal("audio"), audio, 32768),
    ):
        change = ((adversarial - clean) * grid).round().abs()
        assert float(change.max()) <= int(limit * grid + 1e-6)
        assert bool((change > 0).any()) == (limit > 0)  # PGD's random start leaves silence, which has no gradient
    if TRACKS[name][1] == 2 and audio > 0:
        left, right = found.signal("audio")[0] - sound[0]
        assert not torch.equal(left, right)


def test_a_file_without_a_track_is_attacked_in_the_picture_alone(tmp_path: Path) -> None:
    path, video, _ = written(tmp_path, None)
    found = attacked(tmp_path, path, 4 / 255, 0)
    assert found.audio is None
    assert 0 < float((found.video - video).abs().max()) <= 4 / 255 + 1e-6
    with pytest.raises(InputError, match="audio"):
        attacked(tmp_path, path, 4 / 255, 0.01)
