"""Writing clips as files: lossless ones that give the same tensors back, and small previews for browsers."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.data.container import audio_stream, decoded, open_container, open_video
from robustvideo.data.dataset import UnusableClip
from robustvideo.data.reading import Recorded
from robustvideo.data.sound import packed_samples
from robustvideo.errors import InputError
from robustvideo.storage import write_atomically
from robustvideo.threat import GRID

_LOSSLESS = {1: "gray", 3: "bgra"}  # by channels; FFV1 has no rgb24, and any conversion is one too many
_LAYOUTS = {1: "mono", 2: "stereo"}
_DIGEST = "ROBUSTVIDEO_DIGEST"  # FFmpeg notices damage to FFV1 but hides it
_SAME_BYTES = "threads=1:cpu-independent=1"  # x264's assembly gives other bytes from run to run
_REPEATABLE = {"fflags": "+bitexact"}  # no date, no random identifiers: the same clip is the same file


def write_lossless(path: Path, clip: Clip, fps: float) -> None:
    """Write one clip so that `read_lossless` gives the same tensors bit for bit.

    FFV1 in Matroska; sound as 16-bit PCM. The same clip always gives the same file.

    Args:
        path: the file, ending in ``.mkv``; its folder is created.
        clip: a batch of one, of 1 or 3 channels, on the 8-bit grid (k / 255), sound on the 16-bit grid (k / 32768).
        fps: frames per second at which players show it.

    Raises:
        InputError: several clips at once, values off the grid, or a shape that no file holds.
        RobustVideoError: the file cannot be written.
    """
    if len(clip) != 1:
        raise InputError(f"A video file holds one clip, got a batch of {len(clip)}.")
    if clip.video.shape[1] not in _LOSSLESS or 0 in clip.video.shape:
        raise InputError(f"A video file holds 1 or 3 channels and at least one pixel, got {tuple(clip.video.shape)}.")
    if clip.audio is not None and (clip.audio.shape[1] not in _LAYOUTS or not clip.audio.shape[2]):
        raise InputError(f"A video file holds mono or stereo sound, at least a sample, got {tuple(clip.audio.shape)}.")
    video = _levels(clip.video[0], GRID["video"], 0, 255, "video").to(torch.uint8)
    audio = None
    if clip.audio is not None:
        audio = _levels(clip.audio[0], GRID["audio"], -32768, 32767, "audio").to(torch.int16)
    recorded = Recorded(video, audio, None if audio is None else clip.sample_rate)
    write_atomically(path, lambda temporary: _write_ffv1(temporary, recorded, _rate(fps)))


def read_lossless(path: Path) -> Clip:
    """The clip that `write_lossless` wrote: float32, named after the file.

    Raises:
        UnusableClip: a missing or damaged file: a single flipped bit is noticed.
        InputError: a file of another origin.
    """
    with open_video(path) as (container, stream):
        digest = container.metadata.get(_DIGEST)
        if stream.codec_context.name != "ffv1" or digest is None:
            raise InputError(f"{path} is not a lossless clip written by robustvideo: load it as a data set's video.")
        pictures = np.stack([frame.to_ndarray() for frame in decoded(path, container, stream)])
    pictures = pictures[..., None] if pictures.ndim == 3 else pictures[..., 2::-1]
    recorded = Recorded(torch.from_numpy(np.ascontiguousarray(pictures.transpose(3, 0, 1, 2))))
    with open_container(path) as container:
        sound = audio_stream(path, container)
        if sound is not None:
            pieces = [packed_samples(frame, sound.channels) for frame in container.decode(sound)]
            recorded = replace(recorded, audio=torch.from_numpy(np.hstack(pieces)), sample_rate=sound.rate)
    if recorded.digest() != digest:
        raise UnusableClip(f"{path} is damaged: its content is not what was written.")
    return recorded.clip(path.stem)


def write_preview(path: Path | None, video: Tensor, fps: float, min_side: int = 160) -> bytes:
    """A small video that every browser plays: H.264, 4:2:0, index first. Not for measuring anything.

    Args:
        path: where to write it as well; None only returns it.
        video: uint8 or float in [0, 1], (C, T, H, W) of 1 or 3 channels.
        fps: frames per second.
        min_side: small frames are enlarged by a whole factor, without smoothing, until their shorter side has at
            least this many pixels. Odd sides are extended by a repeated pixel.

    Returns:
        The bytes of the MP4 file.

    Raises:
        InputError: a tensor of another shape.
        RobustVideoError: the file cannot be written.
    """
    if video.ndim != 4 or video.shape[0] not in _LOSSLESS or 0 in video.shape:
        raise InputError(f"A preview is made from a (C, T, H, W) video of 1 or 3 channels, got {tuple(video.shape)}.")
    if video.is_floating_point():
        video = (video.detach() * 255).round().clamp(0, 255).to(torch.uint8)
    factor = max(1, math.ceil(min_side / min(video.shape[2:])))
    pixels = video.cpu().expand(3, -1, -1, -1).permute(1, 2, 3, 0).numpy().repeat(factor, 1).repeat(factor, 2)
    pixels = np.pad(pixels, ((0, 0), (0, pixels.shape[1] % 2), (0, pixels.shape[2] % 2), (0, 0)), mode="edge")
    with tempfile.TemporaryDirectory() as folder:  # the muxer reads its own file again to move the index
        temporary = Path(folder) / "preview.mp4"
        options = {**_REPEATABLE, "movflags": "+faststart"}
        with av.open(str(temporary), "w", format="mp4", container_options=options) as container:
            stream = container.add_stream("libx264", rate=_rate(fps))
            stream.height, stream.width = pixels.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "20", "preset": "veryfast", "x264-params": _SAME_BYTES, "flags": "+bitexact"}
            for picture in _pictures(pixels, "rgb24"):
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        content = temporary.read_bytes()
    if path is not None:
        write_atomically(path, lambda target: target.write_bytes(content))
    return content


def _write_ffv1(path: Path, recorded: Recorded, fps: Fraction) -> None:
    video = recorded.video.permute(1, 2, 3, 0).numpy()
    height, width, channels = video.shape[1:]
    images = video[..., 0] if channels == 1 else np.insert(video[..., ::-1], 3, 255, axis=3)
    with av.open(str(path), "w", format="matroska", container_options=_REPEATABLE) as container:
        container.metadata[_DIGEST] = recorded.digest()
        pictures = container.add_stream("ffv1", rate=fps)
        pictures.height, pictures.width = height, width
        pictures.pix_fmt = _LOSSLESS[channels]
        pictures.options = {"level": "3", "threads": "1", "flags": "+bitexact"}
        if height <= 288 and width <= 352:  # four slices, the default, need a few pixels each
            pictures.options = {**pictures.options, "slices": "1"}
        sound = None
        if recorded.audio is not None:
            sound = container.add_stream("pcm_s16le", rate=recorded.sample_rate)
            sound.layout = _LAYOUTS[len(recorded.audio)]
        for picture in _pictures(images, _LOSSLESS[channels]):
            container.mux(pictures.encode(picture))
        container.mux(pictures.encode())
        if sound is not None and recorded.audio is not None:
            for piece in _sound(recorded.audio.numpy(), sound.rate):
                container.mux(sound.encode(piece))
            container.mux(sound.encode())


def _levels(signal: Tensor, grid: int, least: int, most: int, name: str) -> Tensor:
    """The whole numbers that a file stores for a signal."""
    signal = signal.detach().cpu()
    levels = (signal * grid).round()
    if not (torch.equal(levels / grid, signal) and least <= int(levels.min()) and int(levels.max()) <= most):
        raise InputError(
            f"The clip's {name} is not on the grid of a file (whole multiples of 1/{grid} from {least} to {most}): "
            "round it first."
        )
    return levels


def _pictures(video: NDArray[np.uint8], pixels: str) -> Iterator[av.VideoFrame]:
    """One frame at a time out of (T, H, W, ...) in a pixel format."""
    for number, image in enumerate(video):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=pixels)
        picture.pts = number
        yield picture


def _sound(audio: NDArray[np.int16], rate: int) -> Iterator[av.AudioFrame]:
    """Pieces of up to a second out of (channels, samples)."""
    for start in range(0, audio.shape[1], rate):
        packed = np.ascontiguousarray(audio[:, start : start + rate].T).reshape(1, -1)
        piece = av.AudioFrame.from_ndarray(packed, format="s16", layout=_LAYOUTS[audio.shape[0]])
        piece.sample_rate = rate
        piece.pts = start
        piece.time_base = Fraction(1, rate)
        yield piece


def _rate(fps: float) -> Fraction:
    if not 0 < fps < math.inf:
        raise InputError(f"A video needs a positive frame rate, got {fps:g}.")
    return Fraction(fps).limit_denominator(1001 * 60)
