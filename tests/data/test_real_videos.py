"""Real files: the UCF and UT-Interaction clips and the surveillance clips with sound."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from robustvideo.data import load_data
from robustvideo.data.decode import decode_frames, probe
from robustvideo.data.picture import Picture

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = [pytest.mark.shared, pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is missing")]


def test_all_ucf_clips_load() -> None:
    data = load_data(f"manifest:{SHARED}/ucf.csv?frames=20&size=128")
    assert len(data) == 8
    assert data.labels == ("Biking", "Diving")
    clips = [data.clip(i).video for i in range(8)]
    assert {c.shape for c in clips} == {(1, 3, 20, 128, 128)}
    for video in clips:
        assert 0.05 < video.mean() < 0.95
        assert (video[:, :, 1:] - video[:, :, :-1]).abs().amax((0, 1, 3, 4)).min() > 0  # no frame twice


def test_the_true_number_of_frames_is_found() -> None:
    """AVI headers of this set promise up to two frames more than there are, and its stamps do not rise."""
    with (SHARED / "ut_interaction.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == "test"][::6]
    for row in rows:
        facts = probe(SHARED / row["path"])
        assert (facts.frames, facts.width, facts.height) == tuple(int(row[c]) for c in ("frames", "width", "height"))
        assert facts.fps == pytest.approx(float(row["fps"]), rel=1e-3)


def test_every_frame_of_a_file_with_disordered_stamps_comes_once_and_in_order() -> None:
    path = SHARED / "ut_interaction/handshake/set1_17_3_0.avi"
    video = decode_frames(path, lambda t: range(len(t)), Picture(32)).video.float()
    steps = (video[:, 1:] - video[:, :-1]).abs().mean((0, 2, 3))
    skips = (video[:, 2:] - video[:, :-2]).abs().mean((0, 2, 3))
    assert video.shape[1] == 121
    assert steps.mean() < skips.mean()


def test_the_six_classes_of_ut_interaction() -> None:
    data = load_data(
        f"manifest:{SHARED}/ut_interaction.csv?frames=16&stride=3&size=64&split=test&exclude=no_interaction"
    )
    assert data.labels == ("handshake", "hug", "kick", "point", "punch", "push")
    assert len(data) == 24
    assert [s.label for s in data.samples].count(0) == 4
    clip = data.clip(0)
    assert clip.video.shape == (1, 3, 16, 64, 64)
    assert torch.equal((clip.video * 255).round() / 255, clip.video)


def test_real_sound_is_as_loud_as_measured() -> None:
    with (SHARED / "surv_fight.csv").open() as handle:
        rows = {Path(row["path"]).with_suffix("").as_posix(): row for row in csv.DictReader(handle)}
    data = load_data(f"manifest:{SHARED}/surv_fight.csv?frames=8&size=32&split=test&audio_rate=16000&audio_seconds=2")
    loud = [i for i, s in enumerate(data.samples) if float(rows[s.id]["audio_rms"]) > 0.05][:4]
    silent = [i for i, s in enumerate(data.samples) if float(rows[s.id]["audio_rms"]) == 0][:2]
    assert loud
    for index in loud:
        clip = data.clip(index)
        assert clip.audio is not None
        assert clip.audio.shape == (1, 1, 32000)
        assert 0.3 < float(clip.audio.square().mean().sqrt()) / float(rows[clip.ids[0]]["audio_rms"]) < 2
    for index in silent:
        clip = data.clip(index)
        assert clip.audio is not None
        assert float(clip.audio.abs().max()) < 1e-3
