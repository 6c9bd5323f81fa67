"""Attacks that survive storage: the clip is attacked through the codecs that it may be stored with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustvideo.attacks.attack import attacks
from robustvideo.attacks.averaged import Averaged, Copies
from robustvideo.attacks.gradients import GradientEstimator
from robustvideo.attacks.pgd import PGD
from robustvideo.clip import Clip
from robustvideo.data.codec import parse_codec, reencode
from robustvideo.errors import InputError


@attacks.register("codec_pgd")
@dataclass(frozen=True)
class CodecPGD(PGD):
    """PGD on the mean loss over re-encoded copies of the clip, so that what it finds survives storage.

    In every step the clip is really encoded and decoded by each codec. A codec has no useful gradient: the backward
    pass takes it for the identity (BPDA: Athalye et al. 2018; expectation over transformations: the same). A clip
    leaves the batch once it fools the model through *every* codec of the list, and losslessly.

    The verdict, as every attack's, is on the lossless file. How much survives is another question: re-encode the
    result with `robustvideo.data.codec.reencode` and classify it. PGD that stops at the first success survives
    least of all; PGD with ``early_stop=false`` is the comparison that says what the codecs in the loop are worth.

    Attributes:
        codecs: codecs and qualities, see `robustvideo.data.codec.parse_codec`. One step costs as many passes.
            Default: the lossless file, H.264 at a constant rate factor of 23 (the encoder's default), and motion
            JPEG at quantiser scale 5.

    Raises:
        InputError: no codec, an unknown one, or a quality out of range.
    """

    codecs: tuple[str, ...] = ("lossless", "h264:23", "mjpeg:5")

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if not self.codecs:
            raise InputError("codec_pgd needs at least one codec, such as codecs=['h264:23'].")
        for codec in self.codecs:
            parse_codec(codec)

    def estimator(self) -> GradientEstimator:
        return codec_expectation(self.codecs)


def codec_expectation(codecs: tuple[str, ...]) -> Averaged:
    """The estimator that averages gradients over codecs; any gradient attack can be given it."""
    return Averaged(transform=Reencoded(codecs), weights=(1 / len(codecs),) * len(codecs))


@dataclass(frozen=True)
class Reencoded:
    """Copy number r of a clip is what codec r leaves of it; the gradient passes as if it were the clip itself."""

    codecs: tuple[str, ...]

    def __call__(self, clip: Clip, copies: Copies) -> Clip:
        inside = clip.detach().with_signal("video", clip.video.detach().clamp(0, 1))
        stored = torch.empty_like(inside.video)
        for number in sorted(set(copies.numbers)):
            rows = [row for row, own in enumerate(copies.numbers) if own == number]
            stored[rows] = reencode(inside.select(rows), self.codecs[number]).video
        return clip.with_signal("video", stored + (clip.video - clip.video.detach()))
