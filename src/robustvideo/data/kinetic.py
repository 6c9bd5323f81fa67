"""`embedded:kinetic`: short procedural clips whose class is how an object moves, never how it looks.

An object of random shape and texture moves over a random background, with camera jitter and noise. What moves is
its pose (column, row, angle, log scale), and each of the four lives on a circle: the picture wraps around at its
edges, an angle is circular, and a scale that grows beyond its largest value starts again at its smallest. The pose
of the first frame is uniform and every class moves it at a constant speed along one of the four circles, so the pose
of *every* frame is uniform in *every* class: a single frame says nothing about the class, by construction. Nor do
all frames together without their order: a clip played backwards is a clip of the opposite class.

Nothing is read from disk; a clip is a function of its split and index alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.data.dataset import Sample, VideoDataset
from robustvideo.errors import InputError, unknown
from robustvideo.randomness import seed_for
from robustvideo.threat import GRID

Split = Literal["train", "val", "test"]

LABELS = ("right", "left", "down", "up", "clockwise", "counterclockwise", "zoom_in", "zoom_out")
"""Class names. Classes 2a and 2a + 1 move forwards and backwards along axis a of the pose."""

FRAMES, SIZE = 16, 48
FRAME_RATE, SAMPLE_RATE = 16, 8000

_CLIPS: dict[Split, int] = {"train": 4096, "val": 512, "test": 512}
_SCALES = (9.0, 20.0)  # pixels; an object reaches to at most 0.95 of its scale from its centre
_SPEEDS = (0.35, 0.8)  # circles per clip
_WAVES = 8
_NOISE = 0.03
_PITCHES = (440.0, 700.0, 1100.0, 1750.0)  # Hz, one per axis
_FOREIGN_SOUND = 0.35  # share of clips that are heard with the sound of a random class


class Kinetic(VideoDataset):
    """The embedded data set: 16 frames of 48 x 48 at 16 frames per second, 8 classes, balanced.

    Args:
        split: "train" (4096 clips by default), "val" (512) or "test" (512); they share no clip.
        clips: how many clips, from the first; None is the split's default. Any number can be had.
        audio: add one second of mono sound at 8 kHz. Its pitch tells the axis of the motion, a glide its
            direction, and its loudness beats in step with it; it is noisy, and 35 % of the clips carry the sound of
            a class drawn at random, so that hearing alone cannot be right more than 69 % of the time.

    Raises:
        InputError: an unknown split or no clip at all.
    """

    labels = LABELS

    def __init__(self, *, split: Split = "train", clips: int | None = None, audio: bool = False):
        if split not in get_args(Split):
            raise unknown("split of embedded:kinetic:", split, get_args(Split))
        count = _CLIPS[split] if clips is None else clips
        if count < 1:
            raise InputError(f"embedded:kinetic needs at least one clip, got clips={count}.")
        self.split: Split = split
        self.audio = audio
        self._count = count

    @property
    def spec(self) -> str:
        """The spec that builds this data set."""
        return f"embedded:kinetic?split={self.split}&clips={self._count}" + ("&audio=true" if self.audio else "")

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """Ids and labels of all clips; labels go round, so that any first few clips are balanced."""
        return [Sample(f"{self.split}-{i:06d}", i % len(LABELS)) for i in range(self._count)]

    def __len__(self) -> int:
        return self._count

    def clip(self, index: int) -> Clip:
        """Draw one clip, as a batch of one."""
        sample = self.samples[index]
        random = torch.Generator().manual_seed(seed_for("kinetic", sample.id))
        motion = _Motion.draw(sample.label, random)
        video = render(motion.poses(torch.arange(FRAMES)), _Scenery.draw(random))
        video = _film(video, random)[None]
        if not self.audio:
            return Clip(video=video, ids=(sample.id,))
        return Clip(video=video, audio=_record(motion, random)[None], sample_rate=SAMPLE_RATE, ids=(sample.id,))


@dataclass(frozen=True)
class _Motion:
    """A constant speed along one circle of the pose.

    Attributes:
        label: class index.
        start: (4,) pose of the first frame, each in circles: column, row, angle, log scale.
        speed: circles per clip, positive.
    """

    label: int
    start: Tensor
    speed: float

    @staticmethod
    def draw(label: int, random: torch.Generator) -> _Motion:
        slowest, fastest = _SPEEDS
        start = torch.rand(4, generator=random)
        return _Motion(label, start, slowest + (fastest - slowest) * float(torch.rand((), generator=random)))

    @property
    def axis(self) -> int:
        return self.label // 2

    @property
    def direction(self) -> int:
        return 1 if self.label % 2 == 0 else -1

    def poses(self, frames: Tensor) -> Tensor:
        """(N, 4) poses in circles, in [0, 1), at the given (fractional) frame numbers."""
        poses = self.start.repeat(len(frames), 1)
        poses[:, self.axis] += self.direction * self.speed * frames / (FRAMES - 1)
        return poses - poses.floor()


@dataclass(frozen=True)
class _Scenery:
    """What a clip looks like.

    Attributes:
        background: (3, SIZE, SIZE) in [0, 1]; periodic.
        sprite: (4, SIZE, SIZE) colour and opacity of the object, over [-1, 1] in units of its scale.
    """

    background: Tensor
    sprite: Tensor

    @staticmethod
    def draw(random: torch.Generator) -> _Scenery:
        return _Scenery(_texture(random), torch.cat([_texture(random), _shape(random)]))


def _texture(random: torch.Generator) -> Tensor:
    """A periodic (3, SIZE, SIZE) picture: a random colour plus random plane waves."""
    colour = 0.15 + 0.7 * torch.rand(3, 1, generator=random)
    frequencies = torch.randint(-4, 5, (2, _WAVES, 1), generator=random)
    phases = torch.rand(_WAVES, 1, generator=random)
    weights = torch.randn(3, _WAVES, generator=random) * (0.18 / _WAVES**0.5)
    place = torch.arange(SIZE) / SIZE
    rows, columns = frequencies * place
    waves = (2 * math.pi * (rows[:, :, None] + columns[:, None, :] + phases[:, :, None])).cos()
    return (colour + weights @ waves.flatten(1)).clamp(0, 1).view(3, SIZE, SIZE)


def _shape(random: torch.Generator) -> Tensor:
    """(1, SIZE, SIZE) opacity of a random star-shaped figure, of largest radius 0.95."""
    harmonics = torch.arange(1, 5)[:, None]
    amplitudes = torch.rand(4, 1, generator=random)
    phases = 2 * math.pi * torch.rand(4, 1, generator=random)
    place = torch.linspace(-1, 1, SIZE)
    angle = torch.atan2(place[:, None], place[None, :]).flatten()
    bumps = (amplitudes * (harmonics * angle + phases).cos()).sum(0) / amplitudes.sum()
    outline = 0.65 + 0.3 * bumps
    distance = (place[:, None].square() + place[None, :].square()).sqrt().flatten()
    return ((outline - distance) * (SIZE / 4) + 0.5).clamp(0, 1).view(1, SIZE, SIZE)


def render(poses: Tensor, scenery: _Scenery) -> Tensor:
    """The object at each pose over the background: (3, T, SIZE, SIZE) in [0, 1], without jitter or noise.

    Args:
        poses: (T, 4) in circles: column, row, angle (clockwise), log scale.
        scenery: background and object.
    """
    column, row, turn, zoom = poses.T[..., None, None]
    smallest, largest = _SCALES
    scale = smallest * (largest / smallest) ** zoom
    place = torch.arange(SIZE, dtype=torch.float32)
    x = _wrapped(place[None, None, :] - column * SIZE) / scale
    y = _wrapped(place[None, :, None] - row * SIZE) / scale
    cosine, sine = (2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()
    grid = torch.stack([cosine * x + sine * y, cosine * y - sine * x], dim=-1)
    sprite = scenery.sprite.expand(len(poses), -1, -1, -1)
    seen = F.grid_sample(sprite, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    colour, opacity = seen[:, :3], seen[:, 3:]
    return (scenery.background + opacity * (colour - scenery.background)).transpose(0, 1)


def _wrapped(offset: Tensor) -> Tensor:
    """Signed distance on a circle of SIZE pixels, in [-SIZE / 2, SIZE / 2)."""
    return (offset + SIZE / 2).remainder(SIZE) - SIZE / 2


def _film(video: Tensor, random: torch.Generator) -> Tensor:
    """Camera jitter of up to a pixel (the picture wraps around), sensor noise, 8-bit grid."""
    jitter = torch.randint(-1, 2, (2, FRAMES, 1), generator=random)
    rows, columns = (torch.arange(SIZE) + jitter).remainder(SIZE)
    frames = torch.arange(FRAMES)[:, None, None]
    video = video[:, frames, rows[:, :, None], columns[:, None, :]]
    video = video + _NOISE * torch.randn(video.shape, generator=random)
    return (video.clamp_(0, 1) * GRID["video"]).round_() / GRID["video"]


def _record(motion: _Motion, random: torch.Generator) -> Tensor:
    """(1, SAMPLE_RATE * FRAMES / FRAME_RATE) samples of the sound that goes with a motion, on the 16-bit grid."""
    heard = motion
    if torch.rand((), generator=random) < _FOREIGN_SOUND:
        other = int(torch.randint(len(LABELS), (), generator=random))
        heard = _Motion(other, motion.start, motion.speed)
    time = torch.arange(SAMPLE_RATE * FRAMES // FRAME_RATE) / SAMPLE_RATE
    progress = heard.speed * time
    # the integral of pitch * 2^(glide * progress), so that the tone has no clicks
    rate = heard.direction * heard.speed * math.log(2)
    cycles = _PITCHES[heard.axis] * torch.expm1(rate * time) / rate
    beat = heard.poses(time * FRAME_RATE)[:, heard.axis]
    loudness = 0.6 + 0.4 * (2 * math.pi * 4 * beat).cos()
    tone = 0.2 * loudness * (2 * math.pi * (cycles + torch.rand((), generator=random))).sin()
    sound = tone + 0.15 * torch.randn(tone.shape, generator=random)
    levels = GRID["audio"]
    return ((sound * levels).round() / levels).clamp(-1, 1 - 1 / levels)[None]
