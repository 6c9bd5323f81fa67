"""Reading one clip from a video file: its frames, its sound, and their agreement in time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.data.dataset import UnusableClip
from robustvideo.data.decode import WHOLE, Stretch, decode_frames
from robustvideo.data.picture import Picture
from robustvideo.data.sampling import Choice, Sampling, Timeline
from robustvideo.data.sound import Sound, decode_looped_sound, decode_sound
from robustvideo.threat import GRID


@dataclass(frozen=True)
class Reading:
    """How a clip is made from a file.

    Attributes:
        sampling: which frames.
        picture: their size.
        sound: whether there is sound; its rate must be known.

    Raises:
        InputError: sound whose length would differ from clip to clip.
    """

    sampling: Sampling = field(default_factory=Sampling)
    picture: Picture = field(default_factory=Picture)
    sound: Sound = field(default_factory=Sound)

    def __post_init__(self) -> None:
        if self.sound.wanted:
            self.sound.seconds(self.sampling)


@dataclass(frozen=True)
class Recorded:
    """A clip in the whole numbers of a file.

    Attributes:
        video: uint8 (C, T, H, W), RGB.
        audio: int16 (channels, samples), or None.
        sample_rate: samples per second of the sound.
    """

    video: Tensor
    audio: Tensor | None = None
    sample_rate: int | None = None

    def clip(self, clip_id: str) -> Clip:
        """As a batch of one: video in [0, 1], sound in [-1, 1), both float32 and on the grid of a file."""
        audio = None if self.audio is None else self.audio[None].float() / GRID["audio"]
        return Clip(self.video[None].float() / GRID["video"], audio, self.sample_rate, (clip_id,))

    def digest(self) -> str:
        """32 hexadecimal digits of every value and of the shapes."""
        digest = hashlib.blake2b(f"{self.sample_rate}".encode(), digest_size=16)
        for signal in (self.video, self.audio):
            if signal is not None:
                digest.update(f"{tuple(signal.shape)}".encode())
                digest.update(signal.contiguous().numpy().tobytes())
        return digest.hexdigest()


def read_clip(path: Path, reading: Reading, stretch: Stretch = WHOLE, view: int = 0) -> Recorded:
    """Decode one clip.

    Args:
        path: a video file.
        reading: which frames, their size, and whether there is sound.
        stretch: the part of the video to take the clip from. Default: all of it.
        view: which of ``reading.sampling.views`` windows.

    Raises:
        UnusableClip: the file is missing or damaged, has no video, or is too short.
    """
    sampling, sound = reading.sampling, reading.sound
    chosen: list[Choice] = []

    def choose(timeline: Timeline) -> Sequence[int]:
        _check_length(path, timeline, sampling, stretch)
        chosen.append(sampling.choose(timeline, view))
        return chosen[0].frames

    frames = decode_frames(path, choose, reading.picture, stretch)
    if not sound.wanted or sound.audio_rate is None:
        return Recorded(frames.video)
    (start, end), lap = chosen[0].window, chosen[0].lap
    seconds = sound.seconds(sampling)
    begun = frames.origin + (start + end - seconds) / 2
    samples = round(seconds * sound.audio_rate)
    if lap is None:
        audio = decode_sound(path, sound.audio_rate, sound.channels, begun, samples)
    else:
        lap = (frames.origin + lap[0], frames.origin + lap[1])
        audio = decode_looped_sound(path, sound.audio_rate, sound.channels, begun, samples, lap)
    return Recorded(frames.video, audio, sound.audio_rate)


def _check_length(path: Path, timeline: Timeline, sampling: Sampling, stretch: Stretch) -> None:
    available = sampling.available(timeline)
    if available >= sampling.needed:
        return
    where = str(path)
    if stretch != WHOLE:
        until = "its end" if stretch.end is None else f"{stretch.end:g} s"
        where = f"{path} from {stretch.start:g} s to {until}"
    if not available:
        raise UnusableClip(f"{where} holds no video frame.")
    unit = "frame" if available == 1 else "frames"
    unit += "" if sampling.fps is None else f" at {sampling.fps:g} per second"
    remedy = "ask for fewer" if sampling.pad != "none" else "ask for fewer, or give pad=loop or pad=last"
    raise UnusableClip(f"{where} has {available} {unit}, {sampling.needed} are needed: {remedy}.")
