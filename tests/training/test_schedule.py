"""Learning rates against PyTorch's own schedulers."""

from __future__ import annotations

import pytest
import torch

from robustvideo.training.schedule import rate

STEPS = 50


def _theirs(name: str) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedulers = torch.optim.lr_scheduler
    scheduler: torch.optim.lr_scheduler.LRScheduler
    if name == "onecycle":
        scheduler = schedulers.OneCycleLR(optimizer, 1.0, total_steps=STEPS + 1, cycle_momentum=False)
    elif name == "cosine":
        scheduler = schedulers.CosineAnnealingLR(optimizer, STEPS)
    else:
        scheduler = schedulers.ConstantLR(optimizer, factor=1.0)
    rates = []
    for _ in range(STEPS + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("name", "tolerance"), [("constant", 0.0), ("cosine", 1e-9), ("onecycle", 0.05)])
def test_rates_are_those_of_pytorch(name: str, tolerance: float) -> None:
    """PyTorch puts the peak of onecycle one step earlier (at 0.3 * steps - 1): 0.05 is what a step makes there."""
    ours = [rate(name, step / STEPS) for step in range(STEPS + 1)]  # type: ignore[arg-type]
    assert max(abs(a - b) for a, b in zip(ours, _theirs(name), strict=True)) <= tolerance
