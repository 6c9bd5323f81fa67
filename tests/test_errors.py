"""What a user is told of a name that does not exist."""

from __future__ import annotations

from robustvideo.errors import LISTED, unknown

ACTIONS = [f"Action{number:03d}" for number in range(400)]


def test_the_nearest_names_are_found_whatever_their_case() -> None:
    assert str(unknown("class", "biking", ["Biking", "Zumba"])) == "Unknown class 'biking': did you mean 'Biking'?"
    assert "did you mean 'pgd'?" in str(unknown("attack", "PGD", ["pgd", "noise"]))


def test_a_long_list_is_cut() -> None:
    text = str(unknown("class", "zz", ACTIONS))
    assert f"Action011 ... and {400 - LISTED} more." in text
    assert "Action012" not in text


def test_a_short_list_is_whole() -> None:
    assert str(unknown("engine", "zz", ["ray", "local"])) == "Unknown engine 'zz': known: local, ray."
    assert str(unknown("engine", "zz", [])) == "Unknown engine 'zz': none is registered."
