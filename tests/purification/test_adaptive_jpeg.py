"""JPEG that follows the motion, and the flow that it follows."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.flow.dis import dis_flow
from robustvideo.purification.adaptive_jpeg import AdaptiveJPEG, moving_share
from robustvideo.purification.jpeg import compressed


def texture(side: int = 64) -> torch.Tensor:
    """(3, side, side) of smooth random colours, which flow can hold on to."""
    noise = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, (side, side), mode="bicubic")[0].clamp(0, 1)


def test_flow_finds_a_translation_in_x_and_y() -> None:
    pytest.importorskip("cv2")
    frame = texture()
    video = torch.stack([frame, frame.roll((2, 3), (1, 2)), frame.roll((4, 6), (1, 2))], 1)[None]
    flow = dis_flow(video)
    assert flow.shape == (1, 2, 2, 64, 64)
    inside = flow[..., 16:48, 16:48]
    assert (inside[:, 0] - 3).abs().mean() < 0.3, "x, to the right"
    assert (inside[:, 1] - 2).abs().mean() < 0.3, "y, downwards"
    assert dis_flow(video[:, :, :1]).shape == (1, 2, 0, 64, 64)


def test_nothing_moving_is_the_lowest_quality_everywhere() -> None:
    pytest.importorskip("cv2")
    jpeg = AdaptiveJPEG()
    assert jpeg.qualities(moving_share(torch.zeros(2, 2, 4, 8, 8))).tolist() == [[30] * 5] * 2
    still = Clip(texture()[None, :, None].expand(1, 3, 3, 64, 64))
    assert torch.equal(jpeg.purify(still, [0])[0].video, compressed(still.video, torch.full((1, 3), 30)))


def test_more_motion_is_more_quality() -> None:
    flow = torch.zeros(1, 2, 4, 10, 10)
    for t, rows in enumerate((0, 1, 2, 1)):
        flow[0, 0, t, :rows] = 5.0
    share = moving_share(flow)
    assert share[0].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.1, 0.1])
    assert AdaptiveJPEG().qualities(share)[0].tolist() == [30, 60, 90, 60, 60]
    assert AdaptiveJPEG(lowest=50, highest=50).qualities(share)[0].tolist() == [50] * 5


def test_its_stand_in_has_the_same_qualities() -> None:
    pytest.importorskip("cv2")
    frame = texture()
    clip = Clip(torch.stack([frame, frame.roll(4, 2), frame.roll(4, 2), frame.roll((4, 4), (1, 2))], 1)[None])
    jpeg = AdaptiveJPEG(lowest=50, highest=95)
    stand_in = jpeg.stand_in()
    assert stand_in is not None
    real, smooth = jpeg.purify(clip, [0])[0].video, stand_in.purify(clip, [0])[0].video
    assert (real - smooth).abs().mean() < 2 / 255
    assert (real - smooth).abs().mean() < 0.7 * (real - clip.video).abs().mean()


def test_without_opencv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match="robustvideo\\[purification\\]"):
        dis_flow(torch.rand(1, 3, 2, 16, 16))


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="above highest"):
        AdaptiveJPEG(lowest=60, highest=50)
    with pytest.raises(InputError, match="from 1"):
        AdaptiveJPEG(lowest=0)
