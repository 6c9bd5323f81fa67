"""Perturbations by segment: the dense attack where they must be it, and what they share and spare where not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import Able, TwoClass, clips, problem_for

from robustvideo.attacks import TMA, load_attack
from robustvideo.attacks.segments import Plan, SegmentTMA, cut_lengths, shared_out
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.models import load_model
from robustvideo.models.audio_visual import AudioVisualModel
from robustvideo.threat import AudioVisual, Linf

FRAMES, WINDOW = 8, 6
LOOSE = AudioVisual(0.05, 0.02, stored=False)


def case(frames: int = FRAMES, rest: int = 0, batch: int = 3) -> tuple[Clip, Tensor]:
    return clips(batch, shape=(3, frames, 6, 8), samples=frames * WINDOW + rest), torch.arange(batch) % 3


class PerFrame(TwoClass):
    """A linear scalar of each frame's own weights, the mean over frames, whatever their number."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)  # (C, H, W): the same for all frames

    def value(self, clip: Clip) -> Tensor:
        return (clip.video * self.weight[:, None]).sum((1, 3, 4)).mean(1)


@pytest.mark.parametrize("copies", [1, 3])
def test_a_segment_per_step_seen_whole_is_the_dense_attack(copies: int) -> None:
    clip, labels = case()
    model = Able().double()
    dense = TMA(LOOSE, copies=copies, early_stop=False, steps=5)
    by_segment = SegmentTMA(LOOSE, copies=copies, early_stop=False, steps=5, segments=FRAMES, ratio=1.0)
    one, other = dense(model, clip, labels), by_segment(model, clip, labels)
    torch.testing.assert_close(other.loss_trace, one.loss_trace)
    problem = problem_for(model, clip, labels, LOOSE)
    plan = Plan.of(problem, FRAMES, 1.0)
    assert plan.number.tolist() == [list(range(FRAMES))] * 3


def test_crafting_alone_asks_for_no_verdict() -> None:
    model, passes = Able().double(), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    attack = SegmentTMA(LOOSE, segments=2, steps=3, early_stop=False)
    attack(model, *case())
    called = len(passes)
    attack.craft(model, *case())
    assert called >= 1
    assert len(passes) == called + called - 1


def test_one_segment_has_one_perturbation() -> None:
    clip, labels = case(rest=3)
    attack = SegmentTMA(AudioVisual(8 / 255, 0.012), segments=1, steps=3, early_stop=False)
    result = attack(small().double(), clip, labels)
    assert result.clip.audio is not None
    assert clip.audio is not None
    change = (result.clip.video - clip.video) * 255
    torch.testing.assert_close(change, change[:, :, :1].expand_as(change))
    heard = (result.clip.audio - clip.audio)[:, 0]
    windows = heard[:, : FRAMES * WINDOW].unflatten(1, (FRAMES, WINDOW))
    torch.testing.assert_close(windows, windows[:, :1].expand_as(windows))
    assert not heard[:, FRAMES * WINDOW :].any()  # the rest that fills no window stays clean
    assert change.abs().max() == pytest.approx(8)


def test_the_optimum_of_a_linear_model_by_segment() -> None:
    clip, _ = case()
    weight = torch.randn(3, 6, 8, dtype=torch.float64)
    attack = SegmentTMA(Linf(0.05, stored=False), lam1=0, lam2=0, copies=1, early_stop=False, steps=4)
    result = attack(PerFrame(weight), Clip(clip.video), torch.tensor([0, 1, 0]))
    expected = 0.05 * weight.sign() * torch.tensor([1, -1, 1]).view(3, 1, 1, 1)
    torch.testing.assert_close(result.clip.video - clip.video, expected[:, :, None].expand_as(clip.video))


class PerStep(TwoClass):
    """Linear in steps of two frames: each of the two has weights of its own."""

    span = 2

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)  # (C, 2, H, W)

    def value(self, clip: Clip) -> Tensor:
        steps = clip.video.unflatten(2, (-1, 2))
        return (steps * self.weight[:, None]).sum((1, 3, 4, 5)).mean(1)


