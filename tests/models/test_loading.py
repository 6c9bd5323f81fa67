from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.models import embedded, load_model
from robustvideo.models.catalog import TORCHVISION, catalog, networks
from robustvideo.models.loading import untrained


@dataclass(frozen=True)
class Averaging:
    """The mean colour, weighted."""

    classes: int = 10
    frames: int | None = None

    def build(self) -> Model:
        network = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, self.classes))
        return wrap(network, frames=self.frames, size=None)


@pytest.fixture
def averaging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_added", dict(networks._added))
    networks.register("averaging")(Averaging)


@pytest.mark.usefixtures("averaging")
def test_a_registered_network_goes_by_its_name() -> None:
    model = load_model("averaging?frames=4")
    assert model.frames == 4
    assert model(Clip(torch.rand(2, 3, 6, 8, 8))).shape == (2, 10)
    assert load_model("averaging", num_classes=6)(Clip(torch.rand(2, 3, 6, 8, 8))).shape == (2, 6)
    assert load_model("averaging?classes=5", num_classes=6)(Clip(torch.rand(2, 3, 6, 8, 8))).shape == (2, 5)
    assert catalog()["averaging"] == "The mean colour, weighted."
    with pytest.raises(InputError, match="did you mean 'classes'"):
        load_model("averaging?clases=3")
    with pytest.raises(InputError, match="did you mean 'averaging'"):
        load_model("averagin")


@pytest.mark.usefixtures("averaging")
def test_untrained_weights_are_always_the_same_and_leave_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    first = load_model("averaging").state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    second = load_model("averaging").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", [n.removeprefix("embedded:") for n in catalog() if n.startswith("embedded:")])
def test_embedded_networks_and_weights_of_one_s_own(name: str, tmp_path: Path) -> None:
    model = load_model(f"embedded:{name}")
    assert not model.training
    assert model.labels
    weights = {key: torch.full_like(value, 0.25) for key, value in model.state_dict().items()}
    torch.save(weights, tmp_path / "weights.pt")
    other = load_model(f"embedded:{name}?checkpoint={tmp_path / 'weights.pt'}")
    assert all(torch.equal(value, weights[key]) for key, value in other.state_dict().items())
    assert other.labels == model.labels


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("r3d_18", "did you mean 'torchvision:r3d_18'"),
        ("s3d?classes=4", "did you mean 'torchvision:s3d'"),
        ("torchvison:r3d_18", "Unknown model source 'torchvison': did you mean 'torchvision'"),
        ("embedded:r3", "did you mean 'r3d'"),
        ("embedded:r3d?frames=8", "Unknown parameter of embedded:r3d: 'frames'"),
        ("embedded:r3d?checkpoint=nowhere.pt", "There is no checkpoint nowhere.pt"),
        ("nothing_like_it", "Unknown model 'nothing_like_it'"),
        ("", "Unknown model ''"),
        ("?frames=3", "Unknown model ''"),
    ],
)
def test_specs_that_name_nothing(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        load_model(spec)


def test_catalog_names_everything_that_loads_by_name() -> None:
    names = catalog()
    assert {name.removeprefix("embedded:") for name in names if name.startswith("embedded:")} <= set(embedded.NAMES)
    assert "embedded:r3d" in names
    assert {f"torchvision:{name}" for name in TORCHVISION} <= names.keys()
    assert all(names.values())


def test_catalog_does_not_load_torch() -> None:
    code = "import sys; from robustvideo.models.catalog import catalog; catalog(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


def test_an_untrained_embedded_network_takes_the_classes_of_its_data() -> None:
    assert load_model("embedded:r3d?weights=none", num_classes=5).module[-1].out_features == 5
    first, again, other = (load_model("embedded:r3d?weights=none", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    with pytest.raises(InputError, match="with classes=, set weights=none"):
        load_model("embedded:r3d?classes=5")


@pytest.mark.parametrize(
    ("spec", "without"),
    [
        ("torchvision:r3d_18", ["torchvision:r3d_18"]),
        ("torchvision:r3d_18?weights=KINETICS400_V1", []),
        ("torchvision:r3d_18?checkpoint=mine.pt", []),
        ("i3d", ["i3d"]),
        ("i3d?checkpoint=mine.pt", []),
        ("embedded:r3d + embedded:r3d?weights=none", ["embedded:r3d?weights=none"]),
        ("file:mine.py:build", []),
    ],
)
def test_networks_without_weights(spec: str, without: list[str]) -> None:
    assert untrained(spec) == without
