"""A small network, as a user would bring it, and runs made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

NETWORK = """
import torch
from torch import nn
import robustvideo as rv

def build(classes="8", dtype="float32"):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(nn.Conv3d(3, 8, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(8), nn.ReLU()),
        nn.Sequential(nn.Conv3d(8, 16, 3, stride=(2, 2, 2), padding=1), nn.BatchNorm3d(16), nn.ReLU()),
        nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(128, int(classes)),
    )
    network[4].weight.data.mul_(20)
    return rv.wrap(network.to(getattr(torch, dtype)), frames=16, size=48)
"""


@pytest.fixture(scope="session")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "network.py"
    path.write_text(NETWORK)
    return path
