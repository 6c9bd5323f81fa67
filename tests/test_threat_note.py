"""What `docs/threat-note.md` promises: the tests that it names are there, and files that mean harm do none."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
import time
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from robustvideo import packaged
from robustvideo.cli import app
from robustvideo.data.sound import decode_sound
from robustvideo.errors import InputError
from robustvideo.evaluation.suite import load_suite
from robustvideo.models import load_model
from robustvideo.packaged import read_yaml
from robustvideo.reproduction.study import load_study
from robustvideo.training import load_recipe
from robustvideo.training.checkpoint import Folder

ROOT = Path(__file__).parents[1]
NOTE = ROOT / "docs" / "threat-note.md"


def test_the_note_names_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", NOTE.read_text(encoding="utf-8"))
    assert len(named) >= 20
    for file, test in named:
        functions = [node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(node, "name")]
        assert test in functions, f"{file}::{test}"


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "multiply"),
        (MERGES, "multiply"),
        (MERGES + "models: [embedded:r3d]\ndata: embedded:kinetic\nattacks: *a9\n", "multiply"),
        ("models: &m [*m]\ndata: embedded:kinetic\nattacks: [pgd]\n", "no end"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "{a: " * 5000, "nested too deeply"),
    ],
    ids=["laughs", "merges", "merges-in-a-suite", "a-list-that-holds-itself", "deep-lists", "deep-mappings"],
)
def test_a_yaml_bomb_is_refused_at_once(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    for load in (load_suite, load_recipe, lambda path: load_study(path, "smoke")):
        start = time.process_time()
        with pytest.raises(InputError, match=message) as caught:
            load(path)
        assert time.process_time() - start < 5
        assert "\n" not in str(caught.value)
    result = CliRunner().invoke(app, ["evaluate", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_aliases_may_be_used_as_long_as_they_are_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fine.yaml"
    path.write_text("a: &a [1, 2]\nb: {c: *a, d: *a}\ne: &e {x: 1}\nf: {<<: *e, y: 2}\n")
    assert read_yaml(path, "suite") == {
        "a": [1, 2], "b": {"c": [1, 2], "d": [1, 2]}, "e": {"x": 1}, "f": {"x": 1, "y": 2},
    }  # fmt: skip
    path.write_text("")
    assert read_yaml(path, "suite") is None
    monkeypatch.setattr(packaged, "MAX_VALUES", 8)
    path.write_text("a: &a [1, 2]\nb: *a\n")  # the whole, two keys, and twice a list of two
    with pytest.raises(InputError, match="more than 8 values"):
        read_yaml(path, "suite")
    monkeypatch.setattr(packaged, "MAX_VALUES", 9)
    assert read_yaml(path, "suite") == {"a": [1, 2], "b": [1, 2]}


def black_film(path: Path, frames: int, side: int) -> None:
    """A film of nothing, which compresses to nothing."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height = stream.width = side
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast"}
        picture = av.VideoFrame(side, side, "yuv420p")
        for plane in picture.planes:
            plane.update(bytes(plane.buffer_size))
        for number in range(frames):
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


READ = """
import resource, sys
from pathlib import Path
import torch
from robustvideo.data.picture import Picture
from robustvideo.data.reading import Reading, read_clip
from robustvideo.data.sampling import Sampling
torch.rand(1, 3, 64, 64).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clip = read_clip(Path(sys.argv[1]), Reading(Sampling(frames=32), Picture(size=16)))
assert clip.video.shape == (3, 32, 16, 16)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units elsewhere")
def test_a_decompression_bomb_stays_small(tmp_path: Path) -> None:
    """A file of some kilobytes that unpacks to gigabytes: no more of it is in memory than a part."""
    path, frames, side = tmp_path / "bomb.mp4", 50, 3072
    black_film(path, frames, side)
    unpacked = 3 * frames * side * side
    assert path.stat().st_size < unpacked / 5000
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < unpacked / 2.5


def test_an_endless_sound_track_stays_small(tmp_path: Path) -> None:
    """Two seconds from the end of twenty minutes of silence: the rest is not kept."""
    path, rate, minutes = tmp_path / "silence.mkv", 48000, 20
    with av.open(str(path), "w") as container:
        track = container.add_stream("flac", rate=rate)
        track.layout = "mono"
        silence = np.zeros((1, rate), np.int16)
        for second in range(60 * minutes):
            frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), second * rate
            container.mux(track.encode(frame))
        container.mux(track.encode())
    tracemalloc.start()
    sound = decode_sound(path, rate, 1, 60 * minutes - 3.0, 2 * rate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sound.shape == (1, 2 * rate)
    assert peak < 2 * rate * 60 * minutes / 20


class Executes:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path, ...]]:
        return (Path.touch, (self.path,))


def test_a_pickle_in_disguise_is_not_executed(tmp_path: Path) -> None:
    """Under the names of files that training writes: as weights, and as a checkpoint to go on from."""
    trace = tmp_path / "executed"
    disguised = tmp_path / "model.safetensors"
    disguised.write_bytes(pickle.dumps(Executes(trace)))
    with pytest.raises(InputError, match="not readable as safetensors"):
        load_model(f"trained:{disguised}")
    for write in (torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))):
        folder = Folder(tmp_path / "run")
        folder.last.parent.mkdir(parents=True, exist_ok=True)
        write({"position": Executes(trace)}, folder.last)
        with pytest.raises(InputError, match="damaged"):
            folder.load()
    assert not trace.exists()
