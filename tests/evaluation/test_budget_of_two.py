"""A budget for picture and sound in records and on the page: what is compared with what, and how it is said."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest

from robustvideo.attacks import FGSM
from robustvideo.evaluation.metrics import norm_of
from robustvideo.evaluation.records import Record
from robustvideo.evaluation.rows import under
from robustvideo.report.wording import budget, changes, norm_name
from robustvideo.threat import AudioVisual, Linf, ThreatModel


def norm_and_eps(threat: ThreatModel) -> tuple[str, float]:
    empty = {"int": 0, "float": 0.0, "str": "", "bool": False}
    needed = [f for f in fields(Record) if f.default is MISSING and f.default_factory is MISSING]
    row = under(FGSM(threat), Record(**{f.name: empty[str(f.type)] for f in needed}))  # type: ignore[arg-type]
    return norm_of(row), row.eps


@pytest.mark.parametrize(
    ("threat", "same"),
    [
        (AudioVisual(4 / 255, 0), Linf(4 / 255)),
        (AudioVisual(0, 0.006), Linf(0.006, modality="audio")),
    ],
)
def test_a_single_modality_is_what_its_ball_is(threat: ThreatModel, same: ThreatModel) -> None:
    assert norm_and_eps(threat) == norm_and_eps(same)


def test_both_are_compared_at_one_budget_of_the_sound() -> None:
    assert norm_and_eps(AudioVisual()) == ("audio_visual(audio=0.012)", 8 / 255)
    assert norm_and_eps(AudioVisual(8 / 255, 0.006))[0] != norm_and_eps(AudioVisual())[0]


def test_the_page_says_both() -> None:
    norm, eps = norm_and_eps(AudioVisual())
    assert budget(eps, norm) == "8/255"
    assert norm_name(norm) == "L∞ (sound 0.012)"
    assert changes(eps, norm) == "changes of at most 8/255 per pixel and 0.012 per sound sample"
