"""The exact gradient through every pass of a diffusion network, and what it holds in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from alive import Alive
from diffusing import SpaceToDepth, Tiny, a_video, networks
from torch import Tensor, nn
from toys import ConvNet

from robustvideo.attacks import load_attack
from robustvideo.clip import Clip
from robustvideo.purification import Defended, Purifier
from robustvideo.purification.ddim_inversion import DDIMInversion
from robustvideo.purification.diffpure import DiffPureDDIM, DiffPureDDPM
from robustvideo.purification.diffusion_model import Diffusion
from robustvideo.purification.videopure import VideoPure

EVERY = [
    DDIMInversion(),
    DiffPureDDIM(),
    DiffPureDDPM(steps=8),
    VideoPure(),
    VideoPure(flow=None, sides="two_sided", guided_way=True),
]
everyone = pytest.mark.parametrize("purifier", EVERY, ids=lambda purifier: purifier.registered_name)


def value(purifier: Purifier, network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A smooth function of all the answers."""
    clip = a_video()
    weight = torch.randn(clip.video.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def of(video: Tensor) -> Tensor:
        answers = purifier.purify(clip.with_signal("video", video), [5, 6], network)
        total: Tensor = torch.stack([(weight * a.video).sum() + a.video.square().sum() for a in answers]).sum()
        return total

    return of


def gradient(of: Callable[[Tensor], Tensor]) -> Tensor:
    video = a_video().video.requires_grad_()
    (found,) = torch.autograd.grad(of(video), video)
    return found


@everyone
@pytest.mark.parametrize("codec", [None, SpaceToDepth()], ids=["pixels", "latents"])
def test_it_is_that_of_finite_differences(purifier: Purifier, codec: Any) -> None:
    """Small steps: the signs of the temporal guidance and the flow are flat, and a step must not cross a jump."""
    if isinstance(purifier, VideoPure):
        purifier = replace(purifier, flow=None)
    channels = 3 if codec is None else 192
    of = value(purifier, networks(Tiny(channels), codec))
    found = gradient(of)
    random = torch.Generator().manual_seed(3)
    directions = [torch.randn(found.shape, generator=random, dtype=torch.float64) for _ in range(3)]
    step = 1e-7
    with torch.no_grad():
        video = a_video().video
        for direction in [*directions, found / found.norm() * 50]:
            slope = (of(video + step * direction) - of(video - step * direction)) / (2 * step)
            assert torch.allclose((found * direction).sum(), slope, rtol=1e-5, atol=1e-4)


@everyone
def test_it_is_that_of_the_whole_graph(purifier: Purifier, monkeypatch: pytest.MonkeyPatch) -> None:
    of = value(purifier, networks(Tiny()))
    found = gradient(of)
    for module in ("ddim_inversion", "diffpure", "videopure", "diffusion_model"):
        monkeypatch.setattr(f"robustvideo.purification.{module}.recomputed", lambda step, *given: step(*given))
    assert torch.allclose(gradient(of), found, rtol=0, atol=1e-12)


def test_the_noise_is_no_constant_to_it() -> None:
    """The commonest silent error is to hold the predicted noise fixed."""
    network = networks(Tiny())
    of = value(VideoPure(flow=None), network)
    found = gradient(of)
    diffusion = network["diffusion"]
    assert isinstance(diffusion, Diffusion)
    held = diffusion.noise
    diffusion.noise = lambda *given: held(*given).detach()  # type: ignore[method-assign]
    assert (gradient(of) - found).norm() > 0.1 * found.norm()


class Wide(nn.Module):
    """A network that holds a hundred times its state."""

    def forward(self, state: Tensor, timesteps: Tensor) -> Tensor:
        inner = state
        for _ in range(100):
            inner = inner.sin()
        return inner


in_any_number_of_steps = pytest.mark.parametrize(
    "made",
    [
        lambda steps: DDIMInversion(steps=steps),
        lambda steps: DiffPureDDPM(steps=steps),
        lambda steps: VideoPure(steps=steps, flow=None, candidate=0),
    ],
    ids=["ddim_inversion", "diffpure_ddpm", "videopure"],
)


@in_any_number_of_steps
def test_memory_does_not_follow_the_number_of_steps(made: Callable[[int], Purifier]) -> None:
    """The most tensors of a clip's size that are alive at once, forwards and backwards."""
    clip = a_video()
    network = networks(Wide())

    def held(steps: int) -> int:
        video = clip.video.clone().requires_grad_()
        with Alive(video.untyped_storage().nbytes()) as alive:
            (answer,) = made(steps).purify(clip.with_signal("video", video), [0, 1], network)
            torch.autograd.grad(answer.video.sum(), video)
        return alive.most

    few, many = held(3), held(12)
    assert few > 100  # the inside of a step
    assert many - few <= 5 * (12 - 3)  # a few states per step


@in_any_number_of_steps
def test_without_a_gradient_nothing_is_kept_of_a_step(made: Callable[[int], Purifier]) -> None:
    clip = a_video()
    network = networks(Tiny())

    def held(steps: int) -> int:
        with torch.no_grad(), Alive(clip.video.untyped_storage().nbytes()) as alive:
            made(steps).purify(clip, [0, 1], network)
        return alive.most

    assert held(3) == held(30)


@everyone
def test_a_defended_model_is_attacked_through_it(purifier: Purifier) -> None:
    """Every gradient mode runs; the exact one is the exact one of the logits."""

    class Given(type(purifier)):  # type: ignore[misc]
        def network(self) -> nn.Module:
            return networks(Tiny())

    clip = a_video()
    own = {field.name: getattr(purifier, field.name) for field in fields(purifier)}
    labels = torch.tensor([0, 1])
    for mode in ("exact", "bpda", "surrogate", None):
        model = Defended(ConvNet().double(), Given(**{**own, "gradient": mode}))
        adversarial = load_attack("pgd(eps=8/255, steps=2)")(model, clip, labels).clip
        assert (adversarial.video - clip.video).abs().max() > 1 / 255
    smooth = {"temporal": 0.0} if isinstance(purifier, VideoPure) else {}
    exact = Defended(ConvNet().double(), Given(**{**own, **smooth, "gradient": "exact"})).eval()
    video = clip.video.clone().requires_grad_()
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(video.shape, generator=random, dtype=torch.float64)

    def logit(point: Tensor) -> Tensor:
        return exact.votes(Clip(point, ids=clip.ids))[..., 0].mean()

    (slope,) = torch.autograd.grad(logit(video), video)
    with torch.no_grad():
        expected = (logit(video + 1e-7 * direction) - logit(video - 1e-7 * direction)) / 2e-7
    assert torch.allclose((slope * direction).sum(), expected, rtol=1e-4, atol=1e-7)


def test_the_surrogate_in_all_its_steps_is_the_exact_attack() -> None:
    clip = a_video()
    for purifier in (DDIMInversion(), VideoPure(flow=None)):
        full = replace(purifier, substeps=purifier.steps)
        of, same = value(purifier, networks(Tiny())), value(full, networks(Tiny()))
        assert torch.equal(gradient(of), gradient(same))
        assert torch.equal(of(clip.video), same(clip.video))
