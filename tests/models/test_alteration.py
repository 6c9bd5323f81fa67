"""Alterations: what a spec's with= does to a network and to its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustvideo.errors import InputError
from robustvideo.model import Purified
from robustvideo.models import load_model
from robustvideo.models.alteration import alterations, load_alterations
from robustvideo.models.generator import ApeGan, BehindGenerator
from robustvideo.models.multi_bn import MultiBN
from robustvideo.models.oud import Oud
from robustvideo.registry import spec_of


def test_names_and_summaries() -> None:
    assert {"ape_gan", "multi_bn", "oud"} <= set(alterations.entries())
    assert all(entry.summary for entry in alterations.entries().values())


@pytest.mark.parametrize("text", ["oud", "oud()", "oud(after='module.2')", "oud(after=['a.b', c], depth=2)"])
def test_what_is_written_is_what_is_built(text: str) -> None:
    (built,) = load_alterations(text)
    assert isinstance(built, Oud)
    assert load_alterations(spec_of(built)) == [built]


def test_several_are_applied_in_order() -> None:
    assert load_alterations("[oud, ape_gan(width=4)]") == [Oud(), ApeGan(4)]
    model = load_model("embedded:r3d?with=[multi_bn(), ape_gan(width=2)]")
    assert isinstance(model, BehindGenerator)
    assert isinstance(model.undefended, MultiBN)
    other = load_model("embedded:r3d?with=[ape_gan(width=2), multi_bn()]")
    assert isinstance(other, MultiBN)
    assert isinstance(other.network, BehindGenerator)


def test_weights_are_those_of_the_seed_and_the_random_state_stays() -> None:
    spec = "r3d_small?with=ape_gan(width=2)"
    state = torch.get_rng_state()
    first, again, other = (load_model(spec, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["generator.last.weight"], other["generator.last.weight"])
    assert not torch.equal(first["undefended.module.0.weight"], other["undefended.module.0.weight"])


def test_a_checkpoint_is_the_base_network_s(tmp_path: Path) -> None:
    base = load_model("r3d_small?classes=5", seed=7)
    path = tmp_path / "base.safetensors"
    save_file(base.state_dict(), path, {"labels": '["a", "b", "c", "d", "e"]'})
    altered = load_model(f"r3d_small?classes=5&checkpoint={path}&with=ape_gan(width=2)")
    assert isinstance(altered, Purified)
    state = altered.undefended.state_dict()
    assert all(torch.equal(state[key], value) for key, value in base.state_dict().items())
    assert altered.labels == altered.undefended.labels == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("owd()", "Unknown alteration 'owd': did you mean 'oud'"),
        ("oud(afterr=x)", "did you mean 'after'"),
        ("3", "name alterations"),
        ("[oud(), 3]", "name alterations"),
        ("oud(", "Cannot read"),
        ("multi_bn(branches=1)", "at least 2"),
        ("ape_gan(width=0)", "at least 1"),
        ("oud(depth=4)", "0 to 3"),
    ],
)
def test_what_makes_no_sense_is_said(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(f"embedded:r3d?with={text}")
