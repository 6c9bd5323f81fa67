"""The masking study and its figures: ends of the curves that are known, and counts by hand."""

from __future__ import annotations

import pytest
import torch
from toys import Able, clips

from robustvideo.attacks import FGSM, IFGSM
from robustvideo.attacks.audio_visual import alignment
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.evaluation import corruption
from robustvideo.evaluation.corruption import (
    MODES,
    RATIOS,
    AlignedTransfer,
    RankCorrelation,
    alignment_study,
    corrupt,
    masked_fgsm,
    masked_share,
    masked_transfer,
    masking_study,
    rank_correlation,
)
from robustvideo.evaluation.metrics import Interval
from robustvideo.evaluation.records import CLEAN
from robustvideo.evaluation.transfer import Success, counted, mean_transfer
from robustvideo.model import at_rest, classify
from robustvideo.threat import AudioVisual

FRAMES, WINDOW = 20, 5


def batches(count: int = 2, size: int = 4) -> list[tuple[Clip, torch.Tensor]]:
    made = []
    for seed in range(count):
        clip = clips(size, shape=(3, FRAMES, 4, 4), samples=FRAMES * WINDOW, seed=seed, dtype=torch.float32)
        ids = tuple(f"{seed}/{i}" for i in range(size))
        made.append((Clip(clip.video, clip.audio, clip.sample_rate, ids), torch.arange(size) % 3))
    return made


