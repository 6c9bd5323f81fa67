"""The small networks: any clip, any size, and what is 3-D and what is (2+1)-D about them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import classify
from robustvideo.models import load_model


@pytest.mark.parametrize("name", ["r3d_small", "r2plus1d_small"])
def test_clips_of_any_shape_become_logits(name: str) -> None:
    model = load_model(f"{name}?frames=8&size=24", num_classes=5)
    for shape in ((2, 3, 8, 24, 24), (1, 3, 11, 30, 20)):
        assert classify(model, Clip(torch.rand(shape))).shape == (shape[0], 5)


def test_a_2plus1d_convolution_sees_space_or_time() -> None:
    kernels = [m.kernel_size for m in load_model("r2plus1d_small").modules() if isinstance(m, nn.Conv3d)]
    assert kernels
    assert all(k[0] == 1 or k[1:] == (1, 1) for k in kernels)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="size= of a small network is at least 16, got 4"):
        load_model("r3d_small?size=4")
