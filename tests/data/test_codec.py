"""Re-encoding in memory: the right frames, the right colours, the same bytes every time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.data.codec import Codec, parse_codec, reencode
from robustvideo.errors import InputError

LOSSY = ["h264:23", "mjpeg:5"]


def moving(batch: int = 2, frames: int = 8, height: int = 48, width: int = 64) -> Clip:
    """A textured ramp that slides to the right, another one for each clip, with some noise; on the 8-bit grid."""
    random = torch.Generator().manual_seed(7)
    t, y, x = (torch.arange(n, dtype=torch.float32) for n in (frames, height, width))
    rows = []
    for i in range(batch):
        wave = torch.sin((x[None, None] - 2 * t[:, None, None]) / (4 + i)) + torch.cos(y[None, :, None] / (5 + i))
        colours = torch.stack([0.5 + 0.2 * wave, 0.5 - 0.1 * wave, 0.4 + 0.15 * wave])
        rows.append(colours + 0.02 * torch.randn(colours.shape, generator=random))
    return Clip((torch.stack(rows).clamp(0, 1) * 255).round() / 255)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


@pytest.mark.parametrize("codec", [*LOSSY, "lossless"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 16, 16), (5, 17, 31), (7, 1, 2), (13, 6, 8), (2, 33, 20)], ids=str)
def test_shape_and_frames_are_kept(shape: tuple[int, int, int], channels: int, codec: str) -> None:
    video = moving(1, *shape).video[:, :channels]
    coded = reencode(Clip(video), codec)
    assert coded.video.shape == video.shape
    assert psnr(coded.video, video) > 20


@pytest.mark.parametrize("codec", LOSSY)
def test_frames_keep_their_order(codec: str) -> None:
    """Frames of rising brightness, with as many B-frames as the encoder likes."""
    levels = torch.linspace(0.1, 0.9, 23)
    video = levels.view(1, 1, -1, 1, 1).expand(1, 3, -1, 32, 32)
    coded = reencode(Clip(video.contiguous()), codec).video.mean((1, 3, 4))[0]
    assert (coded - levels).abs().max() < 0.02
    assert (coded.diff() > 0).all()


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize(
    "colour",
    [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 255, 0), (0, 0, 255), (13, 200, 77), (90, 91, 92)],
    ids=str,
)
def test_a_constant_colour_survives(colour: tuple[int, int, int], codec: str) -> None:
    """Within two levels: the way to YUV and the way back use one matrix and one range."""
    video = (torch.tensor(colour) / 255).view(1, 3, 1, 1, 1).expand(2, 3, 5, 24, 40).contiguous()
    coded = reencode(Clip(video), codec)
    assert (coded.video - video).abs().max() * 255 < 2.01


@pytest.mark.parametrize("qualities", [["h264:10", "h264:28", "h264:40"], ["mjpeg:2", "mjpeg:8", "mjpeg:31"]])
def test_quality_falls(qualities: list[str]) -> None:
    clip = moving()
    found = [psnr(reencode(clip, codec).video, clip.video) for codec in qualities]
    assert found[0] > found[1] + 1 > found[2] + 2, found


@pytest.mark.parametrize("codec", ["h264:10", "h264:23", "h264:28", "mjpeg:5"])
def test_the_same_clip_gives_the_same_bytes_alone_and_in_a_batch(codec: str) -> None:
    clip = moving(3)
    together = reencode(clip, codec).video
    for repeat in range(8):  # x264's assembly, left alone, differs about every tenth time
        scribble = [torch.full((1000 * (repeat + i + 1),), float(i)) for i in range(4)]  # other memory each time
        assert torch.equal(reencode(clip, codec).video, together)
        del scribble
    order = [2, 0]
    assert torch.equal(reencode(clip.select(order), codec).video, together[order])


def test_lossless_only_rounds() -> None:
    clip = moving()
    assert torch.equal(reencode(clip, "lossless").video, clip.video)
    between = Clip(clip.video * 0.999 + 0.0004)
    assert torch.equal(reencode(between, "lossless").video, (between.video * 255).round() / 255)


@pytest.mark.parametrize("codec", LOSSY)
def test_pixels_are_rounded_not_cut(codec: str) -> None:
    """Cutting to whole numbers would darken by half a level, and show as another clip."""
    clip = moving()
    almost = Clip((clip.video - 0.4 / 255).clamp(0, 1))
    assert torch.equal(reencode(almost, codec).video, reencode(clip, codec).video)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("codec", LOSSY)
def test_the_clip_is_left_alone_and_all_else_is_passed_on(codec: str, dtype: torch.dtype) -> None:
    video = moving().video.to(dtype)
    audio = torch.rand(2, 1, 40, dtype=dtype) - 0.5
    clip = Clip(video.requires_grad_(), audio, 8000, ("a", "b"))
    before = video.detach().clone()
    coded = reencode(clip, codec)
    assert torch.equal(video, before)
    assert coded.video.dtype == dtype
    assert not coded.video.requires_grad
    assert coded.video.data_ptr() != video.data_ptr()
    assert torch.equal(coded.signal("audio"), audio)
    assert (coded.sample_rate, coded.ids) == (8000, ("a", "b"))
    levels = coded.video * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert not torch.equal(coded.video, before)


def test_an_empty_batch_stays_empty() -> None:
    assert reencode(moving().select([]), "h264:23").video.shape == (0, 3, 8, 48, 64)


@pytest.mark.parametrize("scale", [255.0, -1.0, 1.01, float("nan")])
def test_ranges_are_never_guessed(scale: float) -> None:
    with pytest.raises(InputError, match="must lie in"):
        reencode(Clip(torch.full((1, 3, 2, 8, 8), scale)), "h264:23")
    with pytest.raises(InputError, match="1 or 3 channels"):
        reencode(Clip(torch.zeros(1, 2, 2, 8, 8)), "h264:23")


def test_specs() -> None:
    assert parse_codec("h264:23") == Codec("h264", 23)
    assert parse_codec(" mjpeg:5 ") == Codec("mjpeg", 5)
    assert parse_codec("lossless") == Codec("lossless")
    for text, message in (
        ("h265:28", "did you mean 'h264'"),
        ("h264", "write it like 'h264:23'"),
        ("h264:", "write it like"),
        ("h264:fine", "write it like"),
        ("h264:-1", "write it like"),
        ("h264:52", "from 0 .best. to 51, got 52"),
        ("mjpeg:1", "from 2 .best. to 31, got 1"),
        ("lossless:1", "write it like"),
    ):
        with pytest.raises(InputError, match=message):
            parse_codec(text)
