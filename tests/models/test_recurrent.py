"""CNN+LSTM, CNN+GRU, CNN+RNN and Inception-v3 over frames: framewise, and equal to reading the whole clip."""

from __future__ import annotations

import pytest
import torch

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Framewise, Model, at_rest, classify
from robustvideo.models import load_model
from robustvideo.models.inception import MeanProbability
from robustvideo.models.recurrent import RecurrentReader

SPECS = [
    "cnn_rnn?frames=5&size=32",
    "cnn_rnn?frames=5&size=32&cell=gru&read=mean",
    "cnn_rnn?frames=5&size=32&cell=rnn&hidden=16",
    "cnn_rnn?frames=3&size=32&backbone=resnet18",
    "inception_v3?frames=2&size=75",
]


def a_clip(model: Model, batch: int = 2) -> Clip:
    assert model.size is not None
    assert model.frames is not None
    random = torch.Generator().manual_seed(0)
    return Clip(torch.rand(batch, 3, model.frames, *model.size, generator=random))


@pytest.mark.parametrize("spec", SPECS)
def test_they_are_framewise_and_say_the_same_both_ways(spec: str) -> None:
    model = load_model(spec, num_classes=7)
    clip = a_clip(model)
    with at_rest(model):
        whole = classify(model, clip)
        assert whole.shape == (2, 7)
        assert isinstance(model, Framewise)
        frames = [model.encode_frames(clip.video[:, :, t]) for t in range(clip.frames)]
        assert torch.allclose(model.head(torch.stack(frames, dim=1)), whole, atol=1e-4)
        alone = classify(model, clip.select([1]))
    assert torch.allclose(alone[0], whole[1], atol=1e-4)


@pytest.mark.parametrize("spec", SPECS[:3])
def test_the_order_of_the_frames_matters_to_a_recurrent_network(spec: str) -> None:
    model = load_model(spec, num_classes=7)
    clip = a_clip(model)
    with at_rest(model):
        difference = classify(model, clip) - classify(model, Clip(clip.video.flip(2)))
    assert difference.abs().max() > 1e-5


def test_inception_does_not_know_the_order_and_averages_probabilities() -> None:
    reader = MeanProbability(6, 4).double()
    features = torch.randn(2, 5, 6, dtype=torch.float64)
    expected = reader.answer(features).softmax(2).mean(1)
    assert torch.allclose(reader(features).softmax(1), expected, atol=1e-12)
    assert torch.allclose(reader(features).exp(), expected, atol=1e-12)
    assert torch.allclose(reader(features.flip(1)), reader(features), atol=1e-12)


@pytest.mark.parametrize("read", ["last", "mean"])
def test_what_of_the_states_is_read(read: str) -> None:
    reader = RecurrentReader("gru", 4, 3, 2, 0.0, read).double()  # type: ignore[arg-type]
    features = torch.randn(2, 6, 4, dtype=torch.float64)
    states, _ = reader.cell(features)
    answers = reader.answer(states)
    assert torch.allclose(reader(features), answers[:, -1] if read == "last" else answers.mean(1), atol=1e-12)


def test_the_recurrent_layer_is_in_training_mode_and_dropout_is_not() -> None:
    """cuDNN differentiates it in training mode only, and one layer without dropout does the same in both."""
    model = load_model(SPECS[0], num_classes=3).eval()
    reader = model.module.reader  # type: ignore[union-attr]
    assert reader.cell.training  # type: ignore[union-attr]
    assert not reader.answer.training  # type: ignore[union-attr]
    clip = a_clip(model)
    assert torch.equal(model(clip), model(clip))
    model.train()
    assert not torch.equal(model(clip), model(clip))


def test_what_cannot_be_built_is_said() -> None:
    for spec, message in (
        ("cnn_rnn?cell=lsm", "'lstm', 'gru' or 'rnn'"),
        ("cnn_rnn?backbone=resnet19", "resnet18"),
        ("cnn_rnn?backbone=inception_v3&size=64", "at least 75"),
        ("inception_v3?size=64", "at least 75"),
        ("cnn_rnn?dropout=1.0", "dropout"),
    ):
        with pytest.raises(InputError, match=message):
            load_model(spec)