def emptied(clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    windows = clip.signal("audio")[:, 0].unflatten(1, (FRAMES, WINDOW))
    return (clip.video == 0).flatten(3).all(3).all(1), (windows == 0).all(2)


@pytest.mark.parametrize("mode", MODES)
def test_masks_are_counted_nested_and_a_clip_s_own(mode: str) -> None:
    clip, _ = batches(1)[0]
    before = None
    for ratio in RATIOS:
        frames, windows = emptied(corrupt(clip, ratio, mode))  # type: ignore[arg-type]
        wanted = round(ratio * FRAMES)
        assert frames.sum(1).tolist() == [0 if mode == "audio" else wanted] * 4
        assert windows.sum(1).tolist() == [0 if mode == "video" else wanted] * 4
        if mode == "synchronous":
            assert torch.equal(frames, windows)
        if mode == "asynchronous" and ratio == RATIOS[-1]:
            assert not torch.equal(frames, windows)
        if before is not None:
            assert (frames >= before).all()
        before = frames
    alone = corrupt(clip.select([2]), 0.3, mode)  # type: ignore[arg-type]
    assert torch.equal(alone.video, corrupt(clip, 0.3, mode).video[2:3])  # type: ignore[arg-type]
    assert not torch.equal(corrupt(clip, 0.3, mode, seed=1).video, corrupt(clip, 0.3, mode).video) or mode == "audio"  # type: ignore[arg-type]


def test_the_ends_of_the_curves() -> None:
    model, data = Able(), batches()
    found = {(p.mode, p.ratio): p.accuracy for p in masking_study(model, data, (0.0, 0.3, 1.0), seeds=range(3))}
    clean = constant = 0
    with at_rest(model):
        for clip, labels in data:
            clean += int((classify(model, clip).argmax(1) == labels).sum())
            nothing = Clip(torch.zeros_like(clip.video), torch.zeros_like(clip.signal("audio")), 8000)
            constant += int((classify(model, nothing).argmax(1) == labels).sum())
    assert {found[mode, 0.0].estimate for mode in MODES} == {clean / 8}
    assert found["synchronous", 1.0].estimate == found["asynchronous", 1.0].estimate == constant / 8
    assert all(p.low <= p.estimate <= p.high for p in found.values())


def test_shares_are_of_whole_steps_and_equal_masks_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (clip, labels) = Able(), batches(1)[0]
    model.span = 5  # of 20 frames: 4 steps
    assert [masked_share(clip, ratio, 5) for ratio in (0.0, 0.05, 0.25, 0.3, 0.5)] == [0, 0.25, 0.25, 0.25, 0.5]
    frames, _ = emptied(corrupt(clip, 0.05, "video", span=5))
    assert frames.double().mean(1).tolist() == [0.25] * 4
    seen, told = [], []
    monkeypatch.setattr(corruption, "corrupt", lambda clip, *given: seen.append(given[:2]) or corrupt(clip, *given))
    found = masking_study(
        model, [(clip, labels)], (0.0, 0.05, 0.25), ("video", "audio"), (0, 1), lambda count, note: told.append(count)
    )
    assert [p.share for p in found] == [0, 0.25, 0.25] * 2
    assert found[1].accuracy == found[2].accuracy
    assert seen == [(0.0, "video")] * 2 + [(0.05, "video")] * 2 + [(0.05, "audio")] * 2
    assert sum(told) == 2 * 3 * 2 * len(clip)


def test_masked_fgsm_of_ratio_0_is_fgsm() -> None:
    model, (clip, labels) = Able(), batches(1)[0]
    masked = masked_fgsm(0.0, "synchronous")(model, clip, labels)
    plain = FGSM(AudioVisual(), early_stop=False)(model, clip, labels)
    assert torch.equal(masked.clip.video, plain.clip.video)
    copies = masked_fgsm(0.3, "audio", copies=5)
    assert copies.copies == 6
    assert copies(model, clip, labels).backward_passes.tolist() == [6] * 4


def test_successes_by_hand() -> None:
    clean = torch.tensor([True, False, False, False])
    attacked = torch.tensor([True, True, False, True])
    found = counted(clean, attacked) + counted(clean, clean)
    assert found == Success(clips=8, wrong=4, correct=6, fooled=2)
    assert found.rate.estimate == 0.5
    assert found.fooling_rate.estimate == pytest.approx(1 / 3)
    assert mean_transfer([Success(10, 4), Success(10, 8)]).estimate == pytest.approx(0.6)
    assert mean_transfer([Success(10, 4)] * 7).high == mean_transfer([Success(10, 4)]).high  # targets are no clips


def test_transfer_of_masked_copies_and_alignment() -> None:
    surrogate, targets, data = Able(), {"b": Able(seed=1)}, batches(1)
    points = masked_transfer(surrogate, targets, data, ratios=(0.0, 0.2), copies=2)
    assert [(p.mode, p.ratio) for p in points] == [(m, r) for m in MODES for r in (0.0, 0.2)]
    assert len({p.success for p in points if p.ratio == 0}) == 1
    attacks = {"fgsm": FGSM(AudioVisual()), "ifgsm": IFGSM(AudioVisual())}
    told: list[tuple[int, str]] = []
    found = alignment_study(surrogate, targets, attacks, data, lambda count, note: told.append((count, note)))
    assert told == [(4, "fgsm"), (4, "ifgsm")]
    assert [p.attack for p in found] == [CLEAN, "fgsm", "ifgsm"]
    crafted = FGSM(AudioVisual(), early_stop=False)(surrogate, *data[0]).clip
    for point, clip in zip(found, (data[0][0], crafted), strict=False):
        with at_rest(surrogate), torch.no_grad():
            wanted = float(alignment(surrogate.features(clip)).mean())
        assert point.alignment.estimate == pytest.approx(wanted, rel=1e-5)
        assert -1 <= point.alignment.low < wanted < point.alignment.high <= 1
        with at_rest(targets["b"]):
            wrong = (classify(targets["b"], clip).argmax(1) != data[0][1]).double().mean()
        assert point.success.estimate == float(wrong)


def test_alignment_is_counted_over_batches() -> None:
    surrogate, targets, data = Able(), {"b": Able(seed=1)}, batches(2)
    attacks = {"fgsm": FGSM(AudioVisual())}
    each = [alignment_study(surrogate, targets, attacks, [batch]) for batch in data]
    for both, first, second in zip(alignment_study(surrogate, targets, attacks, data), *each, strict=True):
        for name in ("alignment", "success"):
            parts = [getattr(point, name).estimate for point in (first, second)]
            assert getattr(both, name).estimate == pytest.approx(sum(parts) / 2)


def points(*pairs: tuple[float, float]) -> list[AlignedTransfer]:
    clean = AlignedTransfer(CLEAN, Interval(0, 5.0, 0), Interval(0, 5.0, 0))
    return [clean, *(AlignedTransfer(str(i), Interval(0, x, 0), Interval(0, y, 0)) for i, (x, y) in enumerate(pairs))]


def test_rank_correlation_by_hand() -> None:
    falling = points((0.4, 0.1), (0.3, 0.2), (0.2, 0.9), (0.1, 0.95))
    assert rank_correlation(falling) == RankCorrelation(pytest.approx(-1), 1 / 24, 4)
    # one swap of neighbours: rho = 1 - 6 * 2 / (4 * 15); of 24 orders one is perfect and three are one such swap away
    swapped = rank_correlation(points((0.4, 0.1), (0.3, 0.9), (0.2, 0.2), (0.1, 0.95)))
    assert swapped == RankCorrelation(pytest.approx(-0.8), 4 / 24, 4)
    rising = rank_correlation(points((0.1, 0.1), (0.2, 0.2), (0.3, 0.2), (0.4, 0.4)))
    assert rising == RankCorrelation(pytest.approx(4.5 / (5 * 4.5) ** 0.5), 2 / 24, 4)  # a tie: two orders are equal
    assert rank_correlation(falling[:-1]) is None
    assert rank_correlation(points(*[(0.1, y / 10) for y in range(4)])) is None
    assert rank_correlation(points(*[(y / 10, 0.5) for y in range(4)])) is None


def test_mistakes_are_named() -> None:
    clip, _ = batches(1)[0]
    for ratio, mode, message in ((1.5, "video", r"in \[0, 1\]"), (0.1, "both", "mode of masking")):
        with pytest.raises(InputError, match=message):
            corrupt(clip, ratio, mode)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no sound track"):
        corrupt(Clip(clip.video), 0.1, "audio")
    with pytest.raises(InputError, match="nothing to mask"):
        masking_study(Able(), [])
    with pytest.raises(InputError, match="no clips"):
        alignment_study(Able(), {}, {}, [])
