"""Settings for every test: one thread (the models are tiny), and no test depends on the random state it finds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# a busy machine is no defect: no test asserts how long anything takes
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _global_seed() -> None:
    torch.manual_seed(0)
