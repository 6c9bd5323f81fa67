"""The spectrogram against a Fourier sum written out, and resampling against the tone it must be."""

from __future__ import annotations

import math

import pytest
import torch

from robustvideo.models.spectrogram import FLOOR, Hearing, LogMel, mel_filters, resample


def test_the_spectrogram_by_hand() -> None:
    hearing = Hearing(rate=1000, n_fft=16, hop=10, mels=3)
    sound = torch.randn(1, 40, dtype=torch.float64)
    found = LogMel(hearing)(sound, 1000)
    padded = torch.cat([torch.zeros(8), sound[0], torch.zeros(8)]).double()
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(16, dtype=torch.float64) / 16)
    columns = []
    for start in range(0, len(padded) - 15, 10):
        piece = padded[start : start + 16] * window
        turns = torch.outer(torch.arange(9.0), torch.arange(16.0)).double() * (-2j * math.pi / 16)
        columns.append((turns.exp() @ piece.to(torch.complex128)).abs() ** 2)
    mel = mel_filters(1000, 16, 3) @ torch.stack(columns, 1)
    torch.testing.assert_close(found[0], ((mel + FLOOR).log() + 4) / 10)


def test_mel_filters_are_triangles_that_overlap_by_halves() -> None:
    filters = mel_filters(16000, 512, 64)
    assert filters.shape == (64, 257)
    assert (filters > 0).any(1).all()
    assert filters.max() <= 1
    inner = filters.sum(0)[5:240]
    assert ((inner - 1).abs() < 1e-9).all()  # neighbours add up to one
    assert (filters.argmax(1).diff() >= 0).all()


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (8000, 16000), (16000, 8000), (11025, 16000)])
def test_a_tone_keeps_its_pitch_and_phase(rate: int, wanted: int) -> None:
    def tone(at: int) -> torch.Tensor:
        return torch.sin(2 * math.pi * 700 * torch.arange(at // 2, dtype=torch.float64) / at)

    found = resample(tone(rate)[None], rate, wanted)[0]
    assert len(found) == math.ceil((rate // 2) * wanted / rate)
    expected = tone(wanted)
    assert (found[: len(expected)] - expected)[100:-100].abs().max() < 0.01


def test_what_is_too_high_for_the_new_rate_goes() -> None:
    high = torch.sin(2 * math.pi * 7000 * torch.arange(8000, dtype=torch.float64) / 16000)[None]
    assert resample(high, 16000, 8000)[0, 50:-50].abs().max() < 0.02


def test_the_gradient_of_resampling_and_spectrogram() -> None:
    torch.manual_seed(0)
    spectrogram = LogMel(Hearing(rate=800, n_fft=16, hop=8, mels=3))
    sound = 0.3 * torch.randn(2, 24, dtype=torch.float64)
    sound.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spectrogram(x, 1200), sound)


def test_the_same_rate_is_left_alone_and_silence_is_even() -> None:
    sound = torch.randn(1, 100)
    assert resample(sound, 8000, 8000) is sound
    silence = LogMel(Hearing(8000, 256, 64, 32))(torch.zeros(1, 900), 8000)
    assert silence.unique().numel() == 1