def test_a_perturbation_moves_where_a_step_is_several_frames() -> None:
    clip, _ = case(frames=8)
    weight = torch.randn(3, 2, 6, 8, dtype=torch.float64)
    attack = SegmentTMA(Linf(0.05, stored=False), lam1=0, lam2=0, copies=1, early_stop=False, steps=4)
    result = attack(PerStep(weight), Clip(clip.video), torch.tensor([0, 1, 0]))
    expected = 0.05 * weight.sign() * torch.tensor([1, -1, 1]).view(3, 1, 1, 1, 1)
    change = (result.clip.video - clip.video).unflatten(2, (4, 2))
    torch.testing.assert_close(change, expected[:, :, None].expand_as(change))


def test_segments_are_even_in_law_and_the_clip_s_own() -> None:
    uniform = torch.rand(3000, 10, generator=torch.Generator().manual_seed(0))
    lengths = cut_lengths(uniform, 3)
    assert (lengths.sum(1) == 10).all()
    assert (lengths >= 2).all()
    assert {tuple(row) for row in lengths.tolist()} == {
        (a, b, 10 - a - b) for a in range(2, 7) for b in range(2, 7) if 10 - a - b >= 2
    }
    assert (lengths.double().mean(0) - 10 / 3).abs().max() < 0.1
    assert cut_lengths(uniform[:2, :5], 5).tolist() == [[1] * 5] * 2
    assert cut_lengths(uniform[:2], 1).tolist() == [[10]] * 2


@pytest.mark.parametrize(
    ("lengths", "total", "expected"),
    [([4, 4], 2, [1, 1]), ([2, 6], 4, [1, 3]), ([2, 6], 8, [2, 6]), ([5, 3], 3, [2, 1]), ([2, 2, 8], 4, [1, 1, 2])],
)
def test_steps_are_shared_out_by_length(lengths: list[int], total: int, expected: list[int]) -> None:
    assert shared_out(lengths, total) == expected


@pytest.mark.parametrize(("ratio", "looked_at"), [(0.05, 2), (0.1, 2), (0.2, 4), (0.25, 5), (1.0, 20)])
@pytest.mark.parametrize("segments", [None, 20])
def test_segments_do_not_overrule_the_share_to_look_at(ratio: float, looked_at: int, segments: int | None) -> None:
    clip, labels = case(frames=20)
    problem = problem_for(Able().double(), clip, labels, LOOSE)
    plan = Plan.of(problem, segments, ratio)
    assert plan.counts.shape[1] == (segments or 5)
    assert {plan.draw(problem, step).shape for step in range(7)} == {(3, looked_at)}


def test_more_segments_than_a_gradient_looks_at_take_turns() -> None:
    clip, labels = case(frames=11)
    problem = problem_for(Able().double(), clip, labels, LOOSE)
    plan = Plan.of(problem, 11, 0.25)  # 3 of 11 at a time: a round is four gradients
    rounds = [torch.cat([plan.draw(problem, 4 * turn + part) for part in range(4)], dim=1) for turn in range(2)]
    for found in rounds:
        visits = torch.stack([row.bincount(minlength=11) for row in found])
        assert (visits >= 1).all()
        assert (visits.sum(1) == 12).all()
    assert not torch.equal(*rounds)
    wide = Plan.of(problem, 5, 0.25)
    for step in range(6):  # one step of each segment whose turn it is
        visited = torch.stack([row.bincount(minlength=5) for row in wide.number.gather(1, wide.draw(problem, step))])
        assert visited.max() == 1


def test_steps_that_take_turns_reach_the_optimum_of_each() -> None:
    clip, _ = case(frames=8)
    weight = torch.randn(3, 6, 8, dtype=torch.float64)
    alone = SegmentTMA(
        Linf(0.05, stored=False), lam1=0, lam2=0, copies=1, early_stop=False, steps=8, segments=8, ratio=0.25
    )
    stepped = alone(PerFrame(weight), Clip(clip.video), torch.tensor([0, 1, 0])).clip.video - clip.video
    expected = weight.sign() * torch.tensor([1, -1, 1]).view(3, 1, 1, 1)
    moved = stepped / 0.05 * expected[:, :, None]
    torch.testing.assert_close(moved, moved[:, :1, :, :1, :1].expand_as(moved))  # a step moves as one
    # first looked at in one of four gradients, and then carried on by the momentum: by 5 to 8 eighths of the budget
    for row in moved[:, 0, :, 0, 0].mul(8).round().int().sort(1).values.tolist():
        assert row == [5, 5, 6, 6, 7, 7, 8, 8]


