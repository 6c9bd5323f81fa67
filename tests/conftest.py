"""Settings for every test: one thread (the models are tiny), and no test depends on the random state it finds."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _global_seed() -> None:
    torch.manual_seed(0)
