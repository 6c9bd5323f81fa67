"""Small video files whose content tells which frame is which."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Pixels = np.ndarray

LOSSLESS = {"codec": "ffv1", "pixels": "bgr0"}
REORDERED = {"codec": "libx264rgb", "pixels": "rgb24", "options": {"qp": "0", "g": "25", "bf": "2"}}
"""Lossless, with frames predicted from later ones."""


def numbered(count: int, height: int = 24, width: int = 32, step: int = 1) -> list[Pixels]:
    """Frames whose grey level is their number times ``step``, modulo 256."""
    return [np.full((height, width, 3), i * step % 256, np.uint8) for i in range(count)]


def film(
    path: Path,
    frames: Sequence[Pixels],
    *,
    fps: float = 10,
    times: Sequence[float] | None = None,
    codec: str = "ffv1",
    pixels: str = "bgr0",
    options: dict[str, str] | None = None,
    sound: Pixels | None = None,
    rate: int = 8000,
    audio_codec: str = "pcm_s16le",
    sound_times: Sequence[tuple[int, float]] = ((0, 0.0),),
) -> Path:
    """Write a video file; ``times`` in seconds make its frame rate vary.

    ``sound`` is int16 (channels, samples); ``sound_times`` says at which second the piece from a sample on starts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.options = options or {}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        track = None
        if sound is not None:
            track = container.add_stream(audio_codec, rate=rate)
            track.layout = {1: "mono", 2: "stereo"}[sound.shape[0]]
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            if times is not None:
                frame.pts, frame.time_base = round(times[number] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if track is not None and sound is not None:
            ends = [first for first, _ in sound_times[1:]] + [sound.shape[1]]
            for (first, second), end in zip(sound_times, ends, strict=True):
                for start in range(first, end, 1024):
                    packed = np.ascontiguousarray(sound[:, start : min(start + 1024, end)].T).reshape(1, -1)
                    piece = av.AudioFrame.from_ndarray(packed, format="s16", layout=track.layout.name)
                    piece.sample_rate, piece.time_base = rate, Fraction(1, rate)
                    piece.pts = round(second * rate) + start - first
                    container.mux(track.encode(piece))
            container.mux(track.encode())
    return path


def rotate(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix (a, b, c, d) into the track header of an MP4: x' = a x + c y, y' = b x + d y."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = matrix
    for place, value in enumerate((a, b, 0, c, d, 0, 0, 0)):
        content[at + 4 * place : at + 4 * place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