def test_draws_take_as_many_of_each_segment_as_planned() -> None:
    clip, labels = case(frames=12)
    problem = problem_for(Able().double(), clip, labels, LOOSE)
    plan = Plan.of(problem, 3, 0.5)
    seen = set()
    for step in range(20):
        chosen = plan.draw(problem, step)
        assert (chosen.diff(dim=1) > 0).all()
        found = torch.stack([row.bincount(minlength=3) for row in plan.number.gather(1, chosen)])
        assert torch.equal(found, plan.counts)
        seen.add(tuple(chosen[0].tolist()))
    assert len(seen) > 5
    sub = plan.sub_clip(clip, chosen)
    assert torch.equal(sub.video[1, :, 2], clip.video[1, :, chosen[1, 2]])
    assert sub.audio is not None
    assert clip.audio is not None
    start = int(chosen[1, 2]) * WINDOW
    assert torch.equal(sub.audio[1, :, 2 * WINDOW : 3 * WINDOW], clip.audio[1, :, start : start + WINDOW])


def test_summing_is_the_adjoint_of_spreading() -> None:
    clip, labels = case(frames=12)
    model = Able().double()
    model.span = 2  # type: ignore[assignment]
    problem = problem_for(model, clip, labels, LOOSE)
    plan = Plan.of(problem, 3, 0.5)
    assert plan.steps == 6
    chosen = plan.draw(problem, 0)
    for modality in ("video", "audio"):
        signal = clip.signal(modality)
        variable = torch.randn_like(plan.zeros(signal, modality))
        spread = plan._spread(variable, chosen)
        assert spread.shape == plan.sub_clip(clip, chosen).signal(modality).shape
        gradient = torch.randn_like(spread)
        left = (spread * gradient).sum()
        right = (variable * plan._gathered(gradient, chosen)).sum()
        torch.testing.assert_close(left, right)


def small() -> AudioVisualModel:
    """A tiny audio-visual model of 8 steps."""
    options = "size=8&features=4&rate=8000&n_fft=32&hop=16&mels=4&steps=8"
    model = load_model(f"audio_visual?visual=resnet_small&audio=vgg_small&{options}", num_classes=3)
    assert isinstance(model, AudioVisualModel)
    return model


def test_an_encoder_sees_the_share_that_was_asked_for() -> None:
    model = small()
    frames: list[int] = []
    model.visual.register_forward_hook(lambda module, given, answer: frames.append(len(answer)))
    clip = clips(2, shape=(3, 8, 8, 8), samples=8 * 64, dtype=torch.float32)
    attack = SegmentTMA(steps=4, copies=3, ratio=0.25, early_stop=False)
    result = attack(model, clip, torch.tensor([0, 1]))
    assert sum(frames) == 2 * (8 + 4 * 3 * 2 + 8)  # the clean scale, then steps x copies x 2 steps of 8, the verdict
    assert result.backward_passes.tolist() == [3, 3]  # of 12 passes a quarter each
    spared = SegmentTMA(steps=4, copies=3, ratio=0.25, dropout=0.5, early_stop=False)
    assert not torch.equal(spared(model, clip, torch.tensor([0, 1])).loss_trace, result.loss_trace)
    weights = replace(spared, dropped="parameters")
    assert weights(model, clip, torch.tensor([0, 1])).loss_trace.isfinite().all()


def test_mistakes_are_named() -> None:
    for spec, message in (
        ("tma_segments(ratio=0)", "ratio=0"),
        ("tma_segments(segments=0)", "at least one segment"),
        ("tma_segments(threat=l2(eps=1))", "linf everywhere"),
        ("tma_segments(threat=linf(eps=0.1, support=frames(k=1)))", "linf everywhere"),
        ("tma_segments(dropout=1)", "share to drop"),
    ):
        with pytest.raises(InputError, match=message):
            load_attack(spec)
    clip, labels = case(frames=1)
    with pytest.raises(InputError, match="fewer than two time steps"):
        SegmentTMA(lam1=0)(Able().double(), clip, labels)
    with pytest.raises(InputError, match="needs an audio_visual model"):
        SegmentTMA(dropout=0.5)(Able().double(), *case())
