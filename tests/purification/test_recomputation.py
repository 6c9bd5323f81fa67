"""Memory that does not grow with the number of steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustvideo.purification.recomputation import recomputed
from robustvideo.randomness import ClipRandom


def step(state: Tensor, weight: Tensor, seeds: tuple[int, ...] = ()) -> Tensor:
    """One step of a toy purifier: several activations inside, and noise that comes from seeds."""
    noise = ClipRandom(seeds).normal(state) if seeds else 0.0
    for _ in range(4):
        state = (state * weight).tanh() + state.sin() + 0.1 * noise
    return state


def chain(state: Tensor, weight: Tensor, steps: int, *, kept: bool) -> Tensor:
    seeds = tuple(range(len(state)))
    for _ in range(steps):
        state = step(state, weight, seeds) if kept else recomputed(step, state, weight, seeds)
    return state


def test_the_gradient_is_the_same() -> None:
    state = torch.randn(2, 50, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, dtype=torch.float64, requires_grad=True)
    states = torch.random.get_rng_state()
    expected = torch.autograd.grad(chain(state, weight, 5, kept=True).sum(), (state, weight))
    found = torch.autograd.grad(chain(state, weight, 5, kept=False).sum(), (state, weight))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(states, torch.random.get_rng_state())


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_kept_for_the_backward_pass(kept: bool) -> None:
    """Numbers held by the graph: one state per step instead of every activation."""

    def held(steps: int) -> int:
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            found[tensor.data_ptr()] = tensor.numel()
            return tensor

        state = torch.randn(1, 1000, dtype=torch.float64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = chain(state, torch.ones(1000, dtype=torch.float64), steps, kept=kept)
        assert out.requires_grad
        return sum(found.values())

    grown = held(12) - held(3)
    assert grown >= 9 * 8000 if kept else grown <= 9 * 1000


def test_without_a_gradient_a_step_just_runs() -> None:
    calls = []
    with torch.no_grad():
        out = recomputed(lambda x: calls.append(1) or x + 1, torch.zeros(2))
    assert calls == [1]
    assert torch.equal(out, torch.ones(2))
