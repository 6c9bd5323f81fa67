"""Run directories for the report to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_run import make_run

from robustvideo.report import build_report


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with five attacks, five budgets and saved clips."""
    return make_run(tmp_path_factory.mktemp("runs") / "first", unusable=2)


@pytest.fixture(scope="session")
def page(run_dir: Path) -> Path:
    """The report of `run_dir`."""
    return build_report([run_dir])


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Make a run of one's own."""

    def make(name: str = "run", **options: object) -> Path:
        return make_run(tmp_path / name, **options)  # type: ignore[arg-type]

    return make
