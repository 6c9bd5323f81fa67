"""A trained generator in front of another model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toys import ConvNet, clips

from robustvideo.errors import InputError
from robustvideo.model import classify
from robustvideo.models.generator import BehindGenerator, Generator
from robustvideo.purification import Defended
from robustvideo.purification.ape_gan import ApeGanPurifier


def test_it_is_the_generator_that_was_trained(tmp_path: Path) -> None:
    trained = BehindGenerator(Generator(3), ConvNet()).eval()
    path = tmp_path / "model.safetensors"
    save_file(trained.state_dict(), path)
    clip = clips(2, dtype=torch.float32)
    defended = Defended(trained.undefended, ApeGanPurifier(file=str(path)))
    assert torch.equal(classify(defended, clip), classify(trained, clip))


def test_what_is_no_generator_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(ConvNet().state_dict(), path)
    with pytest.raises(InputError, match="holds no generator"):
        ApeGanPurifier(file=str(path)).network()
    with pytest.raises(InputError, match="needs file="):
        ApeGanPurifier()
    with pytest.raises(InputError, match="no checkpoint"):
        ApeGanPurifier(file=str(tmp_path / "none.safetensors")).network()
