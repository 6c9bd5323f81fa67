"""Progress on a stream that is no terminal."""

from __future__ import annotations

import pytest

from robustvideo import progress
from robustvideo.progress import track


def test_plain_lines_at_the_end_and_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    with track("attack", 12, done=2) as advance:
        for _ in range(10):
            advance(1, "clip 7")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-1].startswith("attack: 12/12, 0:00 left")
    assert lines[0].startswith("attack: 5/12")  # 12 s after the start
    assert "0:28 left" in lines[0]  # 7 units at 4 s each
    assert all("clip 7" in line for line in lines)


@pytest.mark.parametrize(("total", "done", "quiet"), [(5, 5, False), (5, 9, False), (0, 0, False), (5, 0, True)])
def test_nothing_to_show(capsys: pytest.CaptureFixture[str], total: int, done: int, quiet: bool) -> None:
    with track("attack", total, done, quiet) as advance:
        advance(1, "x")
    assert capsys.readouterr() == ("", "")


def test_exceptions_pass() -> None:
    with pytest.raises(KeyError), track("attack", 3):
        raise KeyError


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3600, "1:00:00"), (3599.7, "1:00:00")])
def test_clock(seconds: float, text: str) -> None:
    assert progress._clock(seconds) == text
