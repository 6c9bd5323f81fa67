"""500 damaged videos: a sentence or the right pixels; never a crash, a hang or a wrong number."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from films import REORDERED, film, numbered
from mutation import damaged

from robustvideo.clip import Clip
from robustvideo.data.picture import Picture
from robustvideo.data.reading import Reading, read_clip
from robustvideo.data.sampling import Sampling
from robustvideo.data.video_file import read_lossless, write_lossless
from robustvideo.errors import RobustVideoError

HERE = Path(__file__).parent
VIDEOS = 500
PATIENCE = 20.0
"""Seconds that no file may take."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def originals(folder: Path) -> list[Path]:
    """A film in each of several containers and codecs, some with sound; the last three are our own lossless ones."""
    stream = torch.Generator().manual_seed(0)
    frames = [torch.randint(0, 256, (24, 32, 3), generator=stream).byte().numpy() for _ in range(12)]
    sound = torch.randint(-9000, 9000, (1, 9600), generator=stream).short().numpy()
    found = [
        film(folder / "plain.mp4", frames, codec="libx264", pixels="yuv420p"),
        film(folder / "reordered.mkv", numbered(30), **REORDERED),
        film(folder / "sounding.mp4", frames, codec="mpeg4", pixels="yuv420p", sound=sound, audio_codec="aac"),
        film(folder / "old.avi", frames, codec="mjpeg", pixels="yuvj420p"),
        film(folder / "uneven.mkv", frames, times=[i * 0.1 + (i % 3) * 0.02 for i in range(12)]),
    ]
    for number in range(3):
        video = torch.randint(0, 256, (1, 3, 6, 16, 24), generator=stream).float() / 255
        audio = torch.randint(-99, 99, (1, 1, 800), generator=stream).float() / 32768 if number else None
        path = folder / f"lossless{number}.mkv"
        write_lossless(path, Clip(video, audio, sample_rate=8000 if number else None), fps=12)
        found.append(path)
    return found


def read_damaged_videos(folder: Path, first: int, last: int) -> None:
    """Read so many damaged files; one line of JSON about each. Runs in a process of its own, which may not die."""
    films = originals(folder)
    reading = Reading(Sampling(frames=8, stride=1), Picture(size=16))
    for seed in range(first, last):
        stream = random.Random(seed)
        source = films[seed % len(films)]
        path = folder / f"damaged{source.suffix}"
        path.write_bytes(damaged(source.read_bytes(), stream))
        start, outcome = time.monotonic(), "read"
        try:
            if source.name.startswith("lossless"):
                found, right = read_lossless(path), read_lossless(source)
                same = torch.equal(found.video, right.video) and (right.audio is None) == (found.audio is None)
                same = same and (right.audio is None or torch.equal(found.audio, right.audio))  # type: ignore[arg-type]
                outcome = "read" if same else "WRONG"
            else:
                video = read_clip(path, reading).clip("x").video
                whole = torch.equal((video * 255).round() / 255, video) and 0 <= video.min() <= video.max() <= 1
                outcome = "read" if tuple(video.shape) == (1, 3, 8, 16, 16) and whole else "WRONG"
        except RobustVideoError as error:
            outcome = "refused" if "\n" not in str(error) and str(error).endswith((".", ")")) else f"WORDS {error}"
        print(json.dumps([seed, outcome, time.monotonic() - start]), flush=True)


def test_damaged_videos(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; import test_damaged_videos as t; "
    code += "t.read_damaged_videos(Path(sys.argv[1]), 0, t.VIDEOS)"
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    settings = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=250, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"file {len(lines)} ended the process: {done.stderr[-2000:]}"
    assert len(lines) == VIDEOS
    assert [line for line in lines if line[1] not in ("read", "refused")] == []
    assert max(seconds for _, _, seconds in lines) < PATIENCE
    refused = sum(outcome == "refused" for _, outcome, _ in lines)
    assert VIDEOS * 0.2 < refused < VIDEOS * 0.95, "the damage is neither nothing nor everything"
