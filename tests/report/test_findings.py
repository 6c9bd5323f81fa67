from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from synthetic_run import FOES, Foe, make_run

from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.records import Record, read_records, write_shard
from robustvideo.report import build_report
from robustvideo.report.findings import Caution, cautions, headline
from robustvideo.report.series import Series, headline_budget, load_series


def changed(series: Series, change: Callable[[Record], Record]) -> Series:
    return Series(
        series.name, series.run, series.defense, series.labels, Columns.of(change(r) for r in series.rows.records())
    )


def titles(series: Sequence[Series]) -> str:
    return "\n".join(c.title for c in cautions(series))


def found(series: Sequence[Series], words: str) -> Caution:
    (caution,) = [c for c in cautions(series) if words in c.title]
    return caution


def test_a_sound_evaluation_has_no_serious_caution(new_run: Callable[..., Path]) -> None:
    series = load_series([new_run(clips=150, saved=0)])
    assert [c.title for c in cautions(series)] == []


def test_headline_is_the_worst_case_at_the_usual_budget(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    told = headline([series])
    assert told.budget == ("linf", 8 / 255)
    assert told.changes == "changes of at most 8/255 per pixel"
    (standing,) = told.standings
    rows = [r for r in series.rows.records() if r.attack != "clean" and abs(r.eps - 8 / 255) < 1e-9]
    stood = {r.sample_id for r in rows} - {r.sample_id for r in rows if r.adversarial_prediction != r.label}
    assert standing.robust is not None
    assert standing.robust.estimate == len(stood) / 40
    assert standing.clean.estimate == 38 / 40


def test_headline_budget_without_the_usual_one(new_run: Callable[..., Path]) -> None:
    assert headline_budget(load_series([new_run("below", levels=(2, 4, 16), saved=0)])) == ("linf", 4 / 255)
    assert headline_budget(load_series([new_run("above", levels=(12, 16), saved=0)])) == ("linf", 12 / 255)
    assert headline_budget(load_series([new_run("none", foes=(), saved=0)])) is None


def test_of_picture_and_sound_the_headline_is_the_usual_budget_of_the_picture() -> None:
    norm = "audio_visual(audio=0.3825*eps)"
    known = {("linf audio", 0.003), (norm, 2 / 255), (norm, 8 / 255), (norm, 16 / 255)}

    class Heard:
        unions = dict.fromkeys(known)

    assert headline_budget([Heard()]) == (norm, 8 / 255)  # type: ignore[list-item]


def test_few_clips_and_a_single_budget_and_attack_are_said(new_run: Callable[..., Path]) -> None:
    series = load_series([new_run(clips=10, levels=(8,), foes=FOES[2:3], saved=0)])
    assert "Few clips" in titles(series)
    assert "A single budget" in titles(series)
    assert "A single attack" in titles(series)
    assert not any(c.serious for c in cautions(series))


def test_few_clips_are_said_where_everything_falls(new_run: Callable[..., Path]) -> None:
    series = load_series([new_run(clips=12, levels=(32,), foes=FOES[2:3], saved=0, toughness=0.1)])
    robust = series[0].unions["linf", 32 / 255].robust_accuracy
    assert robust.high - robust.low < series[0].clean.high - series[0].clean.low
    assert "accuracy without an attack" in found(series, "Few clips").text


def test_unusable_clips_are_named_with_their_messages(new_run: Callable[..., Path]) -> None:
    caution = found(load_series([new_run(unusable=30, saved=0)]), "Unusable")
    assert "30 clips" in caution.text
    assert caution.details[0] == "set1/040.avi: the file ends in the middle of a frame"
    assert caution.details[-1] == "… and 10 more"


def test_an_attack_that_noise_matches_is_serious(new_run: Callable[..., Path]) -> None:
    foes = (Foe("noise", 2.0, 0), Foe("pgd(steps=20)", 2.0, 20))
    caution = found(load_series([new_run(foes=foes, saved=0)]), "random noise")
    assert caution.serious
    assert caution.title.startswith("pgd(steps=20) is no stronger")


def test_a_stronger_black_box_attack_points_at_masked_gradients(new_run: Callable[..., Path]) -> None:
    foes = (Foe("pgd(steps=20)", 3.0, 20), Foe("square(steps=100)", 1.0, 100))
    assert found(load_series([new_run(foes=foes, saved=0)]), "masked").serious


def test_an_ensemble_that_needs_its_blind_member_points_at_masked_gradients(new_run: Callable[..., Path]) -> None:
    (series,) = load_series([new_run(foes=(Foe("autoattack", 1.0, 20),), saved=0)])

    def by(member: str) -> Series:
        return changed(series, lambda r: replace(r, member=member if r.success and r.attack == "autoattack" else ""))

    caution = found([by("square(queries=5000)")], "masked")
    assert caution.serious
    assert "autoattack" in caution.text
    assert "masked" not in titles([by("apgd_ce")])


def test_clips_crafted_on_another_model_have_not_seen_the_gradient(new_run: Callable[..., Path]) -> None:
    foes = (Foe("pgd(steps=20)", 1.0, 20), Foe("apgd_ce", 3.0, 20), Foe("square(steps=100)", 1.0, 100))
    (series,) = load_series([new_run(foes=foes, saved=0)])
    assert "masked" not in titles([series])

    def elsewhere(record: Record) -> Record:
        return replace(record, surrogate="other") if record.attack == "pgd(steps=20)" else record

    caution = found([changed(series, elsewhere)], "masked")
    assert caution.serious
    assert "pgd(steps=20) from other" in caution.text


def test_masking_is_counted_per_clip(new_run: Callable[..., Path]) -> None:
    """PGD leaves fewer clips than Square, and yet not those that Square breaks."""
    foes = (Foe("pgd(steps=20)", 1.0, 20), Foe("square(steps=100)", 1.9, 100))
    (series,) = load_series([new_run(clips=100, foes=foes, saved=0)])
    assert "masked" not in titles([series])

    def miss(share: int) -> Series:
        def heal(record: Record) -> Record:
            easy = record.attack == "pgd(steps=20)" and record.sample_id in fallen[:share] and record.eps < 9 / 255
            return replace(record, adversarial_prediction=record.label, success=False) if easy else record

        return changed(series, heal)

    fallen = sorted(
        r.sample_id
        for r in series.rows.records()
        if r.attack.startswith("square") and r.success and abs(r.eps - 8 / 255) < 1e-9 and r.clean_prediction == r.label
    )
    assert not found([miss(2)], "masked").serious
    assert found([miss(8)], "masked").serious


def test_accuracy_that_rises_with_the_budget_is_serious(run_dir: Path) -> None:
    (series,) = load_series([run_dir])

    def heal(record: Record) -> Record:
        weak = record.attack == "fgsm" and record.eps > 15 / 255 and record.clean_prediction == record.label
        return replace(record, adversarial_prediction=record.label, success=False) if weak else record

    assert found([changed(series, heal)], "fgsm gets weaker").serious


def test_attacks_still_succeeding_at_their_last_steps_are_named(new_run: Callable[..., Path]) -> None:
    (series,) = load_series([new_run(saved=0, toughness=2.0)])
    assert "Not converged" not in titles([series])

    def late(record: Record) -> Record:
        return replace(record, first_success_step=20) if record.attack == "pgd(steps=20)" and record.success else record

    assert "pgd(steps=20)" in found([changed(series, late)], "Not converged").text


def test_many_steps_do_not_look_like_few(new_run: Callable[..., Path]) -> None:
    """A success at step 195 is near the end of 200 steps, not of 5000; an early version's rows leave both possible."""
    (series,) = load_series([new_run(saved=0, toughness=2.0)])

    def with_steps(steps: int | None) -> Series:
        def late(record: Record) -> Record:
            if record.attack != "pgd(steps=20)" or record.clean_prediction != record.label:
                return record
            first, trace = (195, [0.0] * 196) if record.success else (-1, [0.0] * 200)
            return replace(record, first_success_step=first, loss_trace=trace, steps=steps)

        return changed(series, late)

    assert "Not converged" in titles([with_steps(200)])
    assert "Not converged" not in titles([with_steps(5000)])
    assert "Not converged" not in titles([with_steps(None)])


def test_a_defence_left_out_of_the_gradient_is_serious(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    hidden = Series("", series.run, "jpeg(quality=75, gradient=none)", series.labels, series.rows)
    assert found([hidden], "did not see the defence").serious


def test_a_model_that_recognises_little_is_serious(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    lost = changed(series, lambda r: replace(r, clean_prediction=(r.label + 1) % 6, success=True))
    assert found([lost], "Low accuracy").serious


def test_clips_that_an_unfinished_run_has_not_attacked_are_counted(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    rows = series.rows.where(~((series.rows.attack == "fgsm") & (series.rows.sample_id > "set1/030.avi")))
    part = Series("", series.run, "none", series.labels, rows)
    assert "9 clips" in found([part], "worst case is of fewer").text


def test_runs_on_different_clips_or_attacks_are_not_compared_silently(new_run: Callable[..., Path]) -> None:
    first = new_run("first", saved=0)
    assert "Different" not in titles(load_series([first, new_run("second", saved=0, toughness=2.0)]))
    assert found(load_series([first, new_run("third", clips=30, saved=0)]), "Different clips").serious
    other = found(load_series([first, new_run("fourth", foes=FOES[:4], saved=0)]), "Different attacks")
    assert "square" in other.text


def test_the_same_caution_about_two_runs_is_said_once(new_run: Callable[..., Path]) -> None:
    runs = [new_run("first", clips=10, saved=0), new_run("second", clips=10, saved=0, model="embedded:r3d_at")]
    caution = found(load_series(runs), "Few clips")
    assert "embedded:r3d and embedded:r3d_at" in caution.title


def test_two_runs_on_the_same_clips_get_a_paired_difference(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, saved=0, toughness=t) for name, t in (("a", 1.0), ("b", 3.0))]
    told = headline(load_series(runs))
    first, second = (s.robust for s in told.standings)
    assert told.difference is not None
    assert first is not None
    assert second is not None
    assert told.shared == 40
    assert abs(told.difference.estimate - (second.estimate - first.estimate)) < 1e-12
    assert told.difference.high - told.difference.low < (first.high - first.low) + (second.high - second.low)


def test_runs_without_shared_clips_are_told_apart_not_compared(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", saved=0, clips=6), make_run(tmp_path / "b", saved=0, clips=3)]
    rows = [replace(row, sample_id=f"other/{row.sample_id}") for row in read_records(runs[1])]
    write_shard(runs[1] / "records" / "0000000-000.parquet", rows)
    told = headline(load_series(runs))
    assert told.shared == 0
    assert told.difference is None
    page = build_report(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "They share no clips" in page
    assert "chance alone" not in page
    assert "<small>6 clips</small>" in page
    assert "<small>3 clips</small>" in page
    assert "Share of each one's own clips" in page


def test_series_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    make_run(tmp_path / "a", saved=0, clips=3)
    make_run(tmp_path / "b", saved=0, clips=3, model="embedded:r3d_at")
    make_run(tmp_path / "c", saved=0, clips=3)
    assert [s.name for s in load_series([tmp_path / "a"])] == [""]
    assert [s.name for s in load_series([tmp_path / "a", tmp_path / "b"])] == ["embedded:r3d", "embedded:r3d_at"]
    assert [s.name for s in load_series([tmp_path / "a", tmp_path / "c"])] == ["a", "c"]


def test_a_gradient_attack_without_a_backward_pass_is_serious(new_run: Callable[..., Path]) -> None:
    (series,) = load_series([new_run(saved=0)])
    assert "No gradient" not in titles([series])
    caution = found([changed(series, lambda r: replace(r, backward_passes=0))], "No gradient")
    assert caution.serious
    assert "pgd(steps=20)" in caution.text
    assert "square" not in caution.text.partition(" climbs")[0]
    felled = changed(series, lambda r: replace(r, backward_passes=0, adversarial_prediction=(r.label + 1) % 6))
    assert "No gradient" not in titles([felled])  # a random start may turn every clip before the first gradient


def test_what_is_as_weak_as_noise_is_judged_by_what_it_uses(new_run: Callable[..., Path]) -> None:
    foes = (Foe("noise", 2.0, 0), Foe("square(queries=50)", 2.0, 50), Foe("sparse(k=2)", 2.0, 20), Foe("pgd", 2.0, 20))
    (series,) = load_series([new_run(foes=foes, saved=0)])
    few = changed(series, lambda r: replace(r, frames_touched=2) if r.attack == "sparse(k=2)" else r)
    square, sparse, pgd = (
        found([few], f"{name} is no stronger") for name in ("square(queries=50)", "sparse(k=2)", "pgd")
    )
    assert "Gradients" not in square.text
    assert "queries" in square.text
    assert "Gradients" not in sparse.text
    assert "changes 2 frames of a clip, the noise 12" in sparse.text
    assert "Gradients that carry no information" in pgd.text
    assert (square.serious, sparse.serious, pgd.serious) == (True, False, True)


def test_a_model_that_names_no_classes_is_said(new_run: Callable[..., Path]) -> None:
    (series,) = load_series([new_run(saved=0)])
    assert "order of the classes" not in titles([series])
    series.run.manifest.model["labels"] = None
    assert "class 0 is handshake, class 1 is hug" in found([series], "order of the classes").text
