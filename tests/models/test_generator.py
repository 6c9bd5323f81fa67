"""The generator in front of a model: shapes, ranges, padding, and gradients that pass through it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.model import Model, Purified, wrap
from robustvideo.models.acceleration import gradient_twin
from robustvideo.models.generator import BehindGenerator, Discriminator, Generator


def a_model(seed: int = 0) -> BehindGenerator:
    """Small, smooth, in double precision, with settled batch statistics."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Softplus(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
    model = BehindGenerator(Generator(2), wrap(network, frames=4, size=10)).double()
    for _ in range(3):
        model(a_clip(4))
    return model.eval()


def a_clip(clips: int = 2, shape: tuple[int, int, int] = (5, 9, 11)) -> Clip:
    return Clip(torch.rand(clips, 3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


@pytest.mark.parametrize("shape", [(8, 16, 16), (1, 1, 1), (5, 9, 11), (13, 24, 7)])
def test_it_keeps_every_shape_and_the_range(shape: tuple[int, int, int]) -> None:
    video = a_clip(2, shape).video.float()
    cleaned = Generator(2)(video).detach()
    assert cleaned.shape == video.shape
    assert float(cleaned.min()) >= 0
    assert float(cleaned.max()) <= 1


def test_padding_repeats_the_edges() -> None:
    generator = Generator(2).double().eval()
    video = a_clip(1, (7, 8, 8)).video
    whole = torch.cat([video, video[:, :, -1:]], 2)
    torch.testing.assert_close(generator(video), generator(whole)[:, :, :7])


def test_the_published_width_is_the_default() -> None:
    generator, discriminator = Generator(), Discriminator()
    convolutions = [m.out_channels for m in generator.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    assert convolutions == [64, 128, 256, 128, 64, 3]
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv3d)]
    assert [m.out_channels for m in layers] == [64, 128, 256, 512]
    assert all(m.bias is None for m in layers)


@pytest.mark.parametrize("shape", [(16, 32, 32), (3, 5, 20), (1, 1, 1)])
def test_the_discriminator_takes_any_size(shape: tuple[int, int, int]) -> None:
    assert Discriminator(2)(a_clip(3, shape).video.float()).shape == (3,)


def test_it_is_a_purified_model() -> None:
    model, clip = a_model(), a_clip()
    assert isinstance(model, Purified)
    assert model.gradient_mode == "exact"
    assert isinstance(model.undefended, Model)
    torch.testing.assert_close(model(clip), model.undefended(model.purify(clip)))
    assert model.purify(clip).ids == clip.ids
    assert not torch.allclose(model(clip), model.undefended(clip))
    assert model.separate == {"undefended": model.undefended}


def test_the_gradient_through_the_generator_is_that_of_finite_differences() -> None:
    model, clip = a_model(), a_clip(1)

    def score(video: Tensor) -> Tensor:
        return model(Clip(video))[0] @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    video = clip.video.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(video), video)
    direction = torch.randn(video.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        slope = (score(clip.video + step * direction) - score(clip.video - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-10)


def test_a_gradient_twin_has_the_same_gradient_and_abilities() -> None:
    model, clip = a_model(), a_clip()
    twin = gradient_twin(model, "fp32")
    assert isinstance(twin, Purified)
    gradients = []
    for network in (model, twin):
        video = clip.video.clone().requires_grad_()
        gradients.append(torch.autograd.grad(network(Clip(video)).square().sum(), video)[0])
    torch.testing.assert_close(*gradients)


def test_clips_do_not_mix() -> None:
    model, clip = a_model(), a_clip(3)
    torch.testing.assert_close(model(clip)[[2, 0]], model(clip.select([2, 0])))


def test_it_trains_towards_the_identity() -> None:
    """With the squared error alone, a tiny generator gets better all the time."""
    torch.manual_seed(0)
    generator = Generator(8)
    ramp = torch.linspace(0.2, 0.8, 16)
    video = (ramp[:, None] * ramp).expand(4, 3, 8, 16, 16) * torch.tensor([0.5, 0.8, 1, 1.2])[:, None, None, None, None]
    optimizer = torch.optim.Adam(generator.parameters(), 2e-3)
    losses = []
    for _ in range(40):
        loss = (generator(video) - video).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    means = [sum(losses[i : i + 8]) for i in range(0, 40, 8)]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.3 * means[0]
