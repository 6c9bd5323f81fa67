"""The lines of the trust protocol that records decide, by hand; and the file that keeps them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from robustvideo.attacks.autoattack import AutoAttack
from robustvideo.errors import InputError
from robustvideo.evaluation.records import CLEAN, Record
from robustvideo.evaluation.run import Manifest
from robustvideo.evaluation.trust.check import FILE, LINES, Check, at_least, at_most, load_checks, save_checks
from robustvideo.evaluation.trust.from_records import black_box, budget_curve, ladder, provenance, survival
from robustvideo.evaluation.trust.sides import GRADIENT_FREE, lineup


def row(clip: int, attack: str, falls: bool, *, levels: int = 8, surrogate: str = "", **changes: object) -> Record:
    """Clip number ``clip`` of class 0 under an attack."""
    record = Record(
        sample_id=str(clip),
        label=0,
        attack=attack,
        eps=levels / 255,
        defense="none",
        seed=0,
        clean_prediction=0,
        adversarial_prediction=int(falls),
        success=falls,
        first_success_step=1 if falls else -1,
        forward_passes=3,
        backward_passes=2,
        seconds=0.5,
        linf=levels / 255,
        l2=1.0,
        l21=1.0,
        ssim=0.9,
        frames_touched=4,
        threat="linf",
        surrogate=surrogate,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def under(attack: str, fallen: int, clips: int = 10, **changes: object) -> list[Record]:
    """``clips`` clips under an attack, of which the first ``fallen`` fall."""
    return [row(i, attack, i < fallen, **changes) for i in range(clips)]  # type: ignore[arg-type]


def graded(check: Check) -> tuple[str, float | None]:
    return check.grade, None if check.number is None else round(check.number, 6)


def test_grades_end_where_they_say() -> None:
    assert [at_most(x, 0.01, 0.05) for x in (0.01, 0.05, 0.06, float("nan"))] == ["pass", "warn", "fail", "fail"]
    assert [at_least(x, 0.9, 0.6) for x in (0.9, 0.6, 0.5, float("nan"))] == ["pass", "warn", "fail", "fail"]


def test_a_ladder_that_rises_passes_and_its_number_is_the_smallest_gap() -> None:
    rungs = under("noise", 1) + under("fgsm", 4) + under("pgd(steps=20)", 5)
    assert graded(ladder(rungs)) == ("pass", -0.1)


def test_iterated_attacks_that_find_less_than_one_step_fail() -> None:
    check = ladder(under("noise", 0) + under("fgsm", 6) + under("pgd(steps=20)", 4))
    assert graded(check) == ("fail", 0.2)
    assert check.advice


def test_the_union_of_the_iterated_attacks_is_the_rung() -> None:
    first = [row(i, "pgd(steps=20)", i < 5) for i in range(10)]
    second = [row(i, "apgd_dlr", i >= 5) for i in range(10)]
    assert graded(ladder(under("fgsm", 6) + first + second)) == ("pass", -0.4)


def test_an_attack_that_finds_what_noise_finds_is_a_warning_unless_nothing_is_left() -> None:
    assert ladder(under("noise", 2) + under("pgd(steps=20)", 2)).grade == "warn"
    assert ladder(under("noise", 10) + under("pgd(steps=20)", 10)).grade == "pass"
    larger = under("noise", 2, levels=16) + under("pgd(steps=20)", 9, levels=16)
    assert ladder(under("noise", 2) + under("pgd(steps=20)", 2) + larger).grade == "pass"


def test_rungs_are_compared_on_the_clips_that_both_met() -> None:
    few = [row(i, "pgd(steps=20)", i < 2) for i in range(2)]
    assert graded(ladder(under("fgsm", 2) + few)) == ("pass", 0.0)


def test_clips_wrong_without_an_attack_and_transferred_ones_are_no_rung() -> None:
    wrong = [replace(r, clean_prediction=1) for r in under("noise", 9)]
    assert ladder(wrong + under("pgd(steps=20)", 3)).grade == "not applicable"
    assert ladder(under("noise", 9, surrogate="other") + under("pgd(steps=20)", 3)).grade == "not applicable"


def test_a_curve_that_ends_at_zero_passes_although_the_last_attack_missed_a_clip() -> None:
    small = [row(i, "pgd(steps=20)", i == 9) for i in range(10)]
    large = under("pgd(steps=20)", 9, levels=32)
    assert graded(budget_curve(small + large)) == ("pass", 0.0)


@pytest.mark.parametrize(("left", "grade"), [(1, "warn"), (3, "fail")])
def test_a_curve_that_stays_up_is_caught(left: int, grade: str) -> None:
    check = budget_curve(under("pgd(steps=20)", 2) + under("pgd(steps=20)", 10 - left, levels=64))
    assert graded(check) == (grade, left / 10)
    assert "64/255" in check.meaning


def test_a_curve_that_rises_again_is_a_warning() -> None:
    rows = under("pgd(steps=20)", 10) + under("pgd(steps=20)", 5, levels=16)
    assert budget_curve(rows).grade == "warn"


@pytest.mark.parametrize("blind", ["square(queries=100)", "noise", "simba"])
def test_a_clip_that_falls_only_without_gradients_is_masking(blind: str) -> None:
    seeing = under("pgd(steps=20)", 5)
    assert graded(black_box(seeing + under(blind, 5))) == ("pass", 0.0)
    other = [row(i, blind, i == 7) for i in range(10)]
    assert graded(black_box(seeing + other)) == ("fail", 0.1)


def test_a_transferred_clip_is_without_gradients_of_this_model() -> None:
    transferred = under("pgd(steps=20)", 7, surrogate="embedded:r3d")
    check = black_box(under("pgd(steps=20)", 5) + transferred)
    assert graded(check) == ("fail", 0.2)
    assert "embedded:r3d" in check.meaning
    assert black_box(transferred).grade == "not applicable"


ENSEMBLE = "autoattack(version=custom, members=[apgd_ce(steps=30), square(seed=3, queries=300)])"
SQUARE = "square(queries=300)"


def broken_by(attack: str, *members: str) -> list[Record]:
    """A clip per member that broke it ("" for none)."""
    return [row(i, attack, bool(member), member=member) for i, member in enumerate(members)]


@pytest.mark.parametrize("attack", [ENSEMBLE, "autoattack", "autoattack(version=plus)"])
def test_what_an_ensemble_breaks_without_gradients_falls_only_without(attack: str) -> None:
    rows = broken_by(attack, *4 * ["apgd_ce(steps=30)"], *3 * [SQUARE], *3 * [""])
    check = black_box(rows)
    assert graded(check) == ("fail", 0.3)  # of all ten: whoever fell with a gradient need not fall without
    assert "3 of 10 clips" in check.meaning
    assert graded(black_box(broken_by(attack, *7 * ["apgd_ce(steps=30)"], *3 * [""]))) == ("pass", 0.0)
    assert graded(black_box(rows + under("pgd(steps=20)", 5))) == ("fail", 0.2)  # the fifth fell to PGD


def test_an_ensemble_of_gradients_alone_is_white_box() -> None:
    rand = broken_by("autoattack(version=rand)", *4 * ["apgd_ce(eot=20)"], *6 * [""])
    assert black_box(rand).grade == "not applicable"
    assert graded(black_box(rand + under("square", 6))) == ("fail", 0.2)


@pytest.mark.parametrize(
    ("members", "number"), [("square(seed=3, queries=300), apgd_ce", 0.0), ("apgd_ce, square(queries=300), nes", 0.5)]
)
def test_gradients_have_failed_on_a_clip_only_where_they_came_first(members: str, number: float) -> None:
    rows = broken_by(f"autoattack(version=custom, members=[{members}])", SQUARE, SQUARE, "apgd_ce", "")
    assert black_box(rows).number == number


def test_an_ensemble_crafted_elsewhere_is_without_gradients_of_this_model() -> None:
    rows = [replace(r, surrogate="other") for r in broken_by("autoattack", *3 * ["apgd_ce"], "")]
    assert black_box(rows).grade == "not applicable"
    assert graded(black_box(rows + under("pgd(steps=20)", 1, clips=4))) == ("fail", 0.5)


def test_what_an_ensemble_breaks_without_gradients_is_no_rung_of_the_ladder() -> None:
    blind = broken_by(ENSEMBLE, *6 * [SQUARE], *4 * [""])
    assert graded(ladder(under("fgsm", 2) + blind)) == ("fail", 0.2)
    assert graded(ladder(under("fgsm", 2) + broken_by(ENSEMBLE, *6 * ["apgd_ce(steps=30)"], *4 * [""]))) == (
        "pass",
        -0.4,
    )


def test_the_members_of_named_ensembles_are_those_that_run() -> None:
    for version in ("standard", "plus", "rand"):
        attack = AutoAttack(version=version)  # type: ignore[arg-type]
        blind = [member.registered_name in GRADIENT_FREE for member in attack.lineup()]
        known = [call.name in GRADIENT_FREE for call in lineup(attack.label)]
        assert blind == sorted(blind)  # gradients come first
        assert (known[0], known[-1]) == (blind[0], blind[-1])


def test_threat_models_are_not_mixed() -> None:
    sparse = under("pgd(steps=20)", 1, threat="linf(eps=8/255, support=frames(count=1))")
    assert black_box(under("square", 9) + sparse).grade == "not applicable"
    assert graded(budget_curve(under("pgd(steps=20)", 10) + sparse)) == ("pass", 0.0)


def test_budgets_are_not_mixed() -> None:
    assert black_box(under("pgd(steps=20)", 5) + under("square", 9, levels=16)).grade == "not applicable"


def test_survival_counts_what_storage_undoes_and_tells_of_codecs() -> None:
    attacked = under("pgd(steps=20)", 2, codecs=["h264:23"], codec_success=[True])
    assert survival(attacked, []).grade == "not applicable"
    assert survival(attacked, [True] * 4).grade == "pass"
    assert graded(survival(attacked, [True, True, True, False])) == ("fail", 0.75)
    assert "100% after h264:23" in survival(attacked, [True]).meaning


def test_provenance_names_what_is_missing() -> None:
    known = Manifest(
        model={"spec": "embedded:r3d"},
        configuration={"model_digest": "a", "data_fingerprint": "b"},
        environment={"torch": "2", "device": "cpu"},
    )
    rows = [*under("pgd(steps=20)", 5), row(0, CLEAN, False)]
    check = provenance(rows, known)
    assert graded(check) == ("pass", 0.0)
    assert "5.0 passes" in check.meaning
    assert "5.0 s" in check.meaning
    without = provenance(rows, known.model_copy(update={"configuration": {"model_digest": "a"}}))
    assert graded(without) == ("warn", 1.0)
    assert "fingerprint" in without.meaning
    assert provenance(rows, None).grade == "fail"
    free = [replace(r, forward_passes=0, backward_passes=0) for r in rows]
    assert "passes" in provenance(free, known).meaning.partition("Missing")[2]


def test_checks_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    lines = [Check(name, "pass", 0.5, 1.0, "seen", "do", "%", "at least") for name in LINES]
    save_checks(tmp_path, {"none": lines, "jpeg(quality=50)": lines[:1]})
    assert load_checks(tmp_path) == {"none": lines, "jpeg(quality=50)": lines[:1]}
    save_checks(tmp_path, {"none": [Check(LINES[0], "fail", float("nan"), 0.0, "seen")]})
    assert load_checks(tmp_path)["none"][0].number is None
    assert load_checks(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps({"schema_version": 2, "defenses": {}}),
        json.dumps({"schema_version": 1, "defenses": {"none": [{"name": "x"}]}}),
        json.dumps(
            {"schema_version": 1, "defenses": {"none": [{**vars(Check("x", "pass", 1, 1, "")), "grade": "<b>"}]}}
        ),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match=FILE):
        load_checks(tmp_path)
