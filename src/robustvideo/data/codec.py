"""Re-encoding clips in memory: what is left of a clip once it was stored with a lossy video codec.

Nothing touches a disk and no container is involved: packets go from the encoder straight to the decoder, so no
muxer can drop or repeat a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import av
import numpy as np
import torch
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from robustvideo.clip import Clip
from robustvideo.errors import InputError, RobustVideoError, unknown
from robustvideo.threat import GRID

CodecName = Literal["lossless", "h264", "mjpeg"]
Pixels = NDArray[np.uint8]

_QUALITIES: Mapping[str, range] = {"h264": range(52), "mjpeg": range(2, 32)}
_ENCODERS: Mapping[str, str] = {"h264": "libx264", "mjpeg": "mjpeg"}
_PIXELS: Mapping[str, str] = {"h264": "yuv420p", "mjpeg": "yuvj420p"}
_FPS = 25  # a clip has no clock; rate control at a constant quality hardly looks at it


@dataclass(frozen=True)
class Codec:
    """A codec and its quality.

    Attributes:
        name: "h264" (x264, preset medium, 4:2:0, BT.601), "mjpeg" (4:2:0, full range), or "lossless", which only
            rounds to 8 bits.
        quality: for h264 the constant rate factor, 0 (best) to 51; players' usual material has 18 to 28. For mjpeg
            the quantiser scale, 2 (best) to 31. 0 for lossless.

    Raises:
        InputError: an unknown name, or a quality out of the codec's range.
    """

    name: CodecName
    quality: int = 0

    def __post_init__(self) -> None:
        if self.name not in get_args(CodecName):
            raise unknown("codec", self.name, get_args(CodecName))
        allowed = _QUALITIES.get(self.name)
        if allowed is not None and self.quality not in allowed:
            raise InputError(
                f"The quality of {self.name} is a whole number from {allowed[0]} (best) to {allowed[-1]}, "
                f"got {self.quality}."
            )


def parse_codec(text: str) -> Codec:
    """Read ``h264:23``, ``mjpeg:5`` or ``lossless``.

    Raises:
        InputError: an unknown codec, or a quality that is missing or out of range.
    """
    name, colon, quality = text.strip().partition(":")
    if name not in get_args(CodecName):
        raise unknown("codec", name, get_args(CodecName))
    if name == "lossless" and not colon:
        return Codec("lossless")
    if name == "lossless" or not quality.isascii() or not quality.isdigit():
        raise InputError(f"Cannot read the codec {text!r}: write it like 'h264:23', 'mjpeg:5' or 'lossless'.")
    return Codec(name, int(quality))  # type: ignore[arg-type]


def reencode(clip: Clip, codec: str) -> Clip:
    """Every clip of a batch as its file would be decoded, encoded alone and always to the same bytes.

    Pixels are rounded to 8 bits, encoded, decoded, and divided by 255. Colours go to YUV and back by one matrix,
    with chroma at half the resolution: no quality setting is lossless. Odd sides are extended by a repeated pixel
    and cut afterwards. Sound is passed on as it is. The result has no gradient.

    Args:
        clip: video (B, C, T, H, W) in [0, 1], C of 1 or 3; it is left as it is.
        codec: see `parse_codec`.

    Returns:
        The clip with its video on the 8-bit grid, in the type and on the device of the one given.

    Raises:
        InputError: an unknown codec, values outside [0, 1], or a number of channels that no video has.
        RobustVideoError: the decoder did not return the frames that were encoded.
    """
    chosen = parse_codec(codec)
    clip.check_range()
    if clip.video.shape[1] not in (1, 3) or 0 in clip.video.shape[2:]:
        raise InputError(f"Only clips of 1 or 3 channels can be encoded, got {tuple(clip.video.shape)}.")
    levels = (clip.video.detach() * GRID["video"]).round()
    if chosen.name != "lossless":
        pixels = levels.to("cpu", torch.uint8).numpy()
        coded = np.stack([_coded(video, chosen) for video in pixels]) if len(pixels) else pixels
        levels = torch.from_numpy(coded).to(levels)
    return clip.detach().with_signal("video", levels / GRID["video"])


def _coded(video: Pixels, codec: Codec) -> Pixels:
    """One video (C, T, H, W), encoded and decoded."""
    channels = video.shape[0]
    height, width = video.shape[2:]
    frames = np.broadcast_to(video, (3, *video.shape[1:])).transpose(1, 2, 3, 0)
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    decoded = _through(codec, frames)
    if decoded.shape != frames.shape:
        raise RobustVideoError(
            f"The {codec.name} codec returned frames of shape {decoded.shape} for {frames.shape}: "
            "this build of FFmpeg cannot be used for re-encoding."
        )
    return decoded[:, :height, :width, :channels].transpose(3, 0, 1, 2)


def _through(codec: Codec, frames: Pixels) -> Pixels:
    """RGB frames (T, H, W, 3), even in height and width, encoded and decoded."""
    encoder = av.CodecContext.create(_ENCODERS[codec.name], "w")
    decoder = av.CodecContext.create(codec.name, "r")
    assert isinstance(encoder, VideoCodecContext)
    assert isinstance(decoder, VideoCodecContext)
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt = _PIXELS[codec.name]
    encoder.framerate, encoder.time_base = Fraction(_FPS), Fraction(1, _FPS)
    encoder.thread_count = decoder.thread_count = 1  # several threads would change the encoder's bytes
    if codec.name == "h264":
        # without cpu-independent, x264's assembly gives other bytes from call to call (seen with macroblock trees)
        encoder.options = {"crf": str(codec.quality), "preset": "medium", "x264-params": "cpu-independent=1"}
    else:
        encoder.options = {"qmin": str(codec.quality), "qmax": str(codec.quality)}
    pictures: list[av.VideoFrame] = []
    for picture in (*_pictures(frames), None):
        for packet in encoder.encode(picture):
            pictures += decoder.decode(packet)
    pictures += decoder.decode(None)
    return np.stack([picture.to_ndarray(format="rgb24") for picture in pictures])


def _pictures(frames: Pixels) -> Iterator[av.VideoFrame]:
    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = number
        yield picture
