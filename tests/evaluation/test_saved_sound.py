"""An adversarial clip with sound, written to one file and decoded again, has the verdict that was recorded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from robustvideo.attacks import FGSM, load_attack
from robustvideo.attacks.attack import judge
from robustvideo.clip import Clip
from robustvideo.data.kinetic import Kinetic
from robustvideo.data.video_file import read_lossless, write_lossless
from robustvideo.distances import relative_loudness, signal_to_noise
from robustvideo.evaluation import evaluate
from robustvideo.evaluation.records import CLEAN
from robustvideo.evaluation.rows import attacked, under, undisturbed
from robustvideo.model import Model, at_rest
from robustvideo.models import load_model
from robustvideo.threat import AudioVisual

MODEL = "audio_visual?visual=resnet_small&audio=vgg_small&size=16&features=6&rate=8000&n_fft=64&hop=32&mels=8&steps=4"


def model(classes: int = 8) -> Model:
    return load_model(MODEL, num_classes=classes, seed=3)


@pytest.mark.parametrize("spec", ["fgsm", "tma(steps=2, copies=2, early_stop=false)", "tma_segments(steps=2)"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2)])
def test_a_decoded_file_gives_the_recorded_verdict(tmp_path: Path, spec: str, rate: int, channels: int) -> None:
    random = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (2, 3, 8, 16, 16), generator=random).float() / 255
    audio = torch.randint(-32768, 32768, (2, channels, 900), generator=random).float() / 32768
    network, clip, labels = model(), Clip(video, audio, rate), torch.tensor([1, 2])
    threat = "threat=audio_visual(eps=8/255, audio=0.012)"
    attack = load_attack(f"{spec.removesuffix(')')}, {threat})" if "(" in spec else f"{spec}({threat})")
    result = attack(network, clip, labels)
    limit = int(0.012 * 32768) / 32768  # the budget on the 16-bit grid
    assert result.clip.audio is not None
    assert (result.clip.audio - audio).abs().max() <= limit
    assert result.clip.audio.max() <= 32767 / 32768  # +1.0 does not exist in a file
    for row in range(2):
        path = tmp_path / f"{row}.mkv"
        write_lossless(path, result.clip.select([row]), fps=8)
        decoded = read_lossless(path)
        assert torch.equal(decoded.video, result.clip.video[row : row + 1])
        assert torch.equal(decoded.signal("audio"), result.clip.audio[row : row + 1])
        assert decoded.sample_rate == rate
        with at_rest(network):
            again = judge(network, decoded, labels[row : row + 1])
            alone = judge(network, result.clip.select([row]), labels[row : row + 1])
        assert torch.equal(again.logits, alone.logits)
        assert again.success.tolist() == result.success[row : row + 1].tolist()


def test_a_run_saves_sound_and_the_files_say_what_the_records_say(tmp_path: Path) -> None:
    data = Kinetic(split="test", clips=8, audio=True)
    network = model()
    run = evaluate(network, data, [FGSM(AudioVisual())], out=tmp_path / "run", save_clips=8, quiet=True)
    saved = [r for r in run.records() if r.clip_file]
    for record in saved:
        decoded = read_lossless(run.path / record.clip_file)
        assert decoded.audio is not None
        clean = data.clip(int(record.sample_id.rpartition("-")[2])).signal("audio")
        assert record.audio_snr_db == pytest.approx(float(signal_to_noise(clean, decoded.audio)))
        assert record.audio_relative_db == pytest.approx(float(relative_loudness(clean, decoded.audio)))
        assert 0 < record.audio_snr_db < 40
        with at_rest(network):
            verdict = judge(network, decoded, torch.tensor([record.label]))
        assert int(verdict.logits.argmax()) == record.adversarial_prediction
    assert saved
    assert all(r.audio_snr_db is None and r.audio_relative_db is None for r in run.records() if r.attack == CLEAN)


def test_sound_that_is_not_changed_is_not_loud(tmp_path: Path) -> None:
    threats = [AudioVisual(audio=0), AudioVisual(eps=0)]
    for audio in (True, False):
        data = Kinetic(split="test", clips=8, audio=audio)
        attacks = [FGSM(threat) for threat in (threats if audio else threats[:1])]
        rows = evaluate(model(), data, attacks, out=tmp_path / str(audio), quiet=True).records()
        for row in rows:
            heard = row.threat == "audio_visual(eps=0)" and row.forward_passes > 0
            assert (row.audio_snr_db is not None) == (row.audio_relative_db is not None) == heard
        assert any(row.audio_snr_db is not None for row in rows) == audio


def test_over_silence_every_change_is_infinitely_loud() -> None:
    video, silence = torch.rand(2, 3, 8, 16, 16), torch.zeros(2, 1, 900)
    clip, labels = Clip((video * 255).round() / 255, silence, 8000), torch.tensor([1, 2])
    network = model()
    with at_rest(network):
        before = judge(network, clip, labels)
    attack = load_attack("pgd(threat=audio_visual(), steps=1, early_stop=false)")  # its start is random
    rows = [under(attack, undisturbed(before, row, row + 1, "0", "none")) for row in range(2)]
    found = attacked(rows, clip, attack(network, clip, labels), 0.0)
    assert [(r.audio_snr_db, r.audio_relative_db) for r in found] == [(-math.inf, math.inf)] * 2
