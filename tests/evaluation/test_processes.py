"""Several processes that share an evaluation leave the records of one, also when one of them is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustvideo.evaluation.records import comparable, finished_items, read_records
from robustvideo.evaluation.run import open_run

FACTORY = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "{folder}")
import network

def build():
    model = network.build()
    place = os.environ.get("RANK") and os.environ.get("KILL_AT")
    calls = [0]
    def die(module, inputs):
        calls[0] += 1
        if calls[0] == int(place) and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
    if place:
        model.register_forward_pre_hook(die)
    return model
"""


@pytest.fixture(scope="module")
def factory(network_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network, whose second process ends itself at the forward pass that KILL_AT names."""
    path = tmp_path_factory.mktemp("factory") / "killing.py"
    path.write_text(FACTORY.format(folder=network_file.parent))
    return path


def evaluate(factory: Path, out: Path, launch: list[str], clips: int = 20, **environment: str) -> str:
    command = [
        *(sys.executable, "-m", *launch, "robustvideo", "evaluate"),
        *("--model", f"file:{factory}:build"),
        *("--data", f"embedded:kinetic?split=test&clips={clips}"),
        *("--attack", "noise(draws=2)", "--attack", "pgd(eps=8/255, steps=3)"),
        *("--batch-size", "2", "--save-clips", "4", "--out", str(out), "--device", "cpu"),
    ]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=280, check=False)
    assert bool(done.returncode) == bool(environment), done.stderr
    return done.stdout


def torchrun(processes: int) -> list[str]:
    return ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]


def accelerate(processes: int) -> list[str]:
    return ["accelerate.commands.launch", "--cpu", "--num_processes", str(processes), "--main_process_port", "0", "-m"]


@pytest.fixture(scope="module")
def whole(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    evaluate(factory, out, [])
    return out


def check_same(out: Path, whole: Path) -> None:
    assert open_run(out).manifest.status == "finished"
    assert comparable(read_records(out)) == comparable(read_records(whole))
    saved = [{p.relative_to(run): p.read_bytes() for p in (run / "clips").rglob("*.mkv")} for run in (out, whole)]
    assert saved[0] == saved[1]
    assert not list(out.rglob(".*tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize("launch", [torchrun(2), accelerate(2), torchrun(4)], ids=["torchrun2", "accelerate2", "four"])
def test_several_processes_leave_the_records_of_one(
    factory: Path, whole: Path, tmp_path: Path, launch: list[str]
) -> None:
    printed = evaluate(factory, tmp_path / "run", launch)
    check_same(tmp_path / "run", whole)
    assert printed.count("Report: ") == 1


def test_a_process_that_is_killed_loses_nothing(factory: Path, whole: Path, tmp_path: Path) -> None:
    evaluate(factory, tmp_path / "run", torchrun(2), KILL_AT="8")
    done = finished_items(tmp_path / "run")
    assert 0 < len(done) < open_run(tmp_path / "run").manifest.items
    assert open_run(tmp_path / "run").manifest.status == "running"
    before = {p.name: p.read_bytes() for p in (tmp_path / "run" / "records").glob("0*.parquet")}
    evaluate(factory, tmp_path / "run", torchrun(2))
    assert before.items() <= {p.name: p.read_bytes() for p in (tmp_path / "run" / "records").iterdir()}.items()
    check_same(tmp_path / "run", whole)
