"""Which frames of a video make a clip. Pure functions of frame numbers and times."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

from robustvideo.errors import InputError
from robustvideo.model import uniform_indices

Pad = Literal["none", "loop", "last"]

INSTANT = 1e-6  # seconds; far below a frame, above the rounding of time stamps held in floats


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video, or of a stretch of it, are on display.

    Attributes:
        times: start of each frame in seconds after the video's first frame; they rise.
        end: when the last frame leaves the display.
    """

    times: tuple[float, ...]
    end: float

    def __len__(self) -> int:
        return len(self.times)

    @property
    def period(self) -> float:
        """Mean seconds per frame."""
        return (self.end - self.times[0]) / len(self.times)


@dataclass(frozen=True)
class Choice:
    """The frames of one clip.

    Attributes:
        frames: indices into the timeline, one per frame of the clip; they repeat where the video is padded.
        window: seconds from the first frame of the clip until the next one after its last would be due.
        lap: from when to when the video lasts that starts again in the clip; None where it does not.
    """

    frames: tuple[int, ...]
    window: tuple[float, float]
    lap: tuple[float, float] | None = None


@dataclass(frozen=True)
class Sampling:
    """How frames are chosen.

    Attributes:
        frames: number of frames per clip.
        stride: distance between two frames of a clip, in frames; 1 takes consecutive frames ("dense"). None
            spreads the frames evenly over the whole video ("uniform").
        start: number of the first frame; None centres the clip in the video.
        views: number of clips per video, spread evenly from its start to its end; each is a sample of its own.
        fps: sample the video as if it had this constant frame rate: position k is the frame on display at k / fps
            seconds. None counts the frames as they were stored, whatever their times.
        pad: what to do with a video that is too short: "none" calls it unusable, "loop" starts again, "last"
            repeats its last frame.

    Raises:
        InputError: a number that is not positive, or ``start`` or ``views`` without ``stride``.
    """

    frames: int = 16
    stride: int | None = None
    start: int | None = None
    views: int = 1
    fps: float | None = None
    pad: Pad = "none"

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "views", "fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name}= must be positive, got {value:g}.")
        if self.stride is None and (self.start is not None or self.views > 1):
            raise InputError("start= and views= place a window of frames: give its stride= as well.")
        if self.start is not None and (self.start < 0 or self.views > 1):
            raise InputError("start= is the number of the first frame, from 0, of a single view.")

    @property
    def span(self) -> int:
        """Positions that a clip reaches over, from its first frame to its last; uniform: as many as frames."""
        return self.frames if self.stride is None else (self.frames - 1) * self.stride + 1

    @property
    def needed(self) -> int:
        """Positions that a video must have."""
        first = self.start or 0
        return first + (self.span if self.pad == "none" else 1)

    def available(self, timeline: Timeline) -> int:
        """Positions that a video has: its frames, or the ticks of a clock at ``fps`` while it is on display."""
        if self.fps is None or not timeline.times:
            return len(timeline)
        return math.ceil((timeline.end - timeline.times[0] - INSTANT) * self.fps)

    def choose(self, timeline: Timeline, view: int = 0) -> Choice:
        """The frames of one view.

        Raises:
            ValueError: fewer positions than `needed`.
        """
        available = self.available(timeline)
        if available < self.needed:
            raise ValueError(f"{available} positions cannot hold {self.needed}")
        total = max(available, self.span + (self.start or 0))
        if self.stride is None:
            positions = tuple(uniform_indices(total, self.frames).tolist())
            window = (timeline.times[0], timeline.end if total == available else self._time(timeline, total))
        else:
            first = window_start(total, self.span, self.views, view) if self.start is None else self.start
            positions = tuple(first + i * self.stride for i in range(self.frames))
            window = (self._time(timeline, first), self._time(timeline, positions[-1] + self.stride))
        inside = (padded(p, available, self.pad) for p in positions)
        lap = None
        if self.pad == "loop" and positions[-1] >= available:
            lap = (timeline.times[0], self._time(timeline, available))
        return Choice(tuple(self._frame(timeline, p) for p in inside), window, lap)

    def _frame(self, timeline: Timeline, position: int) -> int:
        if self.fps is None:
            return position
        return bisect_right(timeline.times, timeline.times[0] + position / self.fps + INSTANT) - 1

    def _time(self, timeline: Timeline, position: int) -> float:
        if self.fps is not None:
            return timeline.times[0] + position / self.fps
        if position < len(timeline):
            return timeline.times[position]
        return timeline.end + (position - len(timeline)) * timeline.period


def window_start(available: int, span: int, views: int = 1, view: int = 0) -> int:
    """First position of a window: centred when it is the only one, else spread evenly from start to end."""
    if views == 1:
        return (available - span) // 2
    return round(view * (available - span) / (views - 1))


def padded(position: int, available: int, pad: Pad) -> int:
    """The position that stands in for one beyond the end."""
    if position < available:
        return position
    return position % available if pad == "loop" else available - 1
