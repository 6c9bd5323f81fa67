"""The sound of a clip: what is heard while its frames are on display, at one rate and of one length for a data set.

Rules:

* The frames of a clip last from the first one until the next one after the last would be due; uniformly spread frames
  stand for the whole video. The sound is that of this time, so that the n-th part of it belongs to the n-th frame.
* Clips of a batch need sound of one length. With ``stride`` and ``fps`` the time of the frames has one; without them it
  differs from video to video, and the length must be given: ``audio_seconds``, around the middle of the frames' time.
* Where a short video starts again (``pad=loop``), its sound does, too.
* Outside the track, in a gap of it, and in a file without sound there is silence (zeros).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import torch
from torch import Tensor

from robustvideo.data.container import audio_stream, open_container
from robustvideo.data.sampling import Sampling
from robustvideo.errors import InputError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from numpy.typing import NDArray

_GAP = 0.05  # seconds; what a stamp may be off before it means that sound is missing
_MARGIN = 0.1  # seconds decoded beyond a window, so that its last samples are resampled from real ones
_LAYOUTS = {1: "mono", 2: "stereo"}


@dataclass(frozen=True)
class Sound:
    """Whether and how the sound of a clip is read.

    Attributes:
        audio: read the sound. ``audio_rate`` alone asks for it as well.
        audio_rate: samples per second; other tracks are resampled. None: the rate that all files share.
        channels: 1 mixes down to mono, 2 is stereo.
        audio_seconds: length of the sound; it has the same middle as the time of the frames. None: as long as that
            time, ``frames * stride / fps`` with both ``stride`` and ``fps`` given; without them it must be said. A
            length other than that of their time brings sound and frames out of step.

    Raises:
        InputError: a rate or length that is not positive, or more than two channels.
    """

    audio: bool = False
    audio_rate: int | None = None
    channels: int = 1
    audio_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("audio_rate", "audio_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name}= must be positive, got {value:g}.")
        if self.channels not in _LAYOUTS:
            raise InputError(f"channels= is 1 (mono) or 2 (stereo), got {self.channels}.")

    @property
    def wanted(self) -> bool:
        """Is sound asked for?"""
        return self.audio or self.audio_rate is not None

    def seconds(self, sampling: Sampling) -> float:
        """Length of the sound of every clip.

        Raises:
            InputError: the frames cover another time in every video, and no length is given.
        """
        if self.audio_seconds is not None:
            return self.audio_seconds
        if sampling.stride is not None and sampling.fps is not None:
            return sampling.frames * sampling.stride / sampling.fps
        needed = " and ".join(f"{name}=" for name in ("stride", "fps") if getattr(sampling, name) is None)
        raise InputError(
            f"Without {needed} the frames cover another time in every video, and their sound has no common length: "
            f"give {needed}, or audio_seconds= where all videos last equally long."
        )


def native_rate(path: Path) -> int | None:
    """Samples per second of a file's sound; None when it has none.

    Raises:
        UnusableClip: the file is missing or damaged.
    """
    with open_container(path) as container:
        stream = audio_stream(path, container)
        return stream.rate if stream else None


def decode_sound(path: Path, rate: int, channels: int, start: float, samples: int) -> Tensor:
    """A window of a file's sound.

    Args:
        path: a video file.
        rate: samples per second of the result.
        channels: 1 or 2.
        start: time of the first sample on the container's clock, in seconds; it may lie before the track.
        samples: length of the window.

    Returns:
        int16 (channels, samples); silence wherever the file has no sound.

    Raises:
        UnusableClip: the file is missing or damaged.
    """
    window = np.zeros((channels, samples), dtype=np.int16)
    until = start + samples / rate + _MARGIN
    with open_container(path) as container:
        for piece in _pieces(path, container, rate, channels, start, until):
            sound = piece.finished()
            offset = round((piece.begun - start) * rate) + piece.skipped
            low, high = max(offset, 0), min(offset + sound.shape[1], samples)
            if low < high:
                window[:, low:high] = sound[:, low - offset : high - offset]
    return torch.from_numpy(window)


def decode_looped_sound(
    path: Path, rate: int, channels: int, start: float, samples: int, lap: tuple[float, float]
) -> Tensor:
    """`decode_sound`, where the time between the two of ``lap`` on the container's clock is heard again and again."""
    low, high = (round((time - start) * rate) for time in lap)
    places = torch.arange(samples)
    places = torch.where(places < high, places, low + (places - low) % max(1, high - low))
    first = int(places.min())  # before the window where its first frame is not the video's
    sound = decode_sound(path, rate, channels, start + first / rate, int(places.max()) + 1 - first)
    return sound[:, places - first]


def packed_samples(frame: AudioFrame, channels: int) -> NDArray[np.int16]:
    """The samples of a packed 16-bit frame, (channels, samples)."""
    return frame.to_ndarray().astype(np.int16, copy=False).reshape(-1, channels).T


class _Piece:
    """An unbroken piece of a track on its way to another rate and number of channels.

    Args:
        begun: the container's clock at its first sample.
        rate: samples per second of the result.
        channels: of the result.
        start: the container's clock before which nothing is kept: a track may be far longer than memory.

    Attributes:
        skipped: samples that were not kept.
    """

    def __init__(self, begun: float, rate: int, channels: int, start: float):
        self.begun = begun
        self.due = begun
        self.skipped = 0
        self._seen = 0
        self._needless = round((start - begun) * rate)
        self._channels = channels
        self._resampler = av.AudioResampler(format="s16", layout=_LAYOUTS[channels], rate=rate)
        self._parts: list[NDArray[np.int16]] = [np.zeros((channels, 0), dtype=np.int16)]

    def add(self, frame: AudioFrame) -> None:
        """Append the next frame; `due` moves on to where it ends."""
        self._take(frame)
        self.due += frame.samples / frame.sample_rate

    def finished(self) -> NDArray[np.int16]:
        """All of it that was kept, (channels, samples)."""
        self._take(None)
        return np.concatenate(self._parts, axis=1)

    def _take(self, frame: AudioFrame | None) -> None:
        for out in self._resampler.resample(frame):
            if out is None:  # what a resampler with nothing to do answers at the end
                continue
            self._seen += out.samples
            if self._seen <= self._needless:
                self.skipped = self._seen
            else:
                self._parts.append(packed_samples(out, self._channels))


def _pieces(
    path: Path, container: InputContainer, rate: int, channels: int, start: float, until: float
) -> Iterator[_Piece]:
    """The track between two times on the container's clock, cut where its stamps jump."""
    stream = audio_stream(path, container)
    if stream is None:
        return
    piece = None
    for frame in container.decode(stream):
        time = frame.time
        if time is not None and time >= until:
            break
        if piece is None or (time is not None and abs(time - piece.due) > _GAP):
            if piece is not None:
                yield piece
            piece = _Piece(time or 0.0, rate, channels, start)
        piece.add(frame)
    if piece is not None:
        yield piece
