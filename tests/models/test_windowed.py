"""A windowed model: the mean over windows, attacked as a whole, in the memory of one window."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import ConvNet

from robustvideo.attacks import PGD
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.windowed import Windowed, window_starts


def video(frames: int, batch: int = 2) -> Clip:
    generator = torch.Generator().manual_seed(frames)
    pixels = torch.randint(0, 256, (batch, 3, frames, 6, 8), generator=generator).double() / 255
    return Clip(pixels)


@pytest.mark.parametrize(
    ("frames", "window", "stride", "expected"),
    [(16, 16, 16, [0]), (32, 16, 16, [0, 16]), (40, 16, 16, [0, 16, 24]), (20, 16, 2, [0, 2, 4]), (17, 16, 8, [0, 1])],
)
def test_windows_cover_every_frame(frames: int, window: int, stride: int, expected: list[int]) -> None:
    starts = window_starts(frames, window, stride)
    assert list(starts) == expected
    assert {f for s in starts for f in range(s, s + window)} == set(range(frames))


def test_one_window_is_the_model_itself() -> None:
    model, clip = ConvNet().double().eval(), video(4)
    assert torch.equal(Windowed(model, window=4)(clip), model(clip))


def test_logits_and_gradients_are_those_of_the_mean() -> None:
    model, clip = ConvNet().double().eval(), video(10)
    windowed = Windowed(model, window=4, stride=3)
    by_hand = torch.stack([model(Clip(clip.video[:, :, s : s + 4])) for s in (0, 3, 6)]).mean(0)
    assert torch.allclose(windowed(clip), by_hand, atol=1e-12)
    gradients = []
    for network in (
        windowed,
        lambda c: torch.stack([model(Clip(c.video[:, :, s : s + 4])) for s in (0, 3, 6)]).mean(0),
    ):
        pixels = clip.video.clone().requires_grad_()
        network(Clip(pixels)).square().sum().backward()
        gradients.append(pixels.grad)
    assert torch.allclose(*gradients, atol=1e-12)


class Listener(Model):
    """Its loudness: a square keeps its whole input for the backward pass."""

    def forward(self, clip: Clip) -> Tensor:
        return clip.signal("audio").square().mean((1, 2))[:, None]


def test_memory_is_that_of_a_window_when_only_the_sound_is_attacked() -> None:
    sound = torch.rand(2, 1, 800, dtype=torch.float64).requires_grad_()
    clip = replace(video(8), audio=sound, sample_rate=8000)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = Windowed(Listener(), window=4)(clip)
    assert not [tensor for tensor in kept if tensor.shape[-1] == 400]
    (gradient,) = torch.autograd.grad(logits.sum(), sound)
    assert torch.allclose(gradient, sound.detach() / 400, atol=1e-12)


def test_an_attack_changes_every_frame() -> None:
    clip = video(20)
    result = PGD(eps=8 / 255, steps=3, early_stop=False)(
        Windowed(ConvNet().double(), window=4), clip, torch.zeros(2, dtype=torch.long)
    )
    assert (result.clip.video != clip.video).any(1).any(2).any(2).all()


def test_too_short_and_unknown_lengths() -> None:
    with pytest.raises(InputError, match="shorter"):
        Windowed(ConvNet().double(), window=8)(video(4))
    with pytest.raises(InputError, match="frames"):
        Windowed(ConvNet())
