"""The sparse code of a feature: exact where atoms are many and alike, as a trained encoder's features are."""

from __future__ import annotations

import pytest
import torch
from av_tiny import av_batch, av_network, av_stage
from torch import Tensor

from robustvideo.model import at_rest
from robustvideo.models.sparse_memory import (
    SparseMemory,
    WithSparseMemory,
    fista,
    rate_of,
    rebuild,
    sparse_code,
    support,
)
from robustvideo.training import load_training

DEFAULTS = WithSparseMemory()
SIZE, ATOMS = 64, 512


def orthonormal(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q


def collapsed(clips: int, seed: int) -> Tensor:
    """(clips, 64) features of 27 classes, nearly alike within each, of singular values from 100 down to 0.01."""
    scales = torch.logspace(0, -3, SIZE, dtype=torch.float64)
    means = torch.randn(27, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(clips, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 5 * (means[torch.arange(clips) % 27] + 0.3 * noise) * scales


def violation(x: Tensor, memory: Tensor, code: Tensor, sparsity: float) -> float:
    """Of the optimality conditions, as a share of the sparsity: D'(x - D h) is its sign on the support, less off it."""
    pull = (x - code @ memory.T) @ memory / sparsity
    return float(torch.where(code != 0, pull - code.sign(), (pull.abs() - 1).clamp_min(0)).abs().max())


def test_the_code_of_an_orthonormal_memory_is_one_threshold() -> None:
    torch.manual_seed(0)
    memory, x = orthonormal(5), torch.randn(3, 5, dtype=torch.float64)
    target = x @ memory
    expected = target.sign() * (target.abs() - 0.1).clamp_min(0)
    torch.testing.assert_close(fista(x, memory, 0.1, 1, rate=1.0), expected)
    torch.testing.assert_close(fista(x, memory, 0.1, 200, rate_of(memory)), expected)
    torch.testing.assert_close(sparse_code(x, memory, 0.1), expected)


@pytest.mark.parametrize("kind", ["collapsed", "random", "of itself", "in fp32"])
def test_the_code_meets_its_optimality_conditions(kind: str) -> None:
    memory, x = collapsed(ATOMS, 1).T, collapsed(16, 2)
    if kind == "random":
        torch.manual_seed(0)
        memory, x = torch.randn(SIZE, ATOMS, dtype=torch.float64), torch.randn(4, SIZE, dtype=torch.float64)
    elif kind == "of itself":
        x = memory.T[:16]
    elif kind == "in fp32":  # as a model does it
        memory, x = memory.float(), x.float()
    code = sparse_code(x, memory, DEFAULTS.sparsity)
    tolerance = 1e-3 if kind == "in fp32" else 1e-5
    assert violation(x.double(), memory.double(), code.double(), DEFAULTS.sparsity) < tolerance
    assert ((code != 0).sum(1) <= SIZE).all()
    torch.testing.assert_close(rebuild(x, memory, 0.1, "implicit", 1, 0.0), code @ memory.T, rtol=1e-4, atol=1e-4)
    if kind == "collapsed":  # where iterations by gradient are nowhere near: the case this solver is there for
        early = fista(x, memory, DEFAULTS.sparsity, DEFAULTS.iterations, rate_of(memory))
        assert violation(x, memory, early, DEFAULTS.sparsity) > 0.1
        assert (early != 0).sum(1).double().mean() > 2 * (code != 0).sum(1).double().mean()


@pytest.mark.parametrize("apart", [0.0, 1e-7, 1e-5, 1e-4, 1e-2])
def test_clips_remembered_twice_do_no_harm(apart: float) -> None:
    once = collapsed(ATOMS // 2, 1).T
    torch.manual_seed(0)
    memory = torch.cat([once, once * (1 + apart * torch.randn_like(once)), 0 * once], 1)
    x = collapsed(16, 2)
    assert violation(x, memory, sparse_code(x, memory, 0.1), 0.1) < 1e-2
    assert not sparse_code(x, 0 * memory, 0.1).any()


def test_the_least_squares_fit_is_the_limit_of_a_vanishing_sparsity() -> None:
    memory, x = collapsed(20, 1).T, collapsed(3, 2)
    fitted = torch.linalg.lstsq(memory, x.T).solution.T
    torch.testing.assert_close(sparse_code(x, memory, 1e-9), fitted, rtol=1e-4, atol=1e-4)


def test_the_implicit_gradient_is_that_of_finite_differences() -> None:
    """At the default settings and many more atoms than numbers; the gradient that passes by is far from it."""
    memory, x = collapsed(ATOMS, 1).T, collapsed(16, 2).requires_grad_()
    torch.manual_seed(0)
    direction, weight, h = torch.randn_like(x), torch.randn_like(x), 1e-6

    def objective(point: Tensor, mode: str) -> Tensor:
        rebuilt = rebuild(point, memory, DEFAULTS.sparsity, mode, DEFAULTS.iterations, rate_of(memory))  # type: ignore[arg-type]
        return (rebuilt * weight).sum(1)

    with torch.no_grad():
        expected = (objective(x + h * direction, "implicit") - objective(x - h * direction, "implicit")) / (2 * h)
    found = {}
    for mode in ("implicit", "unrolled", "identity"):
        (gradient,) = torch.autograd.grad(objective(x, mode).sum(), x)
        found[mode] = (gradient * direction).sum(1)
    torch.testing.assert_close(found["implicit"], expected, rtol=1e-4, atol=1e-4)
    assert (found["identity"] - expected).abs().median() > 1
    with torch.no_grad():
        torch.testing.assert_close(objective(x, "unrolled"), objective(x, "implicit"))


def test_the_unrolled_gradient_is_the_implicit_one_after_enough_iterations() -> None:
    torch.manual_seed(0)
    memory = torch.randn(8, 5, dtype=torch.float64)
    x, weight = torch.randn(3, 8, dtype=torch.float64, requires_grad=True), torch.randn(3, 8, dtype=torch.float64)
    slopes = []
    for mode in ("implicit", "unrolled", "identity"):
        value = rebuild(x, memory, 0.1, mode, 3000, rate_of(memory))  # type: ignore[arg-type]
        slopes.append(torch.autograd.grad((value * weight).sum(), x)[0])
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(slopes[2], weight)


def test_a_feature_cut_short_is_coded_for_a_larger_sparsity(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, x = collapsed(ATOMS, 1).T, collapsed(4, 2)
    monkeypatch.setattr("robustvideo.models.sparse_memory._TURNS", 6)
    reached = support(x, memory, 0.1).sparsity
    assert (reached > 0.1).all()
    short = sparse_code(x, memory, 0.1)
    monkeypatch.undo()
    for i, sparsity in enumerate(reached.tolist()):
        torch.testing.assert_close(short[i : i + 1], sparse_code(x[i : i + 1], memory, sparsity), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gradient", ["implicit", "unrolled", "identity"])
def test_the_step_of_fista_is_found_once(gradient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = av_network(f"sparse_memory(atoms=6, gradient={gradient}, iterations=20)")
    assert isinstance(model, SparseMemory)
    load_training("dcfl").before_epoch(av_stage(model))
    for name in ("video", "audio"):
        largest = torch.linalg.svdvals(model.memory(name))[0]
        torch.testing.assert_close(model.get_buffer(f"rate_{name}"), 0.99 / largest**2)
    other = av_network(f"sparse_memory(atoms=6, gradient={gradient}, iterations=20)", seed=1)
    other.load_state_dict(model.state_dict())

    def refused(*_: object) -> None:
        raise AssertionError("a decomposition in a forward pass")

    monkeypatch.setattr(torch.linalg, "matrix_norm", refused)
    clip, _ = av_batch()
    video = clip.video.clone().requires_grad_()
    with at_rest(other):
        logits = other(clip.with_signal("video", video))
    (slope,) = torch.autograd.grad(logits.square().sum(), video)
    assert slope.isfinite().all()
    assert slope.any()
