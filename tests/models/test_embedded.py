"""The embedded networks: shapes, abilities, and shipped weights that are what their metadata says."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from robustvideo.attacks import load_attack
from robustvideo.clip import Clip
from robustvideo.data import collate
from robustvideo.data.kinetic import LABELS, Kinetic
from robustvideo.errors import InputError
from robustvideo.model import Framewise, classify
from robustvideo.models import embedded, load_model
from robustvideo.training.recipe import Recipe, load_recipe

FRAMEWISE = ("cnn_lstm", "frame2d")


def weights_of(name: str) -> Path:
    return Path(str(files("robustvideo") / "models" / "weights" / f"{name}.safetensors"))


def metadata_of(name: str) -> dict[str, Any]:
    with safe_open(weights_of(name), framework="pt") as file:
        return {key: json.loads(value) for key, value in file.metadata().items()}


@cache
def some_clips(count: int) -> tuple[Clip, Tensor]:
    data = Kinetic(split="test", clips=count)
    return collate([data[i] for i in range(count)])


@pytest.mark.parametrize("name", embedded.NAMES)
def test_any_clip_becomes_logits(name: str) -> None:
    model = embedded.build(name, classes=5).eval()
    assert (model.frames, model.size) == (16, (48, 48))
    for shape in ((2, 3, 16, 48, 48), (1, 3, 20, 40, 64)):
        logits = classify(model, Clip(torch.rand(shape)))
        assert logits.shape == (shape[0], 5)


@pytest.mark.parametrize("name", FRAMEWISE)
def test_frames_encoded_one_by_one_give_the_same_answer(name: str) -> None:
    model = embedded.build(name).eval()
    assert isinstance(model, Framewise)
    clip = Clip(torch.rand(3, 3, 16, 48, 48))
    with torch.no_grad():
        features = [model.encode_frames(frame) for frame in clip.video.unbind(2)]
        torch.testing.assert_close(model.head(torch.stack(features, dim=1)), model(clip))


def test_averaged_frames_have_no_order_and_a_sequence_has_one() -> None:
    clip = Clip(torch.rand(2, 3, 16, 48, 48))
    backwards = Clip(clip.video.flip(2))
    with torch.no_grad():
        frame2d, cnn_lstm = embedded.build("frame2d").eval(), embedded.build("cnn_lstm").eval()
        torch.testing.assert_close(frame2d(clip), frame2d(backwards))
        assert not torch.allclose(cnn_lstm(clip), cnn_lstm(backwards))


def test_whereabouts_are_the_place_of_a_peak() -> None:
    """A single hot place yields its row and column as angles; on a torus, moving by a period changes nothing."""
    heat = torch.zeros(1, 2, 12, 12)
    heat[0, 0, 3, 6] = heat[0, 1, 0, 9] = 1e4
    found = embedded.Whereabouts(12, 12)(heat).view(2, 4)
    expected = [[0.0, 1.0, -1.0, 0.0], [1.0, 0.0, 0.0, -1.0]]  # cos row, sin row, cos column, sin column
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", embedded.NAMES)
def test_shipped_weights_are_small_and_come_from_the_packaged_recipe(name: str) -> None:
    assert weights_of(name).stat().st_size <= 2_000_000
    metadata = metadata_of(name)
    recipe = load_recipe(Path(f"embedded/{name}"))
    assert metadata["recipe_hash"] == recipe.digest(), f"train embedded/{name} again: its recipe has changed"
    assert Recipe.model_validate(metadata["recipe"]) == recipe
    assert tuple(metadata["labels"]) == load_model(f"embedded:{name}").labels == LABELS


@pytest.mark.parametrize("name", embedded.NAMES)
def test_shipped_weights_are_as_accurate_as_they_say(name: str) -> None:
    """On the first 128 of the 512 test clips, within four standard errors of the accuracy on all."""
    clip, labels = some_clips(128)
    correct = float((classify(load_model(f"embedded:{name}"), clip).argmax(1) == labels).double().mean())
    measured = metadata_of(name)["accuracies"]["test"]
    share = measured["correct"] / measured["clips"]
    assert measured["clips"] == 512
    assert abs(correct - share) <= 4 * (share * (1 - share) / 128) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", embedded.NAMES)
def test_shipped_weights_reproduce_their_measured_accuracy(name: str) -> None:
    """All 512 test clips; one clip of slack for another processor's rounding."""
    clip, labels = some_clips(512)
    model = load_model(f"embedded:{name}")
    correct = sum(
        int((classify(model, clip.select(i)).argmax(1) == labels[i]).sum()) for i in torch.arange(512).split(64)
    )
    assert abs(correct - metadata_of(name)["accuracies"]["test"]["correct"]) <= 1


def test_the_plain_network_is_good_and_the_blind_one_is_at_chance() -> None:
    measured = {name: metadata_of(name)["accuracies"]["test"]["correct"] / 512 for name in embedded.NAMES}
    assert measured["r3d"] >= 0.9
    assert measured["r3d_at"] >= 0.75
    assert measured["frame2d"] <= 0.125 + 4 * (0.125 * 0.875 / 512) ** 0.5


def test_adversarial_training_shows() -> None:
    clip, labels = some_clips(32)
    attack = load_attack("pgd(eps=4/255, steps=5)")
    robust = {
        n: 1 - float(attack(load_model(f"embedded:{n}"), clip, labels).success.double().mean())
        for n in ("r3d", "r3d_at")
    }
    assert robust["r3d"] < 0.3 < robust["r3d_at"]


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="did you mean 'r3d'"):
        load_model("embedded:r3?weights=none")


def test_the_spec_loads_it() -> None:
    model = load_model("embedded:r3d")
    assert model.labels == LABELS
    assert not model.training
