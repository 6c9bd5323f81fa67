"""200 damaged run directories: a sentence or the right numbers; never a crash, a hang or a wrong number."""

from __future__ import annotations

import json
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mutation import damaged

from robustvideo.attacks import FGSM, Noise
from robustvideo.errors import RobustVideoError
from robustvideo.evaluation import evaluate
from robustvideo.evaluation.records import comparable, read_records
from robustvideo.evaluation.trust import load_checks
from robustvideo.evaluation.validated import validated
from robustvideo.report import build_report

RUNS = 200
PATIENCE = 20.0
"""Seconds that no run may take."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def test_damaged_run_directories(tmp_path: Path) -> None:
    attacks = [Noise(eps=8 / 255), FGSM(eps=8 / 255)]
    run = evaluate(
        "embedded:r3d", "embedded:kinetic?split=test&clips=4", attacks, out=tmp_path / "whole", batch_size=2,
        save_clips=1, quiet=True, trust=True,
    )  # fmt: skip
    rows, checks, manifest = comparable(run.records()), load_checks(run.path), run.manifest
    build_report([run.path])
    files = sorted(p.relative_to(run.path) for p in run.path.rglob("*") if p.is_file() and p.name != "report.html")
    known = {json.dumps(row, default=str) for row in rows}
    refused = 0
    for seed in range(RUNS):
        stream = random.Random(seed)
        copy = Path(shutil.copytree(run.path, tmp_path / "copy"))
        victim = copy / files[seed % len(files)]
        fate = stream.random()
        if fate < 0.05:
            victim.unlink()
        elif fate < 0.1:
            victim.write_bytes((copy / stream.choice(files)).read_bytes())
        else:
            victim.write_bytes(damaged(victim.read_bytes(), stream))
        start = time.monotonic()
        said = ""
        try:
            whole, columns = validated(copy)
            assert whole.manifest == manifest, seed
            assert comparable(columns.records()) == rows, seed
            assert load_checks(copy) in ({}, checks), seed
        except RobustVideoError as error:
            said, refused = str(error), refused + 1
        with suppress(RobustVideoError):
            found = {json.dumps(row, default=str) for row in comparable(read_records(copy))}
            assert found <= known, seed
        try:
            if seed // len(files) % 2:  # a page takes longer than everything else
                build_report([copy])
        except RobustVideoError as error:
            said += str(error)
        assert "\n" not in said, seed
        assert time.monotonic() - start < PATIENCE, seed
        shutil.rmtree(copy)
    assert refused > RUNS * 0.3
