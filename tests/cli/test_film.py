"""What `attack` and `purify` do with the files they are given."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from robustvideo.cli import app
from robustvideo.cli.film import counted
from robustvideo.clip import Clip
from robustvideo.data import load_data, read_lossless, write_lossless

COMMANDS = {
    "attack": ("--model", "embedded:r3d", "--attack", "fgsm(eps=4/255)"),
    "purify": ("--defense", "median"),
}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Four seconds with sound that no codec has rounded."""
    clip = load_data("embedded:kinetic?split=test&clips=1").clip(0)
    random = torch.Generator().manual_seed(0)
    sound = torch.randint(-32768, 32768, (1, 2, clip.frames * 1000), generator=random).float() / 32768
    write_lossless(tmp_path / "in.mkv", Clip(clip.video, sound, 12_000), fps=12)
    return tmp_path / "in.mkv"


def invoke(command: str, video: Path, out: Path | str) -> Result:
    arguments = [command, str(video), *COMMANDS[command], "--out", str(out), "--device", "cpu"]
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_an_out_that_would_lose_something_is_refused_before_the_work(
    command: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = video.read_bytes()
    (tmp_path / "link.mkv").symlink_to(video)
    (tmp_path / "folder.mkv").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustvideo.data.decode.probe", lambda path: pytest.fail("it began to work"))
    for out, words in (
        (video, "is the video itself"),
        ("in.mkv", "is the video itself"),
        ("link.mkv", "is the video itself"),
        ("out.mp4", "must end in .mkv"),
        ("out", "must end in .mkv"),
        ("folder.mkv", "is a folder"),
        ("in.mkv/out.mkv", "Cannot write"),
    ):
        result = invoke(command, video, out)
        assert result.exit_code == 2, result.output
        assert words in result.output
    assert video.read_bytes() == before


def test_the_sound_that_a_model_does_not_hear_is_copied(video: Path, tmp_path: Path) -> None:
    result = invoke("attack", video, tmp_path / "out.mkv")
    assert result.exit_code == 0, result.output
    assert "sound is copied" in result.stderr
    assert "Attacking" in result.stderr
    before, after = read_lossless(video), read_lossless(tmp_path / "out.mkv")
    assert after.sample_rate == 12_000
    kept = after.signal("audio")
    assert 0 <= before.signal("audio").shape[2] - kept.shape[2] <= 24  # a container's clock is in milliseconds
    assert torch.equal(kept, before.signal("audio")[..., : kept.shape[2]])
    assert not torch.equal(before.video, after.video)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_more_channels_than_a_clip_has_are_said_to_be_mixed_down(command: str, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "surround.mkv"), "w") as container:
        picture, sound = container.add_stream("ffv1", rate=8), container.add_stream("pcm_s16le", rate=8000)
        picture.width, picture.height, picture.pix_fmt, sound.layout = 48, 48, "bgr0", "5.1"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 6 * 8000), np.int16), format="s16", layout="5.1")
        silence.sample_rate = 8000
        for _ in range(8):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((48, 48, 3), np.uint8), format="rgb24")))
        container.mux([*picture.encode(), *sound.encode(silence), *sound.encode()])
    result = invoke(command, tmp_path / "surround.mkv", tmp_path / "out.mkv")
    assert result.exit_code == 0, result.output
    assert "has 6 channels; the result has them mixed down to stereo" in result.stderr
    assert "as it is" not in result.stderr
    assert read_lossless(tmp_path / "out.mkv").signal("audio").shape[1] == 2


def test_a_defence_that_is_none(video: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["purify", str(video), "--defense", "none", "--out", str(tmp_path / "out.mkv")])
    assert result.exit_code == 2
    assert "none is no purifier" in result.output
    attack = ["attack", str(video), *COMMANDS["attack"], "--defense", "none", "--device", "cpu"]
    assert CliRunner().invoke(app, [*attack, "--out", str(tmp_path / "out.mkv")]).exit_code == 0


def test_one_frame_is_singular() -> None:
    assert [counted(n) for n in (1, 2)] == ["1 frame", "2 frames"]
