"""DCFL, SSDF and CRMT-AT: what they add to a network, by hand, and what they train."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from av_tiny import av_batch, av_network, av_stage, av_step
from resuming import tiny_recipe

from robustvideo.attacks import PGD, load_attack
from robustvideo.errors import InputError
from robustvideo.model import Featurised, at_rest, classify
from robustvideo.models import load_model
from robustvideo.models.odd_one_out import OddOneOut
from robustvideo.models.refused import pooled
from robustvideo.models.sparse_memory import SparseMemory
from robustvideo.models.unit_fusion import UnitFusion
from robustvideo.threat import AudioVisual
from robustvideo.training import load_training
from robustvideo.training.crmt_at import CRMTAT, certified_radius, first_balancing_epoch, gradient_norms, margin_loss
from robustvideo.training.dcfl import in_turn_by_class
from robustvideo.training.schedule import Schedule, rate
from robustvideo.training.ssdf import oddity_loss, on_one_part
from robustvideo.training.updates import Updates


def test_a_memory_is_filled_class_by_class_and_answers_clip_by_clip() -> None:
    assert in_turn_by_class(torch.tensor([0, 0, 0, 2, 1, 2])).tolist() == [0, 4, 3, 1, 5, 2]
    model = av_network("sparse_memory(atoms=4, iterations=30)")
    assert isinstance(model, SparseMemory)
    assert isinstance(model, Featurised)
    method = load_training("dcfl(weight=0.5)")
    before = copy.deepcopy(model.state_dict())
    assert method.before_epoch(av_stage(model)) == {"remembered": 4.0}
    assert method.before_epoch(av_stage(model, epoch=1, epochs=2)) == {}
    after = model.state_dict()
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert changed == {"memory_video", "memory_audio", "rate_video", "rate_audio"}
    assert (model.memory("video") != 0).any(0).all()
    clip, labels = av_batch()
    with at_rest(model):
        together = classify(model, clip)
        alone = torch.cat([classify(model, clip.select([i])) for i in range(len(clip))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    (loss,) = method.losses(av_step(model))
    rebuilt = model.rebuilt(model.features(clip))
    seen, _ = pooled(model.features(clip))
    assert not torch.allclose(rebuilt["video"], seen)
    cosine = torch.nn.functional.cosine_similarity(rebuilt["video"], rebuilt["audio"]).mean()
    expected = torch.nn.functional.cross_entropy(model(clip), labels) + 0.5 * cosine
    torch.testing.assert_close(loss.value, expected, rtol=1e-4, atol=1e-5)
    result = PGD(AudioVisual(), steps=2, early_stop=False)(model, clip, labels)
    assert result.logits.isfinite().all()


def test_the_judge_chooses_among_the_experts() -> None:
    model = av_network("odd_one_out")
    assert isinstance(model, OddOneOut)
    seen = torch.randn(2, 6, requires_grad=True)
    heard = torch.randn(2, 6, requires_grad=True)
    for i, left_out in enumerate((seen, heard)):
        logits = model.weighed(seen, heard, torch.eye(3)[i].expand(2, 3))
        (gradient,) = torch.autograd.grad(logits.sum(), left_out)
        assert not gradient.any()
    plain = model.weighed(seen, heard, torch.eye(3)[2].expand(2, 3))
    torch.testing.assert_close(plain, model.head(model.experts["none"](torch.cat([seen, heard], 1))))


def test_the_judge_learns_which_modality_was_swapped() -> None:
    torch.manual_seed(0)
    model = av_network("odd_one_out")
    assert isinstance(model, OddOneOut)
    optimizer = torch.optim.Adam(model.judge.parameters(), 1e-2)
    kind = torch.arange(64) % 4
    marks = torch.eye(6)[kind]
    for i in range(150):  # features of one clip agree; those of video also tell which they are
        seen, heard = marks + 0.1 * torch.randn(64, 6), 0.5 * marks + 0.1 * torch.randn(64, 6)
        loss = oddity_loss(model, seen, heard, seed=i)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    agreeing = model.oddity(marks, 0.5 * marks).argmax(1)
    swapped = model.oddity(marks.roll(1, 0), 0.5 * marks).argmax(1)
    assert (agreeing == 2).all()
    assert (swapped != 2).all()
    assert oddity_loss(model, marks[:1], marks[:1], 0).isfinite()


def test_ssdf_attacks_one_modality_at_a_time() -> None:
    model = av_network("odd_one_out")
    step = av_step(model)
    (loss,) = load_training("ssdf(attack=pgd(threat=audio_visual(), steps=2, early_stop=false))").losses(step)
    video, audio = step.forward.clips  # type: ignore[attr-defined]
    assert torch.equal(video.audio, step.clip.audio)
    assert not torch.equal(video.video, step.clip.video)
    assert torch.equal(audio.video, step.clip.video)
    assert not torch.equal(audio.audio, step.clip.audio)
    assert {"robust_accuracy_video", "robust_accuracy_audio"} < set(loss.metrics)
    loss.value.backward()
    assert all(p.grad is not None for p in model.judge.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("eps", [8, 0])
def test_ssdf_steps_by_the_same_share_of_either_budget(eps: int) -> None:
    threat = AudioVisual(eps / 255, 0.012)
    together = PGD(threat=threat, steps=10, step_size=threat.parts[0].eps / 4)
    for attack, share in ((together, 0.25), (replace(together, step_size=None), together.default_step)):
        alone = [on_one_part(attack, part) for part in threat.parts]
        assert [a.threat for a in alone] == list(threat.parts)
        assert [a.relative_step for a in alone] == pytest.approx([share] * len(threat.parts))  # type: ignore[attr-defined]
    assert on_one_part(load_attack("noise()"), threat.parts[0]).threat == threat.parts[0]


@pytest.mark.parametrize("orthogonal", [False, True])
def test_rows_have_mean_0_and_norm_1(orthogonal: bool) -> None:
    model = av_network(f"unit_fusion(orthogonal={str(orthogonal).lower()})")
    assert isinstance(model, UnitFusion)
    for name in ("video", "audio"):
        rows = model.unit_rows(name)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
        assert rows.mean(1).abs().max() < 1e-6
        if orthogonal:
            torch.testing.assert_close(rows @ rows.T, torch.eye(3), atol=1e-5, rtol=0)
    scores = model.scores(model.features(av_batch()[0]))
    torch.testing.assert_close(model.balanced(scores), 0.1 * scores.sum(1))


def test_more_orthogonal_rows_than_numbers_are_refused() -> None:
    few = "audio_visual?features=4&visual=vgg_small&audio=vgg_small"
    with pytest.raises(InputError, match="orthogonal rows"):
        load_model(f"{few}&with=unit_fusion(orthogonal=true)", num_classes=9)


def test_margin_and_radius_by_hand() -> None:
    one = torch.tensor([[[1.0, 4.0]]])
    torch.testing.assert_close(margin_loss(one, torch.tensor([0])), torch.tensor([3.0]))
    scores, labels = torch.randn(5, 2, 4), torch.tensor([0, 1, 2, 3, 0])
    expected = []
    for s, y in zip(scores, labels.tolist(), strict=True):
        expected.append(sum((s[m, k] - s[m, y]).exp() for m in range(2) for k in range(4) if k != y).log())  # type: ignore[union-attr]
    torch.testing.assert_close(margin_loss(scores, labels), torch.stack(expected))
    balance, bias, steepest = torch.rand(2, 4), torch.randn(4), torch.rand(2, 4)
    radius = certified_radius(scores, balance, bias, steepest, labels)
    torch.testing.assert_close(certified_radius(scores, 3 * balance, 3 * bias, steepest, labels), radius)
    logits = (scores * balance).sum(1) + bias
    i, y = 3, 3
    j = max((k for k in range(4) if k != y), key=lambda k: float(logits[i, k]))
    below = sum((balance[m, y] * steepest[m, y] + balance[m, j] * steepest[m, j]) ** 2 for m in range(2))
    torch.testing.assert_close(radius[i], (logits[i, y] - logits[i, j]) / below**0.5)


def test_slopes_are_those_of_each_class_and_modality() -> None:
    signal = torch.randn(3, 2, 5, requires_grad=True)
    weight = torch.randn(4, 2, 5)
    scores = torch.einsum("bcs,kcs->bk", signal, weight) * torch.tensor([[1.0], [2.0], [0.5]])
    torch.testing.assert_close(gradient_norms(scores, signal), 2 * weight.flatten(1).norm(dim=1))


def test_the_second_step_trains_the_balance_alone() -> None:
    model = av_network("unit_fusion")
    method = load_training("crmt_at(attack=pgd(threat=audio_visual(), steps=1, early_stop=false))")
    assert isinstance(method, CRMTAT)
    assert [first_balancing_epoch(n) for n in (1, 2, 4, 8, 12)] == [1, 1, 3, 6, 9]
    (first,) = method.losses(av_step(model, epoch=0, epochs=4))
    assert first.parts == ("network",)
    memory: dict[str, object] = {}
    assert method.before_epoch(av_stage(model, epoch=3, epochs=4, memory=memory)) == {"balancing": 1.0}
    assert torch.tensor(memory["steepest"]).shape == (2, 3)
    assert (torch.tensor(memory["steepest"]) > 0).all()
    (second,) = method.losses(av_step(model, epoch=3, epochs=4, memory=memory))
    assert second.parts == ("balance",)
    state = copy.deepcopy(model.state_dict())
    parts = method.parts(model, torch.nn.ModuleDict())
    assert {id(p) for p in parts["network"].parameters} == {id(p) for p in model.parameters()}
    optimizer = parts["balance"].optimizer
    assert optimizer is not None
    step = optimizer([model.balance])  # type: ignore[union-attr, list-item]
    second.value.backward(inputs=[model.balance])  # type: ignore[union-attr]
    step.step()
    assert {k for k, v in model.state_dict().items() if not torch.equal(v, state[k])} == {"balance"}
    assert not model.training


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_the_second_step_has_its_whole_rate_at_the_end_of_any_schedule(schedule: Schedule) -> None:
    model = av_network("unit_fusion")
    assert isinstance(model, UnitFusion)
    method = load_training("crmt_at(attack=pgd(threat=audio_visual(), steps=1, early_stop=false), balance_lr=0.02)")
    recipe = tiny_recipe("crmt_at", optimizer="adamw", lr=0.004, schedule=schedule)
    updates = Updates(Accelerator(cpu=True), recipe, method.parts(model, torch.nn.ModuleDict()))
    before = model.balance.detach().clone()
    updates.schedule(0.3)  # by then onecycle is at its peak
    (first,) = method.losses(av_step(model, epoch=0, epochs=4))
    updates.backward(first)
    updates.apply(first)
    moved = (model.balance - before).detach().abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.004 * rate(schedule, 0.3)), rtol=0.05, atol=0)

    memory = {"steepest": [[1.0] * 3] * 2}
    speed = torch.zeros_like(before)
    for progress in (0.75, 0.999):
        updates.schedule(progress)
        (second,) = method.losses(av_step(model, epoch=3, epochs=4, memory=memory))
        balance = model.balance.detach().clone()
        (slope,) = torch.autograd.grad(second.value, model.balance, retain_graph=True)
        state = copy.deepcopy(model.state_dict())
        updates.backward(second)
        updates.apply(second)
        speed = 0.9 * speed + slope + 0.01 * balance
        torch.testing.assert_close(balance - model.balance.detach(), 0.02 * speed, rtol=1e-3, atol=1e-7)
        assert {k for k, v in model.state_dict().items() if not torch.equal(v, state[k])} == {"balance"}


@pytest.mark.parametrize("name", ["dcfl", "ssdf", "crmt_at"])
def test_a_training_says_what_the_network_lacks(name: str) -> None:
    step = av_step(av_network())
    with pytest.raises(InputError, match="add with="):
        next(iter(load_training(name).losses(step)))


def test_alterations_need_an_audio_visual_model() -> None:
    for name in ("sparse_memory", "odd_one_out", "unit_fusion"):
        with pytest.raises(InputError, match="alters the fusion of an audio_visual model"):
            load_model(f"r3d_small?with={name}")
    mistakes = {"share=2": "share=", "atoms=0": "at least one", "gradient=exact": "'implicit', 'unrolled'"}
    for options, message in mistakes.items():
        with pytest.raises(InputError, match=message):
            load_model(f"AcV?scale=small&with=sparse_memory({options})")
