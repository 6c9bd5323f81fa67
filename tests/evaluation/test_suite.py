"""Suites: which budgets an attack gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustvideo.errors import InputError
from robustvideo.evaluation.suite import load_suite, make_suite
from robustvideo.packaged import recipes


def specs(**changes: Any) -> list[str]:
    content = {"models": ["embedded:r3d"], "data": "embedded:kinetic", "eps": ["2/255", "4/255"], **changes}
    return [attack.spec for attack in make_suite(content, "test").build_attacks()]


def test_every_budget_for_those_that_name_none() -> None:
    assert specs(attacks=["fgsm", "pgd(eps=1/255)"]) == ["fgsm(eps=2/255)", "fgsm(eps=4/255)", "pgd(eps=1/255)"]


def test_a_budget_of_another_kind_is_left_alone() -> None:
    (own,) = specs(attacks=["deepsava"])
    assert "eps=0.08" in own
    assert len(specs(attacks=["tma"])) == 2


@pytest.mark.parametrize("name", [name for name, file in recipes().items() if "\nmodels:" in file.read_text()])
def test_every_packaged_suite_can_be_built(name: str) -> None:
    assert load_suite(Path(name)).build_attacks()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("embedded/r3d", "embedded/r3d is a training recipe, not a suite: robustvideo train embedded/r3d"),
        ("videopure/table1", "videopure/table1 is a study, not a suite: robustvideo reproduce videopure/table1"),
    ],
)
def test_a_file_of_another_kind_is_told_by_its_command(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_suite(Path(name))
