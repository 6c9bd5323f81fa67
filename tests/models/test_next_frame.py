"""Models of the next frame: their error as a margin, and attacks on them, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustvideo.attacks import PGD, DeepSAVA
from robustvideo.attacks.attack import judge
from robustvideo.attacks.key_frames import selectors
from robustvideo.clip import Clip
from robustvideo.data.moving_digits import LABELS as LABELS_OF_DATA
from robustvideo.errors import InputError
from robustvideo.models import load_model
from robustvideo.models.next_frame import ConvLSTM, NextFrameModel, before_the_last
from robustvideo.support import Frames
from robustvideo.threat import L21, WarpAndNoiseL21

SHAPE = (3, 6, 8, 8)
COPY = NextFrameModel(nn.Identity(), tolerance=0.02)
LABELS = torch.zeros(3, dtype=torch.long)


def some_clips(batch: int = 3) -> Clip:
    """Slowly changing clips on the grid, far from the box."""
    random = torch.Generator().manual_seed(0)
    still = torch.randint(80, 160, (batch, 3, 1, 8, 8), generator=random)
    return Clip((still + torch.randint(-8, 9, (batch, *SHAPE), generator=random)).double() / 255)


def test_the_margin_is_the_error() -> None:
    clip = some_clips()
    error = (clip.video[:, :, -2] - clip.video[:, :, -1]).square().mean((1, 2, 3))
    assert torch.allclose(COPY.errors(clip), error)
    verdict = judge(COPY, clip, LABELS)
    assert torch.allclose(COPY.error_at(verdict.margin), error)
    assert not verdict.success.any()
    strict = NextFrameModel(nn.Identity(), tolerance=float(error.min()) / 2)
    assert judge(strict, clip, LABELS).success.all()


@pytest.mark.parametrize("stored", [False, True])
def test_a_predictor_that_copies_is_attacked_in_its_last_frame_alone(stored: bool) -> None:
    """The error rises by ``mean(delta^2) + 2 mean(delta r)``; at rms 0.03 its largest is ``(0.03 + rms(r))^2``."""
    clip = some_clips()
    threat = L21(0.03, support=before_the_last(6), stored=stored)
    result = PGD(threat, steps=40, early_stop=False)(COPY, clip, LABELS)
    touched = (result.clip.video != clip.video).flatten(3).any(3).any(1)
    assert touched.tolist() == [[False] * 4 + [True, False]] * 3
    residual = clip.video[:, :, -2] - clip.video[:, :, -1]
    largest = (0.03 + residual.square().mean((1, 2, 3)).sqrt()).square()
    reached = COPY.errors(result.clip)
    assert (reached <= largest * (1 + 1e-6)).all()
    assert (reached >= 0.95 * largest).all()
    delta = (result.clip.video - clip.video)[:, :, -2]
    rise = delta.square().mean((1, 2, 3)) + 2 * (delta * residual).mean((1, 2, 3))
    assert torch.allclose(reached, COPY.errors(clip) + rise, atol=1e-12)


@pytest.mark.parametrize("select", ["bo", "brute", "last"])
def test_deepsava_chooses_the_last_frame_that_is_seen(select: str) -> None:
    clip = some_clips()
    threat = WarpAndNoiseL21(0.03, support=before_the_last(6))
    attack = DeepSAVA(
        threat, loss="margin", lam=0.0, steps=30, step_size=0.005, early_stop=False, select=selectors.build(select)
    )
    assert attack.key_frames(COPY, clip, LABELS).frames.tolist() == [[4]] * 3
    result = attack(COPY, clip, LABELS)
    assert torch.equal(result.clip.video[:, :, -1], clip.video[:, :, -1]), "the truth stays"
    assert (COPY.errors(result.clip) > 2 * COPY.errors(clip)).all()
    traced = COPY.error_at(result.loss_trace.double())
    assert torch.allclose(traced[:, 0], COPY.errors(clip), rtol=1e-4)
    assert (traced[:, -1] > 2 * traced[:, 0]).all()


def test_another_frame_than_the_last_does_nothing_to_a_copy() -> None:
    clip = some_clips()
    first = L21(0.03, support=Frames((0,)))
    result = PGD(first, steps=5, early_stop=False)(COPY, clip, LABELS)
    assert torch.allclose(COPY.errors(result.clip), COPY.errors(clip))


def test_the_network_predicts_frame_after_frame() -> None:
    model = load_model("next_frame?hidden=4&layers=2&kernel=3").double()
    assert isinstance(model, NextFrameModel)
    assert model.labels == LABELS_OF_DATA, "the embedded digits are its data"
    clip = some_clips(2)
    predicted = model.predict(clip.video)
    assert predicted.shape == clip.video.shape
    assert ((predicted > 0) & (predicted < 1)).all()
    later = clip.video.clone()
    later[:, :, 3:] = 0
    assert torch.equal(model.predict(later)[:, :, :3], predicted[:, :, :3]), "no frame is seen before its time"
    assert not torch.equal(model.predict(later)[:, :, 3:], predicted[:, :, 3:])
    assert torch.allclose(model.predict(clip.video[:1]), predicted[:1], atol=1e-12)
    assert model(clip).shape == (2, 2)


def test_a_convolutional_lstm_on_one_pixel_is_an_lstm() -> None:
    cell = ConvLSTM(3, 5, 1).double()
    lstm = nn.LSTM(3, 5, batch_first=True).double()
    order = [slice(5, 10), slice(0, 5), slice(15, 20), slice(10, 15)]  # keep, write, show, new of torch's i, f, g, o
    weight = torch.cat([lstm.weight_ih_l0, lstm.weight_hh_l0], dim=1).detach()
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach()
    with torch.no_grad():
        cell.gates.weight.copy_(torch.cat([weight[rows] for rows in order])[:, :, None, None])
        shifted = torch.cat([bias[rows] for rows in order])
        shifted[:5] -= 1  # the forget gate starts open
        cell.gates.bias.copy_(shifted)
    video = torch.randn(2, 3, 7, 1, 1, dtype=torch.float64)
    expected, _ = lstm(video[..., 0, 0].transpose(1, 2))
    assert torch.allclose(cell(video)[..., 0, 0].transpose(1, 2), expected, atol=1e-12)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="at least two frames"):
        COPY.errors(Clip(torch.rand(1, 3, 1, 8, 8)))
    for spec in ("next_frame?kernel=4", "next_frame?tolerance=0", "next_frame?hidden=0"):
        with pytest.raises(InputError):
            load_model(spec)
