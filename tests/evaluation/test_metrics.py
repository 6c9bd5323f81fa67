from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.metrics import (
    confusions,
    mean_loss,
    norm_of,
    paired_difference,
    standing_by_step,
    success_after_codecs,
    summarise,
    tells_its_steps,
    union,
    wilson,
)
from robustvideo.evaluation.records import CLEAN, Record, thinned_steps

Z = 1.959963984540054


def row(sample: str = "a", said: int = 0, **changes: object) -> Record:
    """A clip of class 0 that is recognised without an attack and called ``said`` under PGD at 8/255."""
    record = Record(
        sample_id=sample,
        label=0,
        attack="pgd",
        eps=8 / 255,
        defense="none",
        seed=0,
        clean_prediction=0,
        adversarial_prediction=said,
        success=said != 0,
        first_success_step=3 if said else -1,
        forward_passes=10,
        backward_passes=8,
        seconds=0.5,
        linf=8 / 255,
        l2=1.0,
        l21=0.2,
        ssim=0.9,
        psnr=40.0,
        frames_touched=16,
        threat="linf(eps=8/255)",
    )
    return replace(record, **changes)  # type: ignore[arg-type]


UNUSABLE = row("z", attack=CLEAN, eps=0.0, clean_prediction=-1, said=-1, status="unusable", success=False, threat="")


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_newcombes_table(successes: int, total: int, low: float, high: float) -> None:
    """Newcombe 1998, table I, method 3."""
    interval = wilson(successes, total)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    assert interval.estimate == successes / total


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_are_where_the_score_test_just_rejects(case: tuple[int, int]) -> None:
    successes, total = case
    interval = wilson(successes, total)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    for bound in (interval.low, interval.high):
        distance = abs(interval.estimate - bound)
        assert distance == pytest.approx(Z * math.sqrt(bound * (1 - bound) / total), abs=1e-7)


@given(st.integers(0, 50), st.integers(1, 50), st.integers(2, 20))
def test_wilson_shrinks_with_the_number_of_clips(right: int, wrong: int, times: int) -> None:
    few, many = wilson(right, right + wrong), wilson(right * times, (right + wrong) * times)
    assert many.high - many.low < few.high - few.low


def test_wilson_without_clips_says_nothing() -> None:
    interval = wilson(0, 0)
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert math.isnan(interval.estimate)


def test_paired_difference_covers_the_truth() -> None:
    """Exact coverage by enumerating every outcome of 25 clips."""
    total = 25
    for gained, lost in product((0.02, 0.1, 0.3), (0.0, 0.05, 0.2)):
        covered = 0.0
        for up in range(total + 1):
            for down in range(total + 1 - up):
                chance = comb(total, up) * comb(total - up, down) * gained**up * lost**down
                chance *= (1 - gained - lost) ** (total - up - down)
                pairs = [(False, True)] * up + [(True, False)] * down + [(True, True)] * (total - up - down)
                interval = paired_difference(pairs)
                covered += chance * (interval.low <= gained - lost <= interval.high)
        assert covered > 0.92  # the nominal 0.95 holds on average over the truths, not at each


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_difference_changes_sign_when_the_pair_is_swapped(pairs: list[tuple[bool, bool]]) -> None:
    there, back = paired_difference(pairs), paired_difference([(b, a) for a, b in pairs])
    assert -1 <= there.low <= there.estimate <= there.high <= 1
    assert (back.low, back.estimate, back.high) == pytest.approx((-there.high, -there.estimate, -there.low))


def test_summary_of_a_small_run_by_hand() -> None:
    missed = {"clean_prediction": 1, "success": True, "first_success_step": 0, "forward_passes": 0, "linf": 0.0}
    rows = [
        row("a", said=2, first_success_step=2, l2=1.0),
        row("b", said=1, first_success_step=5, l2=3.0),
        row("c"),
        row("d"),
        row("e", said=1, **missed),
    ]
    (summary,) = summarise(Columns.of(rows))
    assert (summary.clips, summary.correct, summary.successes, summary.unusable) == (5, 4, 2, 0)
    assert summary.clean_accuracy == wilson(4, 5)
    assert summary.robust_accuracy == wilson(2, 5)
    assert summary.fooling_rate == wilson(2, 4)
    assert summary.target_rate is None
    assert summary.iterations == 3.5
    assert summary.l2 == 2.0
    assert summary.linf == pytest.approx(8 / 255)
    assert (summary.forward_passes, summary.backward_passes, summary.seconds) == (40, 40, 2.5)


