"""Recipes: what is accepted, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustvideo.errors import InputError
from robustvideo.models.embedded import NAMES
from robustvideo.training.recipe import load_recipe, make_recipe

GOOD: dict[str, Any] = {
    "title": "t",
    "model": "embedded:r3d",
    "data": {"train": "embedded:kinetic", "val": "embedded:kinetic?split=val"},
    "epochs": 1,
    "batch_size": 8,
    "lr": 0.1,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, r"Unknown key in my\.yaml: 'epoch': did you mean 'epochs'"),
        ({"data": {"trian": "a", "val": "b"}}, "'trian': did you mean 'train'"),
        ({"validation": {"atack": "pgd"}}, "'atack': did you mean 'attack'"),
        ({"lr": 0}, "lr: .*greater than 0"),
        ({"epochs": "many"}, "epochs: .*integer"),
        ({"optimizer": "adam"}, "optimizer: .*'sgd' or 'adamw'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_recipe({**GOOD, **change}, "my.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match=r"my\.yaml: model: field required"):
        make_recipe({k: v for k, v in GOOD.items() if k != "model"}, "my.yaml")


def test_the_hash_changes_with_every_value() -> None:
    digests = {
        make_recipe({**GOOD, **change}, "r").digest()
        for change in ({}, {"seed": 1}, {"export": {"precision": "fp16"}}, {"training": "at"})
    }
    assert len(digests) == 4
    assert make_recipe({**GOOD, "seed": 0}, "r").digest() in digests  # a default that is spelt out changes nothing


@pytest.mark.parametrize("name", NAMES)
def test_every_embedded_network_has_a_recipe(name: str) -> None:
    assert load_recipe(Path(f"embedded/{name}")).title == f"embedded/{name}"


def test_names_and_files_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'embedded/r3d'"):
        load_recipe(Path("embeded/r3d"))
    with pytest.raises(InputError, match="no recipe"):
        load_recipe(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("title: t\ndata: {train: a?b}\n")
    with pytest.raises(InputError, match="line 2, is not readable as YAML"):
        load_recipe(broken)
