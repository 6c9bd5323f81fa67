"""Sound on the page: both tracks to listen to, both spectrograms to look at, and how loud the change is."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from robustvideo.report.picture import jpeg

if TYPE_CHECKING:
    from torch import Tensor

_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""What an AAC encoder takes; other sound is resampled to the last."""

_BITS_PER_SECOND = 48_000  # per channel: to listen to, not to measure
_LONGEST = 30  # seconds of sound that the page holds
_WINDOW, _ROWS, _COLUMNS = 512, 112, 360
_DECIBELS = 60.0  # below the loudest of both tracks, shown as black
_HEAT = ((0.0, 0.0, 0.02), (0.33, 0.07, 0.43), (0.73, 0.21, 0.33), (0.98, 0.56, 0.04), (0.99, 1.0, 0.64))
"""Colours from silent to loud."""


@dataclass(frozen=True)
class Track:
    """One sound track.

    Attributes:
        audio: AAC in MP4; at most 30 seconds.
        spectrogram: JPEG.
    """

    audio: bytes
    spectrogram: bytes


@dataclass(frozen=True)
class SoundPreview:
    """What the page needs of the sound of a saved clip.

    Attributes:
        clean, adversarial: both tracks, their spectrograms on one scale.
        signal_to_noise: in decibels; infinite when the sound is unchanged.
        relative_loudness: of the largest change, in decibels relative to the loudest sample.
        seconds: length of the tracks.
    """

    clean: Track
    adversarial: Track
    signal_to_noise: float
    relative_loudness: float
    seconds: float


def make_sound_preview(clean: Tensor, adversarial: Tensor, rate: int) -> SoundPreview:
    """A preview of two tracks (channels, samples) in [-1, 1] of the same shape."""
    from robustvideo.distances import relative_loudness, signal_to_noise

    pictures = spectrograms([clean.mean(0), adversarial.mean(0)])
    tracks = [
        Track(encoded(sound[:, : _LONGEST * rate], rate), jpeg(picture))
        for sound, picture in zip((clean, adversarial), pictures, strict=True)
    ]
    return SoundPreview(
        clean=tracks[0],
        adversarial=tracks[1],
        signal_to_noise=float(signal_to_noise(clean[None], adversarial[None])),
        relative_loudness=float(relative_loudness(clean[None], adversarial[None])),
        seconds=clean.shape[1] / rate,
    )


def spectrograms(tracks: list[Tensor]) -> list[Tensor]:
    """(3, H, W) pictures in [0, 1] of the spectrograms of mono tracks (samples,).

    Time to the right, frequency upwards, linear, up to half the rate; loudness in decibels below the loudest place of
    all tracks.
    """
    import torch
    import torch.nn.functional as F

    window = torch.hann_window(_WINDOW)
    power = []
    for track in tracks:
        padded = F.pad(track.float(), (_WINDOW // 2, _WINDOW // 2))
        hop = max(1, len(track) // _COLUMNS)
        spectrum = torch.stft(padded, _WINDOW, hop, window=window, center=False, return_complex=True)
        power.append(spectrum.abs().square())
    loudest = max(float(p.max()) for p in power) or 1.0
    pictures = []
    for p in power:
        level = (1 + 10 * (p / loudest + 10 ** (-_DECIBELS / 10)).log10() / _DECIBELS).clamp(0, 1)
        size = (_ROWS, _COLUMNS)
        pictures.append(
            _coloured(F.interpolate(level.flip(0)[None, None], size, mode="bilinear", antialias=True)[0, 0])
        )
    return pictures


def _coloured(level: Tensor) -> Tensor:
    """Colours (3, H, W) of levels (H, W) in [0, 1]."""
    import torch

    stops = torch.tensor(_HEAT)
    place = level * (len(stops) - 1)
    low = place.long().clamp(max=len(stops) - 2)
    share = (place - low)[..., None]
    return ((1 - share) * stops[low] + share * stops[low + 1]).permute(2, 0, 1)


def encoded(sound: Tensor, rate: int) -> bytes:
    """(channels, samples) in [-1, 1] as a small AAC file that every browser plays."""
    import av
    import numpy as np

    layout = "stereo" if len(sound) == 2 else "mono"
    wanted = rate if rate in _RATES else _RATES[-1]
    samples = (sound.clamp(-1, 1) * 32767).round().short().numpy()
    packed = np.ascontiguousarray(samples.T).reshape(1, -1)
    with tempfile.TemporaryDirectory() as folder:  # the muxer reads its own file again to move the index
        path = Path(folder) / "sound.m4a"
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(str(path), "w", format="mp4", container_options=options) as container:
            stream = container.add_stream("aac", rate=wanted, options={"flags": "+bitexact"})
            stream.layout = layout
            stream.bit_rate = _BITS_PER_SECOND * len(sound)
            resampler = av.AudioResampler(format="fltp", layout=layout, rate=wanted, frame_size=1024)
            piece = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
            piece.sample_rate, piece.pts, piece.time_base = rate, 0, Fraction(1, rate)
            for frame in (*resampler.resample(piece), *resampler.resample(None)):
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()
