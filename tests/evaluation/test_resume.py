"""A run that is killed and continued ends with the records of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustvideo.evaluation.records import comparable, read_records


def command(network_file: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "robustvideo",
        "evaluate",
        *("--model", f"file:{network_file}:build"),
        *("--data", "embedded:kinetic?split=test&clips=20"),
        *("--attack", "noise(draws=2)", "--attack", "pgd(steps=4)"),
        *("--eps", "2/255", "--eps", "8/255"),
        *("--batch-size", "2", "--save-clips", "4", "--out", str(out), "--device", "cpu"),
    ]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def undisturbed(network_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    start = time.monotonic()
    subprocess.run(command(network_file, out), check=True, capture_output=True, env=ENVIRONMENT)
    return out, time.monotonic() - start


def kill_and_resume(network_file: Path, out: Path, delays: list[float], how: int) -> int:
    """Start the run, kill it after each delay, and let the last start finish; returns the number of kills."""
    kills = 0
    for delay in delays:
        process = subprocess.Popen(
            command(network_file, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
        )
        try:
            process.wait(timeout=delay)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(how)
            process.wait()
            kills += 1
    subprocess.run(command(network_file, out), check=True, capture_output=True, env=ENVIRONMENT)
    return kills


def saved_clips(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted((run / "clips").rglob("*.mkv"))}


def kill_after(network_file: Path, out: Path, shards: int, how: int) -> None:
    """Start the run, and kill it when so many work items are on disk."""
    process = subprocess.Popen(
        command(network_file, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    while len(list((out / "records").glob("*.parquet"))) < shards:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.01)
    process.send_signal(how)
    process.wait()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_continues_to_the_same_records(
    network_file: Path, undisturbed: tuple[Path, float], tmp_path: Path, how: int
) -> None:
    whole, _ = undisturbed
    out = tmp_path / "run"
    for shards in (3, 20):
        kill_after(network_file, out, shards, how)
    subprocess.run(command(network_file, out), check=True, capture_output=True, env=ENVIRONMENT)
    assert comparable(read_records(out)) == comparable(read_records(whole))
    assert saved_clips(out) == saved_clips(whole)
    assert not list(out.rglob(".*tmp*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments(network_file: Path, undisturbed: tuple[Path, float], tmp_path: Path) -> None:
    whole, seconds = undisturbed
    moments = random.Random(20)
    kills = 0
    for attempt in range(60):  # a run that finished before its moment came proves nothing, and does not count
        out = tmp_path / f"run{attempt}"
        kills += kill_and_resume(network_file, out, [seconds * moments.uniform(0.25, 1.0)], signal.SIGKILL)
        assert comparable(read_records(out)) == comparable(read_records(whole))
        if kills == 20:
            return
    pytest.fail(f"only {kills} of 60 runs were killed before they finished")
