"""PGD through codecs: the forward pass is the real codec, the backward pass its identity."""

from __future__ import annotations

import pytest
import torch
from toys import ConvNet, Linear, Watched, alternating, clips, problem_for, weights

from robustvideo.attacks import PGD, load_attack
from robustvideo.attacks.attack import Problem, judge, margin
from robustvideo.attacks.averaged import Copies, repeat
from robustvideo.attacks.codec_expectation import CodecPGD, Reencoded, codec_expectation
from robustvideo.attacks.objectives import CrossEntropy
from robustvideo.clip import Clip
from robustvideo.data.codec import reencode
from robustvideo.errors import InputError
from robustvideo.threat import Linf

CODECS = ("lossless", "h264:30", "mjpeg:8")
SHAPE = (3, 4, 16, 16)


def on_a_net(batch: int = 3) -> Problem:
    model = ConvNet().double().eval()
    return problem_for(model, clips(batch, shape=SHAPE), torch.arange(batch) % 3, Linf(8 / 255))


def test_the_value_is_the_codec_s_and_the_gradient_the_identity_s() -> None:
    problem = on_a_net()
    rows = repeat(problem, 3)
    video = rows.clip.video.clone().requires_grad_()
    coded = Reencoded(CODECS)(rows.clip.with_signal("video", video), Copies(rows, (0, 1, 2) * 3, 0))
    for i, codec in enumerate(CODECS):
        assert torch.equal(coded.video[i::3], reencode(problem.clip, codec).video)
    cotangent = torch.randn_like(video)
    (found,) = torch.autograd.grad(coded.video, video, cotangent)
    assert torch.equal(found, cotangent)


def test_the_estimate_is_the_mean_over_codecs_of_the_gradient_at_the_coded_clip() -> None:
    problem = on_a_net()
    found = codec_expectation(CODECS)(problem, CrossEntropy(), (torch.zeros_like(problem.clip.video),), 0)
    total, margins = torch.zeros_like(problem.clip.video), []
    for codec in CODECS:
        video = reencode(problem.clip, codec).video.requires_grad_()
        logits = problem.gradient_model(Clip(video))
        loss = torch.nn.functional.cross_entropy(logits, problem.labels, reduction="sum")
        total += torch.autograd.grad(loss, video)[0] / 3
        margins.append(margin(logits, problem.labels))
    assert torch.allclose(found.gradients[0], total, rtol=1e-9, atol=1e-14)
    assert torch.allclose(margin(found.logits, problem.labels), torch.stack(margins).amin(0), rtol=1e-10)


def test_values_outside_the_box_are_clipped_as_storage_would() -> None:
    rows = on_a_net().select(torch.tensor([0]))
    video = rows.clip.video * 3 - 1
    coded = Reencoded(("lossless",))(rows.clip.with_signal("video", video), Copies(rows, (0,), 0))
    assert torch.equal(coded.video, (video.clamp(0, 1) * 255).round() / 255)


def test_through_the_lossless_codec_alone_it_is_nearly_pgd() -> None:
    """On a linear model the gradient is the same everywhere, and so is the attack."""
    model, clip, labels = Linear(weights()), clips(3), alternating(3)
    found = CodecPGD(codecs=("lossless",), early_stop=False)(model, clip, labels)
    expected = PGD(early_stop=False)(model, clip, labels)
    assert torch.equal(found.clip.video, expected.clip.video)
    lossy = CodecPGD(early_stop=False)(model, clip, labels)
    assert torch.equal(lossy.clip.video, expected.clip.video)


def test_a_clip_leaves_only_when_it_fools_the_model_through_every_codec() -> None:
    model = ConvNet().double()
    clip = clips(6, shape=SHAPE)
    labels = judge(model.eval(), clip, torch.zeros(6, dtype=torch.long)).logits.argmax(1)
    attack = CodecPGD(eps=24 / 255, codecs=CODECS, steps=15)
    result = attack(model, clip, labels)
    left_early = (result.first_success_step >= 0) & (result.first_success_step < 15)
    assert left_early.any()
    for codec in CODECS:
        verdict = judge(model, reencode(result.clip, codec), labels)
        assert verdict.success[left_early].all(), codec
    plainly = PGD(eps=24 / 255, steps=15)(model, clip, labels)
    kept = judge(model, reencode(plainly.clip, "h264:30"), labels)
    assert not kept.success[plainly.success].all(), "plain PGD stops where the codec undoes it"


def test_passes_are_counted() -> None:
    model = Watched(ConvNet().double())
    clip, labels = clips(3, shape=SHAPE), torch.tensor([0, 1, 2])
    result = CodecPGD(steps=2, codecs=CODECS, early_stop=False)(model, clip, labels)
    assert result.backward_passes.tolist() == [6] * 3
    assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]


def test_sound_passes_through() -> None:
    clip, labels = clips(2, samples=50), alternating(2)
    model = Linear(weights(), audio=weights((1, 50), seed=5))
    result = CodecPGD(Linf(0.01, modality="audio"), steps=3, early_stop=False)(model, clip, labels)
    assert torch.equal(result.clip.video, clip.video)
    assert not torch.equal(result.clip.signal("audio"), clip.signal("audio"))


def test_specs_and_refusals() -> None:
    assert load_attack("codec_pgd(codecs=['h264:28', lossless])") == CodecPGD(codecs=("h264:28", "lossless"))
    attack = CodecPGD(codecs=("mjpeg:3",))
    assert load_attack(attack.spec) == attack
    with pytest.raises(InputError, match="at least one codec"):
        CodecPGD(codecs=())
    with pytest.raises(InputError, match="did you mean 'h264'"):
        CodecPGD(codecs=("h265:28",))
