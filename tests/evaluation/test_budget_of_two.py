"""A budget for picture and sound in records and on the page: what is compared with what, and how it is said."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest

from robustvideo.attacks import FGSM, load_attack
from robustvideo.attacks.attack import Attack, attacks
from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.metrics import norm_of, summarise
from robustvideo.evaluation.records import Record
from robustvideo.evaluation.rows import under
from robustvideo.report.wording import budget, changes, norm_name
from robustvideo.spec import Call, parse_call
from robustvideo.threat import AudioVisual, Linf, ThreatModel


def recorded(attack: Attack) -> Record:
    empty = {"int": 0, "float": 0.0, "str": "", "bool": False}
    needed = [f for f in fields(Record) if f.default is MISSING and f.default_factory is MISSING]
    return under(attack, Record(**{f.name: empty[str(f.type)] for f in needed}))  # type: ignore[arg-type]


def norm_and_eps(threat: ThreatModel) -> tuple[str, float]:
    row = recorded(FGSM(threat))
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


def test_both_are_compared_at_one_share_of_the_sound() -> None:
    assert norm_and_eps(AudioVisual()) == ("audio_visual(audio=0.3825*eps)", 8 / 255)
    assert norm_and_eps(AudioVisual(4 / 255, 0.006)) == ("audio_visual(audio=0.3825*eps)", 4 / 255)
    assert norm_and_eps(AudioVisual(8 / 255, 0.006))[0] != norm_and_eps(AudioVisual())[0]


@pytest.mark.parametrize("attack", ["tma", "ifgsm(threat=audio_visual(audio=0.007), steps=3)"])
def test_a_sweep_is_one_curve(attack: str) -> None:
    call = parse_call(attack)
    swept = [
        attacks.build(Call(call.name, {**call.arguments, "eps": levels / 255, "seed": levels}))
        for levels in (2, 3, 4, 7, 8, 16)
    ]
    curve = summarise(Columns.of(recorded(one) for one in swept))
    assert len({(point.attack, point.norm) for point in curve}) == 1
    assert len({point.eps for point in curve}) == len(swept)
    assert load_attack(attack).label == curve[0].attack  # of the default budget, nothing but the seed is left out


def test_what_bounds_other_things_is_another_curve() -> None:
    specs = [
        "tma(eps=8/255)",
        "tma(threat=audio_visual(audio=0))",
        "tma(threat=audio_visual(eps=0))",
        "tma(threat=audio_visual(audio=0.006))",
        "tma(eps=4/255, norm=audio_visual)",
        "tma(threat=linf(eps=8/255))",
    ]
    labels = [load_attack(spec).label for spec in specs]
    assert labels == [
        "tma(threat=audio_visual())",
        "tma(threat=audio_visual(audio=0))",
        "tma(threat=audio_visual(eps=0))",
        "tma(threat=audio_visual(audio=0.006))",
        "tma(threat=audio_visual(audio=0.024))",
        "tma",
    ]
    sound_only = [load_attack(f"tma(threat=audio_visual(eps=0, audio={audio}))") for audio in (0.006, 0.012)]
    assert [one.label for one in sound_only] == ["tma(threat=audio_visual(eps=0))"] * 2


def test_the_page_says_both() -> None:
    norm, eps = norm_and_eps(AudioVisual())
    assert budget(eps, norm) == "8/255"
    assert norm_name(norm) == "L∞ (of sound 0.383 times as much)"
    assert changes(eps, norm) == "changes of at most 8/255 per pixel and 0.012 per sound sample"
