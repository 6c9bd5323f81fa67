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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from robustvideo.clip import Clip
from robustvideo.data.dataset import Sample, VideoDataset
from robustvideo.errors import InputError, unknown
from robustvideo.randomness import seed_for
from robustvideo.threat import GRID

Split = Literal["train", "val", "test"]
Array = NDArray[np.float32]

LABELS = ("right", "left", "down", "up", "clockwise", "counterclockwise", "zoom_in", "zoom_out")
"""Class names. Classes 2a and 2a + 1 move forwards and backwards along axis a of the pose."""

FRAMES, SIZE = 16, 48
FRAME_RATE, SAMPLE_RATE = 16, 8000

_CLIPS: dict[Split, int] = {"train": 4096, "val": 512, "test": 512}
_SCALES = (11.0, 24.0)  # pixels; an object reaches to at most 0.95 of its scale from its centre
_SPEEDS = (0.5, 1.0)  # circles per clip
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
        random = np.random.default_rng(seed_for("kinetic", sample.id))
        motion = Motion.draw(sample.label, random)
        video = torch.from_numpy(film(render(motion.poses(np.arange(FRAMES)), Scenery.draw(random)), random))[None]
        if not self.audio:
            return Clip(video=video, ids=(sample.id,))
        audio = torch.from_numpy(record(motion, random))[None]
        return Clip(video=video, audio=audio, sample_rate=SAMPLE_RATE, ids=(sample.id,))


@dataclass(frozen=True)
class Motion:
    """A constant speed along one circle of the pose.

    Attributes:
        label: class index.
        start: (4,) pose of the first frame, each in circles: column, row, angle (clockwise), log scale.
        speed: circles per clip, positive.
    """

    label: int
    start: Array
    speed: float

    @staticmethod
    def draw(label: int, random: np.random.Generator) -> Motion:
        """A uniform start and a uniform speed."""
        return Motion(label, random.random(4, np.float32), float(random.uniform(*_SPEEDS)))

    @property
    def axis(self) -> int:
        """Which part of the pose moves."""
        return self.label // 2

    @property
    def direction(self) -> int:
        """1 forwards, -1 backwards."""
        return 1 if self.label % 2 == 0 else -1

    def poses(self, frames: NDArray[Any]) -> Array:
        """(N, 4) poses in [0, 1) at the given frame numbers, which may be fractions."""
        poses = np.repeat(self.start[None], len(frames), axis=0)
        poses[:, self.axis] += self.direction * self.speed * frames / (FRAMES - 1)
        return poses % 1


@dataclass(frozen=True)
class Scenery:
    """What a clip looks like.

    Attributes:
        background: (3, SIZE, SIZE) colours in [0, 1]; periodic.
        sprite: (SIZE * SIZE, 4) colour and opacity of the object over [-1, 1] in units of its scale, row by row.
    """

    background: Array
    sprite: Array

    @staticmethod
    def draw(random: np.random.Generator) -> Scenery:
        """A random background and a random object."""
        sprite = np.concatenate([_texture(random), _shape(random)])
        return Scenery(_texture(random), np.ascontiguousarray(sprite.reshape(4, -1).T))


def _texture(random: np.random.Generator) -> Array:
    """A periodic (3, SIZE, SIZE) picture: a random colour plus random plane waves."""
    colour = 0.15 + 0.7 * random.random((3, 1), np.float32)
    frequencies = random.integers(-4, 5, (2, _WAVES, 1)).astype(np.float32)
    phases = random.random((_WAVES, 1, 1), np.float32)
    weights = random.standard_normal((3, _WAVES), np.float32) * np.float32(0.18 / _WAVES**0.5)
    rows, columns = frequencies * np.arange(SIZE, dtype=np.float32) / SIZE
    waves = _cosine(rows[:, :, None] + columns[:, None, :] + phases)
    return (colour + weights @ waves.reshape(_WAVES, -1)).clip(0, 1).reshape(3, SIZE, SIZE)


def _shape(random: np.random.Generator) -> Array:
    """(1, SIZE, SIZE) opacity of a random star-shaped figure of largest radius 0.95."""
    amplitudes = random.random((4, 1, 1), np.float32)
    phases = random.random((4, 1, 1), np.float32)
    place = np.linspace(-1, 1, SIZE, dtype=np.float32)
    angle = (np.arctan2(place[:, None], place[None, :]) / (2 * np.pi)).astype(np.float32)
    bumps = _cosine(np.arange(1, 5, dtype=np.float32)[:, None, None] * angle + phases)
    outline = 0.65 + 0.3 * (amplitudes * bumps).sum(0) / amplitudes.sum()
    distance = np.hypot(place[:, None], place[None, :])
    opacity: Array = ((outline - distance) * (SIZE / 4) + 0.5).clip(0, 1)
    return opacity[None]


