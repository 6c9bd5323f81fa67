"""Videos whose frames come at uneven times, and what the commands that make them even say."""

from __future__ import annotations

from pathlib import Path

import pytest
from films import film, numbered
from typer.testing import CliRunner

from robustvideo.cli import app
from robustvideo.data.container import has_even_times

TIMES = [0.0, 0.1, 0.2, 0.3, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]


@pytest.mark.parametrize(
    "command", [("purify", "--defense", "median"), ("attack", "--model", "embedded:r3d", "--attack", "fgsm")]
)
def test_uneven_times_are_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    for name, times, told in (("uneven", TIMES, True), ("even", None, False)):
        path = film(tmp_path / f"{name}.mkv", numbered(16), times=times)
        assert has_even_times(path) != told
        arguments = [*command, str(path), "--out", str(tmp_path / "out.mkv"), "--device", "cpu"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert ("uneven times" in result.stderr) == told


@pytest.mark.parametrize("fps", [24000 / 1001, 30, 59.94, 240])
def test_stamps_rounded_to_milliseconds_are_even(tmp_path: Path, fps: float) -> None:
    assert has_even_times(film(tmp_path / "a.mkv", numbered(50), fps=fps))


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi"])
def test_frames_stored_out_of_their_order_are_even(tmp_path: Path, suffix: str) -> None:
    path = film(tmp_path / f"a.{suffix}", numbered(50), codec="libx264", pixels="yuv420p", options={"bf": "2"})
    assert has_even_times(path)


def test_few_frames_are_even(tmp_path: Path) -> None:
    for count in (1, 2):
        assert has_even_times(film(tmp_path / "a.mkv", numbered(count)))
