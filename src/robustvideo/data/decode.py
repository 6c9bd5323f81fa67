"""Decoding: the frames of a video file, each with the time at which it is shown.

What a file's header says about its length is never trusted: the frames are counted by decoding them. A stretch that
begins late in a long file is reached by seeking, and only where the time stamps prove that the decoder arrived
before it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from robustvideo.data.container import audio_stream, decoded, open_video
from robustvideo.data.dataset import UnusableClip
from robustvideo.data.picture import Picture
from robustvideo.data.sampling import INSTANT, Timeline

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

_SEEK_BEYOND = 10.0  # seconds; nearer, decoding from the start is as fast
_KEPT_BYTES = 256 * 2**20  # of decoded frames held until it is known which are wanted
_TOGETHER = 16  # frames resized in one call, at most
_PIXELS_TOGETHER = _TOGETHER * 1920 * 1080
_UNKNOWN_RATE = 25.0


@dataclass(frozen=True)
class VideoFacts:
    """What a file really holds, found by decoding it.

    Attributes:
        frames: number of frames.
        fps: average frame rate.
        width, height: pixels as displayed, after rotation.
        duration: seconds from the first frame's start to the last one's end.
        rotation: degrees by which the display turns the stored frames counterclockwise.
        audio_rate: samples per second of the sound; None without sound.
        audio_channels: channels of the sound; 0 without.
    """

    frames: int
    fps: float
    width: int
    height: int
    duration: float
    rotation: int
    audio_rate: int | None
    audio_channels: int


@dataclass(frozen=True)
class Stretch:
    """A part of a video: the frames shown from ``start`` on and before ``end``, in seconds after the first frame."""

    start: float = 0.0
    end: float | None = None

    def holds(self, time: float) -> bool:
        """Is a frame shown at this time part of it?"""
        return time >= self.start - INSTANT and not self.is_over(time)

    def is_over(self, time: float) -> bool:
        """Do all frames from this time on lie behind it?"""
        return self.end is not None and time >= self.end - INSTANT


WHOLE = Stretch()


@dataclass(frozen=True)
class Frames:
    """Decoded frames.

    Attributes:
        video: uint8 (C, T, H, W), RGB.
        origin: the container's clock, in seconds, at the video's first frame: where time 0 of a timeline is.
    """

    video: Tensor
    origin: float


def probe(path: Path) -> VideoFacts:
    """Decode a file and tell what it holds.

    Raises:
        UnusableClip: it is missing or damaged, or has no video frame.
    """
    with open_video(path) as (container, _):
        sound = audio_stream(path, container)
        rate, channels = (sound.rate, sound.channels) if sound else (None, 0)
    seen = _watch(path, WHOLE, None, keep=False)
    if not seen.stamps:
        raise UnusableClip(f"{path} holds no video frame.")
    _, timeline = seen.timeline(WHOLE)
    width, height = seen.display
    duration = timeline.end - timeline.times[0]
    return VideoFacts(len(timeline), len(timeline) / duration, width, height, duration, seen.rotation, rate, channels)


def decode_frames(
    path: Path, choose: Callable[[Timeline], Sequence[int]], picture: Picture, stretch: Stretch = WHOLE
) -> Frames:
    """The chosen frames of a video.

    Args:
        path: a video file.
        choose: given the times of all frames in the stretch, returns the indices of the wanted ones, in any order
            and as often as wanted. Called once.
        picture: size and shape of the frames.
        stretch: the part of the video to choose from. Default: all of it.

    Raises:
        UnusableClip: the file is missing or damaged, or its frames change their size and ``picture`` keeps it.
    """
    seen, seek = _reached(path, stretch)
    first, timeline = seen.timeline(stretch)
    wanted = [first + index for index in choose(timeline)]
    if seen.kept is not None and seen.kept.keys() >= set(wanted):
        pictures = _pictures(((index, seen.kept[index]) for index in sorted(set(wanted))), picture)
    else:
        pictures = _fetch(path, set(wanted), seek, picture)
    if len({p.shape for p in pictures.values()}) > 1:
        raise UnusableClip(f"{path} changes its frame size on the way: give size= to bring its frames to one.")
    return Frames(torch.stack([pictures[index] for index in wanted], dim=1), seen.stamps[0] or 0.0)


@dataclass
class _Seen:
    """What one pass over a file saw.

    Attributes:
        rate: the frame rate to assume where time stamps cannot be used.
        stamps: the container's clock, in seconds, at each frame, in display order. The first one is always that of
            the file's first frame, also where the pass jumped ahead after it.
        rising: whether every frame has a stamp and they rise. AVI files with B-frames carry stamps in a wrong
            order; the decoder's own order is then the truth.
        kept: the frames of the stretch by index; None when they did not fit into memory.
        last: seconds for which the last frame is shown; 0 when unknown.
        display: width and height of the first frame, turned as it is displayed.
        rotation: its rotation, in degrees counterclockwise.
    """

    rate: float
    stamps: list[float | None] = field(default_factory=list)
    rising: bool = True
    kept: dict[int, VideoFrame] | None = field(default_factory=dict)
    last: float = 0.0
    display: tuple[int, int] = (0, 0)
    rotation: int = 0

    def add(self, frame: VideoFrame) -> None:
        """Note the next frame."""
        stamp, before = frame.time, self.stamps[-1] if self.stamps else None
        if not self.stamps:
            turned = _quarter_turns(frame) % 2 == 1
            self.display = (frame.height, frame.width) if turned else (frame.width, frame.height)
            self.rotation = frame.rotation
        self.rising = self.rising and stamp is not None and (before is None or stamp > before)
        self.stamps.append(stamp)
        self.last = float((frame.duration or 0) * (frame.time_base or 0))

    def now(self) -> float | None:
        """Time of the last frame in seconds after the file's first; None where the stamps cannot tell."""
        first, stamp = self.stamps[0], self.stamps[-1]
        return stamp - first if self.rising and stamp is not None and first is not None else None

    def arrived_before(self, start: float) -> bool:
        """After a jump: do the stamps prove that no frame of the stretch was jumped over?"""
        first, second = (*self.stamps, None, None)[:2]
        return self.rising and first is not None and second is not None and second - first <= start

    def timeline(self, stretch: Stretch) -> tuple[int, Timeline]:
        """The times of the frames in the stretch, and the index of the first of them."""
        if self.rising:
            times = [stamp - (self.stamps[0] or 0.0) for stamp in self.stamps if stamp is not None]
        else:
            times = [index / self.rate for index in range(len(self.stamps))]
        inside = [index for index, time in enumerate(times) if stretch.holds(time)]
        if not inside:
            return 0, Timeline((), 0.0)
        first, beyond = inside[0], inside[-1] + 1
        if beyond < len(times):
            end = times[beyond]
        elif self.rising and self.last > 0:
            end = times[-1] + self.last
        else:
            end = times[-1] + 1 / self.rate
        return first, Timeline(tuple(times[first:beyond]), end)