def test_unusable_clips_are_counted_and_in_no_denominator() -> None:
    clean = row("a", attack=CLEAN, eps=0.0, threat="")
    (summary,) = summarise(Columns.of([clean, UNUSABLE]))
    assert (summary.clips, summary.unusable) == (1, 1)
    assert summary.robust_accuracy == wilson(1, 1)


def test_an_attack_that_never_succeeds_has_no_distances() -> None:
    (summary,) = summarise(Columns.of([row("a"), row("b")]))
    assert summary.successes == 0
    assert all(math.isnan(v) for v in (summary.iterations, summary.linf, summary.psnr, summary.frames_touched))


def test_likeness_is_over_the_clips_whose_signal_changed() -> None:
    rows = [
        row("a", 1, psnr=30.0, audio_snr_db=10.0),
        row("b", 1, psnr=40.0, audio_snr_db=-math.inf),
        row("c", 1, psnr=math.inf, audio_snr_db=20.0),
        row("d", 1, psnr=math.inf, audio_snr_db=None),
    ]
    (summary,) = summarise(Columns.of(rows))
    assert (summary.psnr, summary.audio_snr_db) == (35.0, 15.0)
    (unseen,) = summarise(Columns.of(rows[2:]))
    assert (unseen.psnr, unseen.audio_snr_db) == (math.inf, 20.0)
    (unheard,) = summarise(Columns.of(rows[3:]))
    assert math.isnan(unheard.audio_snr_db)


def test_repeating_an_attack_with_other_seeds_does_not_narrow_the_interval() -> None:
    once = [row(s, said=int(s == "a")) for s in "abcd"]
    twice = [*once, *(replace(r, seed=1) for r in once)]
    assert summarise(Columns.of(twice))[0].robust_accuracy == summarise(Columns.of(once))[0].robust_accuracy
    mixed = [*once, *(row(s, seed=1) for s in "abcd")]
    (summary,) = summarise(Columns.of(mixed))
    assert (summary.clips, summary.robust_accuracy) == (4, wilson(3.5, 4))


def test_a_targeted_attack_is_robust_accuracy_and_target_rate_apart() -> None:
    rows = [row("a", said=2, target=2), row("b", said=1, target=2, success=False), row("c", target=2)]
    (summary,) = summarise(Columns.of(rows))
    assert summary.robust_accuracy == wilson(1, 3)
    assert summary.fooling_rate == wilson(2, 3)
    assert summary.target_rate == wilson(1, 3)
    assert summary.successes == 1


def test_budgets_rise_and_norms_stay_apart() -> None:
    rows = [
        row(eps=8 / 255),
        row(eps=2 / 255, threat="linf(eps=2/255)"),
        row(eps=2.0, threat="l2(eps=2.0)", attack="pgd(norm=l2)"),
        row(eps=0.01, threat="linf(eps=0.01, modality=audio)"),
        row(attack=CLEAN, eps=0.0, threat=""),
    ]
    order = [("", 0.0), ("l2", 2.0), ("linf", 2 / 255), ("linf", 8 / 255), ("linf audio", 0.01)]
    assert [(s.norm, s.eps) for s in summarise(Columns.of(rows))] == order
    joint = "joint(members=[linf(eps=8/255), linf(eps=0.012, modality=audio)])"
    assert norm_of(row(threat=joint)) == joint


def test_union_is_the_worst_case_per_clip() -> None:
    pgd = [row("a", said=1), row("b"), row("c")]
    square = [row("a", attack="square"), row("b", attack="square", said=1), row("c", attack="square")]
    (both,) = union(Columns.of([*pgd, *square, row("a", attack=CLEAN, eps=0.0, threat="")]))
    assert both.attacks == ("pgd", "square")
    assert both.robust_accuracy == wilson(1, 3)


def test_union_leaves_out_clips_that_some_member_has_not_met() -> None:
    (both,) = union(Columns.of([row("a"), row("b"), row("a", attack="square")]))
    assert both.clips == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_union_is_never_above_any_member(outcomes: Sequence[tuple[bool, ...]]) -> None:
    rows = [
        row(str(clip), attack=f"attack{member}", said=int(fooled))
        for clip, members in enumerate(outcomes)
        for member, fooled in enumerate(members)
    ]
    (together,) = union(Columns.of(rows))
    least = min(s.robust_accuracy.estimate for s in summarise(Columns.of(rows)))
    fooled_somewhere = sum(any(members) for members in outcomes)
    assert together.robust_accuracy.estimate <= least
    assert together.robust_accuracy == wilson(len(outcomes) - fooled_somewhere, len(outcomes))


