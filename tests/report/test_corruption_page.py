"""The page about masked time steps: where curves and crosses lie, what it concludes, and that a browser shows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from browsing import CHROMIUM, on_phone_and_desktop

from robustvideo.evaluation.corruption import MODES, AlignedTransfer, MaskedAccuracy
from robustvideo.evaluation.metrics import Interval, wilson
from robustvideo.evaluation.records import CLEAN
from robustvideo.report.corruption import build_corruption_page

THIN, MINUS = "\u202f", "\u2212"
HOSTILE = "<script>window.hacked = 1</script>"


def masked(lost: int = 6) -> list[MaskedAccuracy]:
    """Of 20 clips 16 are recognised; the largest mask loses some, of sound alone none. Two ratios are one share."""
    found = []
    for mode in MODES:
        for ratio, share in ((0.0, 0.0), (0.05, 0.125), (0.1, 0.125), (0.25, 0.25)):
            right = 16 - (0 if mode == "audio" else round(lost * share / 0.25))
            found.append(MaskedAccuracy(mode, ratio, share, wilson(right, 20)))
    return found


def aligned(cosines: Sequence[float] = (0.4, 0.3, 0.2, 0.1)) -> list[AlignedTransfer]:
    """Attacks that succeed the more the later they come; the undisturbed clips first."""
    points = [AlignedTransfer(CLEAN, Interval(0.45, 0.5, 0.55), wilson(4, 20))]
    for number, cosine in enumerate(cosines):
        success = wilson(8 + 2 * number, 20)
        points.append(AlignedTransfer(f"a{number}", Interval(cosine - 0.05, cosine, cosine + 0.05), success))
    return points


def text(out: Path, masking: dict[str, list[MaskedAccuracy]], points: Sequence[AlignedTransfer] = ()) -> str:
    path = build_corruption_page(masking, points, out / "p.html", data="d", clips=20, seeds=3, command="c")
    return path.read_text(encoding="utf-8")


def test_a_single_model_has_curves_with_bands_at_true_shares(tmp_path: Path) -> None:
    page = text(tmp_path, {"folder/m": masked()})
    assert f"With 25{THIN}% of the time steps masked in picture and sound" in page
    assert f"accuracy goes from 80{THIN}% to <strong>50{THIN}%</strong>" in page
    assert "folder/m" in page
    assert page.count('class="chart"') == 1
    bands = re.findall(r'class="band style-(\d)" d="(.*?)"', page)
    assert [style for style, _ in bands] == ["0", "1", "2", "3"]
    low, high = 100 * wilson(10, 20).low, 100 * wilson(10, 20).high
    assert f"L100.00 {100 - high:.2f}L100.00 {100 - low:.2f}L50.00" in bands[0][1]
    assert 'class="line style-0" d="M0.00 20.00L50.00 35.00L100.00 50.00"' in page
    assert 'class="line style-1" d="M0.00 20.00L50.00 20.00L100.00 20.00"' in page
    assert f"video, 12.5{THIN}% masked: 65{THIN}%" in page
    assert 'id="alignment"' not in page


def test_several_models_and_a_falling_cross_for_every_attack(tmp_path: Path) -> None:
    names = {"trained:runs/one/model.safetensors": masked(), "trained:runs/two/model.safetensors": masked(2)}
    page = text(tmp_path, names, aligned())
    assert f"accuracy of 2 models changes by <strong>{MINUS}30 to {MINUS}10 points</strong>" in page
    assert ">one</h3>" in page
    assert "crafted on one and tried on the other model" in page
    assert "The less they agree, the more often the others are wrong" in page
    assert f"4 attacks is {MINUS}1.00; chance puts it as far below 0 in 4{THIN}% of cases" in page
    assert page.count('class="chart"') == 3
    assert f"no attack: cosine 0.500, others mistake 20{THIN}%" in page
    # the axis goes from 0 to 0.6 and from 0 to 100 %: a0 is at 0.4 +- 0.05 and 8 of 20
    assert 'd="M58.33 60.00L75.00 60.00M66.67' in page


def test_no_order_of_attacks_is_made_up(tmp_path: Path) -> None:
    names = {"a": masked(), "b": masked()}
    unclear = text(tmp_path, names, aligned((0.3, 0.4, 0.1, 0.2)))
    assert "says nothing either way" in unclear
    assert f"<strong>{MINUS}30 points</strong>" in unclear
    assert "the paper has the opposite" in text(tmp_path, names, aligned((0.1, 0.2, 0.3, 0.4)))
    equal = [AlignedTransfer(p.attack, Interval(0.0, 0.0, 0.0), p.success) for p in aligned()]
    assert "No rank correlation" in text(tmp_path, names, equal)
    assert f"{MINUS}0<" not in text(tmp_path, names, aligned((-1e-9, -1e-8, 0.0, 0.1)))
    assert f"{MINUS}0.000" not in text(tmp_path, names, aligned((-1e-9, -1e-8, 0.0, 0.1)))


def test_hostile_names_are_text(tmp_path: Path) -> None:
    assert HOSTILE not in text(tmp_path, {HOSTILE: masked(), "b": masked()}, aligned())


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_without_complaint_on_desktop_and_phone(tmp_path: Path) -> None:
    text(tmp_path, {f"trained:{'long' * 20}/{name}/model.safetensors": masked() for name in "abc"}, aligned())
    for page in on_phone_and_desktop(tmp_path / "p.html"):
        areas = page.locator(".chart .area").all()
        assert len(areas) == 4
        for area in areas:
            box = area.bounding_box()
            assert box is not None
            assert box["width"] > 150
            for mark in area.locator(".mark").all():
                own = mark.bounding_box()
                assert own is not None
                assert box["x"] - 6 <= own["x"] + own["width"] / 2 <= box["x"] + box["width"] + 6
                assert box["y"] - 6 <= own["y"] + own["height"] / 2 <= box["y"] + box["height"] + 6
