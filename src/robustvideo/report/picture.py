"""Small pictures on the page."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_COARSENESS = 5  # FFmpeg's scale, 2 is best and 31 worst


def jpeg(image: Tensor) -> bytes:
    """A (3, H, W) image in [0, 1] as JPEG."""
    import av

    pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = pixels.shape[:2]
    encoder.pix_fmt = "yuvj420p"
    encoder.time_base = Fraction(1, 1)
    encoder.options = {"qmin": str(_COARSENESS), "qmax": str(_COARSENESS), "flags": "+bitexact"}
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuvj420p", dst_colorspace="ITU601", dst_color_range="JPEG"
    )
    frame.pts = 0
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))
