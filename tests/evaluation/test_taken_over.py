"""A run that failed before it had a result leaves its directory to the corrected command; one with results does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustvideo.attacks import Noise
from robustvideo.errors import InputError, RunConflict
from robustvideo.evaluation import evaluate
from robustvideo.evaluation.run import Run

CLIPS = "embedded:kinetic?split=test&clips=2"

FAILING = """
import robustvideo as rv

class Pair(rv.model.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, clip):
        return self.inner(clip), clip.video.mean()

plain = build

def build():
    return Pair(plain())
"""


@pytest.fixture
def failed(network_file: Path, tmp_path: Path) -> Path:
    """A folder with a model file that was corrected after its first run had failed, and that run."""
    (tmp_path / "network.py").write_text(network_file.read_text() + FAILING)
    with pytest.raises(InputError, match="got tuple"):
        run(tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    (tmp_path / "network.py").write_text(network_file.read_text())
    return tmp_path


def run(folder: Path, eps: float = 8 / 255) -> Run:
    return evaluate(
        f"file:{folder}/network.py:build", CLIPS, [Noise(eps=eps)], out=folder / "run", save_clips=0, quiet=True
    )


def test_the_corrected_command_takes_the_directory(failed: Path) -> None:
    done = run(failed, eps=4 / 255)
    assert done.manifest.configuration["attacks"] == [Noise(eps=4 / 255).spec]
    assert len(done.records()) == 4


def test_a_directory_with_results_is_never_taken(failed: Path) -> None:
    run(failed)
    before = {path: path.read_bytes() for path in (failed / "run").rglob("*.parquet")}
    with pytest.raises(RunConflict, match=r"attacks was .*choose another --out, or delete"):
        run(failed, eps=4 / 255)
    (failed / "run" / "report.html").touch()
    for path in before:
        path.unlink()
    with pytest.raises(RunConflict, match="another configuration"):
        run(failed, eps=4 / 255)


def test_a_directory_in_which_another_process_works_is_not_taken(failed: Path) -> None:
    """Its first record may be about to come."""
    (failed / "run" / f".00000000-{os.getpid()}-12345678.tmp").touch()
    with pytest.raises(RunConflict, match="another configuration"):
        run(failed)