def test_the_same_attack_crafted_elsewhere_is_another_attack() -> None:
    rows = [row("a"), row("b", said=1), row("a", said=1, surrogate="file2d"), row("b", surrogate="file2d")]
    assert [s.title for s in summarise(Columns.of(rows))] == ["pgd", "pgd from file2d"]
    assert all(s.robust_accuracy == wilson(1, 2) for s in summarise(Columns.of(rows)))
    (both,) = union(Columns.of(rows))
    assert both.attacks == ("pgd", "pgd from file2d")
    assert both.robust_accuracy == wilson(0, 2)


def test_success_after_codecs_counts_the_clips_that_were_re_encoded() -> None:
    rows = [
        row("a", said=1, codecs=["h264:23", "mjpeg:5"], codec_success=[True, False]),
        row("b", said=1, codecs=["h264:23", "mjpeg:5"], codec_success=[True, True]),
        row("c", codecs=["h264:23"], codec_success=[False]),
        row("d", said=1, clean_prediction=1, first_success_step=0),
    ]
    assert success_after_codecs(Columns.of(rows)) == {"h264:23": wilson(2, 3), "mjpeg:5": wilson(1, 2)}


def test_confusions_leave_out_clips_missed_without_an_attack() -> None:
    rows = [row("a", said=2), row("b", said=2), row("c"), row("d", said=1, clean_prediction=1)]
    assert confusions(Columns.of(rows)) == {(0, 2): 2, (0, 0): 1}


def test_standing_by_step_falls_where_clips_fall() -> None:
    rows = [
        row("a", said=1, first_success_step=2, loss_trace=[0.0, 1.0]),
        row("b", loss_trace=[0.0, 1.0, 2.0, 3.0]),
        row("c", said=1, clean_prediction=1, first_success_step=0),
        row("d", loss_trace=[0.0] * 4),
    ]
    assert standing_by_step(Columns.of(rows)) == [0.75, 0.75, 0.5, 0.5, 0.5]
    assert standing_by_step(Columns.of([])) == []


def test_mean_loss_keeps_the_last_value_of_a_clip_that_is_done() -> None:
    rows = [row("a", loss_trace=[1.0, 3.0]), row("b", loss_trace=[1.0, 1.0, 2.0, math.nan]), row("c")]
    assert mean_loss(Columns.of(rows)) == [1.0, 2.0, 2.5, 2.5]


def traced(sample: str, length: int, **changes: object) -> Record:
    """A clip whose objective at each of its steps is the number of the step, as a run records it."""
    points = [float(step) for step in thinned_steps(length)]
    return row(sample, **{"loss_trace": points, "steps": length, "trace_steps": length, **changes})  # type: ignore[arg-type]


def test_curves_of_many_steps_are_against_true_steps() -> None:
    rows = [traced("a", 196, said=1, first_success_step=195), *(traced(name, 4999) for name in "bcdefghij")]
    columns = Columns.of(rows)
    standing = standing_by_step(columns)
    assert (len(standing), standing[194], standing[195], standing[4999]) == (5000, 1.0, 0.9, 0.9)
    assert tells_its_steps(columns)
    losses = mean_loss(Columns.of(rows[1:]))
    assert len(losses) == 4999
    assert all(step - 26 < loss <= step for step, loss in enumerate(losses))
    assert losses[-1] == 4998
    for step in (0, 100, 195):  # at its points the thinned trace is exact, and the short one is whole
        at = max(own for own in thinned_steps(4999) if own <= step)
        assert mean_loss(columns)[step] == pytest.approx((step + 9 * at) / 10)


def test_steps_of_every_start_are_in_the_curve_and_the_trace_is_of_one() -> None:
    fallen = row("b", said=1, first_success_step=33, loss_trace=[0.0], steps=33, trace_steps=1)
    columns = Columns.of([traced("a", 10, steps=40), fallen])
    assert [len(standing_by_step(columns)), len(mean_loss(columns))] == [41, 10]


def test_early_versions_do_not_tell_how_many_steps_a_thinned_trace_is_of() -> None:
    early = {"steps": None, "trace_steps": None}
    short, long = traced("a", 199, **early), traced("b", 5000, **early)
    assert tells_its_steps(Columns.of([short]))
    assert mean_loss(Columns.of([short])) == [float(step) for step in range(199)]
    assert not tells_its_steps(Columns.of([short, long]))
    assert mean_loss(Columns.of([short, long])) == []
    assert len(standing_by_step(Columns.of([short, long]))) == 201
    assert tells_its_steps(Columns.of([short, replace(long, status="unusable")]))


def test_unusable_clips_are_those_of_every_attack() -> None:
    clean = row("a", attack=CLEAN, eps=0.0, threat="")
    assert [s.unusable for s in summarise(Columns.of([clean, UNUSABLE, row("a")]))] == [1, 1]