def _reached(path: Path, stretch: Stretch) -> tuple[_Seen, float | None]:
    """What a pass over the stretch saw, and the time to which it jumped; None when it began at the start."""
    if stretch.start > _SEEK_BEYOND:
        with suppress(UnusableClip):  # some files can only be decoded from their start
            seen = _watch(path, stretch, stretch.start)
            if seen.arrived_before(stretch.start):
                return seen, stretch.start
    return _watch(path, stretch, None), None


def _watch(path: Path, stretch: Stretch, seek: float | None, keep: bool = True) -> _Seen:
    """Decode up to the end of the stretch."""
    held = 0
    with open_video(path) as (container, stream):
        seen = _Seen(float(stream.average_rate or 0) or _UNKNOWN_RATE, kept={} if keep else None)
        with closing(_frames(path, container, stream, seek)) as frames:
            for frame in frames:
                seen.add(frame)
                now = seen.now()
                if now is not None and stretch.is_over(now):
                    break
                if now is not None and not stretch.holds(now):
                    continue
                if frame.is_corrupt:
                    raise UnusableClip(f"{path} is damaged at its frame {len(seen.stamps) - 1}.")
                held += 3 * frame.width * frame.height
                if held > _KEPT_BYTES:
                    seen.kept = None
                if seen.kept is not None:
                    seen.kept[len(seen.stamps) - 1] = frame
    return seen


def _fetch(path: Path, wanted: set[int], seek: float | None, picture: Picture) -> dict[int, Tensor]:
    """Decode again for the frames at some indices."""
    with (
        open_video(path) as (container, stream),
        closing(_frames(path, container, stream, seek)) as frames,
    ):
        upto = islice(enumerate(frames), max(wanted) + 1)
        return _pictures(((index, frame) for index, frame in upto if index in wanted), picture)


def _pictures(frames: Iterable[tuple[int, VideoFrame]], picture: Picture) -> dict[int, Tensor]:
    """Frames by index as uint8 (C, H, W), RGB, at the size of a clip."""
    pictures: dict[int, Tensor] = {}
    pixels = ((index, _rgb(frame)) for index, frame in frames)
    for _, run in groupby(enumerate(pixels), key=lambda item: (item[0] // _at_once(item[1][1]), item[1][1].shape)):
        indices, arrays = zip(*(pair for _, pair in run), strict=True)
        fitted = picture.fitted(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))
        pictures.update(zip(indices, fitted, strict=True))
    return pictures


def _at_once(pixels: NDArray[np.uint8]) -> int:
    """How many frames of the size of (H, W, 3) to resize in one call."""
    height, width, _ = pixels.shape
    return int(max(1, min(_TOGETHER, _PIXELS_TOGETHER // (height * width))))


def _frames(
    path: Path, container: InputContainer, stream: VideoStream, seek: float | None
) -> Generator[VideoFrame, None, None]:
    """The file's first frame, then those after it; or, with ``seek``, those from a key frame before that time on."""
    if seek is not None:
        with closing(decoded(path, container, stream)) as beginning:
            first = next(beginning, None)
        if first is None or first.time is None or not stream.time_base:
            return
        yield first
        container.seek(int((first.time + seek) / float(stream.time_base)), stream=stream)
    yield from decoded(path, container, stream)


def _rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """(H, W, 3), turned as it is displayed."""
    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.rot90(pixels, _quarter_turns(frame))


def _quarter_turns(frame: VideoFrame) -> int:
    return round(frame.rotation / 90) % 4
