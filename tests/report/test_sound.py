"""Sound on the page: what is heard, what is seen, and the numbers beside it."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from synthetic_run import make_run

from robustvideo.clip import Clip
from robustvideo.data.video_file import read_lossless, write_lossless
from robustvideo.distances import relative_loudness, signal_to_noise
from robustvideo.evaluation.records import CLEAN, read_records, write_shard
from robustvideo.report import build_report
from robustvideo.report.clips import choose, load_preview
from robustvideo.report.series import load_series
from robustvideo.report.sound import encoded, make_sound_preview, spectrograms


def tone(rate: int, pitch: float = 440.0, seconds: float = 1.0, channels: int = 1) -> torch.Tensor:
    time = torch.arange(round(rate * seconds)) / rate
    return (0.5 * torch.sin(2 * math.pi * pitch * time)).expand(channels, -1).clone()


def heard(content: bytes) -> tuple[np.ndarray, int]:
    with av.open(io.BytesIO(content)) as container:
        frames = list(container.decode(audio=0))
    return np.concatenate([f.to_ndarray() for f in frames], axis=1), frames[0].sample_rate


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (10000, 1), (16000, 2), (44100, 1), (48000, 2)])
def test_a_track_can_be_played_and_is_small(rate: int, channels: int) -> None:
    content = encoded(tone(rate, seconds=2.0, channels=channels), rate)
    assert len(content) < 2 * 48_000 / 8 * channels * 1.5 + 4000
    sound, found = heard(content)
    assert found == (rate if rate != 10000 else 48000)
    assert len(sound) == channels
    assert abs(sound.shape[1] / found - 2.0) < 0.3
    spectrum = np.abs(np.fft.rfft(sound[0][found // 2 : found // 2 + found]))
    assert abs(int(spectrum.argmax()) - 440) <= 2
    assert encoded(tone(rate, seconds=2.0, channels=channels), rate) == content


def test_a_tone_is_a_line_at_its_height() -> None:
    low, high = spectrograms([tone(8000, 1000.0)[0], tone(8000, 3000.0)[0]])
    assert low.shape == (3, 112, 360)
    assert abs(int(low.sum(0)[:, 100:260].mean(1).argmax()) - 112 * 0.75) <= 2  # 1 of 4 kHz from the bottom
    assert abs(int(high.sum(0)[:, 100:260].mean(1).argmax()) - 112 * 0.25) <= 2


@pytest.mark.parametrize("samples", [1, 100, 5000])
def test_short_tracks_and_silence_have_a_picture(samples: int) -> None:
    assert all(p.isfinite().all() for p in spectrograms([torch.zeros(samples)] * 2))
    assert make_sound_preview(torch.zeros(1, samples), torch.zeros(1, samples), 8000).signal_to_noise == math.inf


def test_loudness_by_hand() -> None:
    clean = torch.tensor([[[0.5, -0.5]], [[0.1, 0.0]], [[0.0, 0.0]], [[0.2, 0.2]]])
    changed = clean + torch.tensor([[[0.05, 0.05]], [[0.01, 0.0]], [[0.1, 0.0]], [[0.0, 0.0]]])
    assert signal_to_noise(clean, changed).tolist() == pytest.approx([20.0, 20.0, -math.inf, math.inf], abs=1e-4)
    assert relative_loudness(clean, changed).tolist() == pytest.approx([-20.0, -20.0, math.inf, -math.inf], abs=1e-4)


def with_sound(run: Path) -> None:
    """Give every saved clip of a run a sound track."""
    for folder in (run / "clips").iterdir():
        for number, path in enumerate(sorted(folder.glob("*.mkv"))):
            clip = read_lossless(path)
            sound = (tone(8000, seconds=0.5) * 16384).round() / 32768
            if path.stem != "clean":
                sound = sound + (number + 1) * 16 / 32768
            write_lossless(path, Clip(clip.video, sound[None], 8000), fps=24)


def test_the_table_tells_how_loud_the_sound_s_change_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", saved=0, levels=(8,))
    heading = "Sound <small>SNR, dB</small>"
    assert heading not in build_report([run], tmp_path / "silent.html").read_text(encoding="utf-8")
    louder = [replace(r, audio_snr_db=None if r.attack == CLEAN else 23.4) for r in read_records(run)]
    write_shard(run / "records" / "0000000-000.parquet", louder)
    content = build_report([run], tmp_path / "sounding.html").read_text(encoding="utf-8")
    assert content.count(heading) == 1
    fooled = {r.attack for r in louder if r.success and r.clean_prediction == r.label}
    assert content.count('<td class="n">23.4</td>') == len(fooled)


def test_the_page_plays_both_tracks_and_tells_the_ratio(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", saved=2, levels=(8,))
    silent = build_report([run], tmp_path / "silent.html").read_text(encoding="utf-8")
    assert "<audio" not in silent
    with_sound(run)
    (series,) = load_series([run])
    record = choose(series, None, 1)[0]
    preview = load_preview(run, record)
    assert preview.sound is not None
    assert 15 < preview.sound.signal_to_noise < 60
    assert preview.sound.seconds == 0.5
    content = build_report([run], tmp_path / "sounding.html").read_text(encoding="utf-8")
    shown = content.count('<figure class="sound">')
    assert shown > 0
    assert content.count("<audio controls") == 2 * shown
    assert content.count("Signal-to-noise ratio") == shown
    assert "media-src blob: data:" in content
    assert (len(content) - len(silent)) / shown < 60_000