def render(poses: Array, scenery: Scenery) -> Array:
    """The object at each pose over the background: (3, T, SIZE, SIZE) in [0, 1], without jitter or noise.

    Args:
        poses: (T, 4), see `Motion.poses`.
        scenery: background and object.
    """
    column, row, turn, zoom = poses.T[..., None, None]
    smallest, largest = _SCALES
    scale = smallest * (largest / smallest) ** zoom
    place = np.arange(SIZE, dtype=np.float32)
    x = _wrapped(place[None, None, :] - column * SIZE) / scale
    y = _wrapped(place[None, :, None] - row * SIZE) / scale
    cosine, sine = _cosine(turn), _cosine(turn - 0.25)
    video = np.repeat(scenery.background[:, None], len(poses), axis=1)
    u, v = cosine * x + sine * y, cosine * y - sine * x
    inside = np.flatnonzero((abs(u) < 1) & (abs(v) < 1))
    seen = _sample(scenery.sprite, u.ravel()[inside], v.ravel()[inside]).T
    flat = video.reshape(3, -1)
    flat[:, inside] += seen[3] * (seen[:3] - flat[:, inside])
    return video


def _sample(sprite: Array, u: Array, v: Array) -> Array:
    """Bilinear values (N, 4) of a sprite at columns u and rows v in (-1, 1)."""
    x, y = ((place + 1) * ((SIZE - 1) / 2) for place in (u, v))
    left, top = (np.minimum(np.floor(place), SIZE - 2) for place in (x, y))  # rounding may reach the last
    right, below = (x - left)[:, None], (y - top)[:, None]
    corner = (top * SIZE + left).astype(np.intp)
    upper = sprite[corner] * (1 - right) + sprite[corner + 1] * right
    lower = sprite[corner + SIZE] * (1 - right) + sprite[corner + SIZE + 1] * right
    values: Array = upper * (1 - below) + lower * below
    return values


def _wrapped(offset: Array) -> Array:
    """Signed distance on a circle of SIZE pixels, in [-SIZE / 2, SIZE / 2)."""
    return (offset + SIZE / 2) % SIZE - SIZE / 2


def _cosine(circles: Array) -> Array:
    cosine: Array = np.cos(np.float32(2 * np.pi) * circles)
    return cosine


def film(video: Array, random: np.random.Generator) -> Array:
    """Camera jitter of up to a pixel (the picture wraps around), sensor noise, 8-bit grid."""
    rows, columns = (np.arange(SIZE) + random.integers(-1, 2, (2, FRAMES, 1))) % SIZE
    frames = np.arange(FRAMES)[:, None, None]
    video = video[:, frames, rows[:, :, None], columns[:, None, :]]
    video += np.float32(_NOISE) * random.standard_normal(video.shape, np.float32)
    levels = np.float32(GRID["video"])
    stored: Array = (video.clip(0, 1) * levels).round() / levels
    return stored


def record(motion: Motion, random: np.random.Generator) -> Array:
    """(1, samples) of the sound that goes with a motion, on the 16-bit grid."""
    heard = motion
    if random.random() < _FOREIGN_SOUND:
        heard = replace(motion, label=int(random.integers(len(LABELS))))
    time = np.arange(SAMPLE_RATE * FRAMES // FRAME_RATE) / SAMPLE_RATE
    glide = heard.direction * heard.speed  # octaves per second
    cycles = _PITCHES[heard.axis] * np.expm1(np.log(2) * glide * time) / (np.log(2) * glide)
    beat = 4 * heard.poses(time * FRAME_RATE)[:, heard.axis]
    tone = 0.2 * (0.6 + 0.4 * np.cos(2 * np.pi * beat)) * np.cos(2 * np.pi * (cycles + random.random()))
    levels = GRID["audio"]
    sound = ((tone + 0.15 * random.standard_normal(len(time))) * levels).round() / levels
    stored: Array = sound.clip(-1, 1 - 1 / levels).astype(np.float32)
    return stored[None]
