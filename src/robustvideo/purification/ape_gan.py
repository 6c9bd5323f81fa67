"""A trained APE-GAN generator as a purifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.models.checkpoint import load_state, read_state
from robustvideo.models.generator import Generator
from robustvideo.purification.purifier import Gradient, Purifier, defenses

_PREFIX = "generator."


@defenses.register("ape_gan")
@dataclass(frozen=True)
class ApeGanPurifier(Purifier):
    """A 3-D APE-GAN generator that ``ape`` or ``gat`` trained, in front of any model (Jin et al. 2019).

    Attributes:
        file: what ``robustvideo train`` wrote for a network ``with=ape_gan()``; its generator is used, its network is
            not. Required.

    Raises:
        InputError: no file is named.
    """

    differentiable: ClassVar[bool] = True

    gradient: Gradient | None = "exact"
    file: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.file:
            raise InputError("ape_gan needs file=, a model with a generator that 'robustvideo train' wrote.")

    def network(self) -> nn.Module:
        state = read_state(Path(self.file).expanduser())
        own = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
        if not own:
            raise InputError(f"{self.file} holds no generator: train a network with=ape_gan() by ape or gat.")
        with torch.random.fork_rng([]):  # the weights that are drawn here are replaced at once
            generator = Generator(width=len(own["last.weight"]))
        load_state(generator, own, self.file)
        return generator.eval()

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        assert network is not None, "purify loads the network"
        return (clip.with_signal("video", network(clip.video).to(clip.video.dtype)),)
