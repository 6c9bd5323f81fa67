"""The page about routing: which expert a mixture chose for each clip, before and after every attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustvideo.attacks import load_attack
from robustvideo.evaluation.metrics import Interval, wilson
from robustvideo.evaluation.routing import CLEAN, Answer, Measured, Routes, Summary
from robustvideo.evaluation.run import environment, now
from robustvideo.registry import name_of
from robustvideo.report import wording
from robustvideo.report.figures import STYLES, Chart, Line, Tick, polyline
from robustvideo.report.page import fill
from robustvideo.storage import write_text

_SHARES = tuple(Tick(share, f"{share}{wording.THIN}%") for share in (0, 25, 50, 75, 100))
_RATIOS = tuple(Tick(100 * at, f"{at:g}") for at in (0, 0.25, 0.5, 0.75, 1))


@dataclass(frozen=True)
class Bar:
    """A frame's mean step, in percent of the longest on the page, and what it says."""

    height: float
    text: str


@dataclass(frozen=True)
class Passage:
    """A row of a clip's table: its way through the mixture under one attack.

    Attributes:
        attack: name; empty for the undisturbed clip.
        answer: what the mixture said.
        said: name of the class.
        right: whether that is the true one.
        rerouted: "", "another expert" or "the weakest expert".
        steps: frame by frame.
    """

    attack: str
    answer: Answer
    said: str
    right: bool
    rerouted: str
    steps: tuple[Bar, ...]


@dataclass(frozen=True)
class ShownClip:
    """A clip on the page: its name, its true class, a JPEG of it (None without one) and its passages."""

    name: str
    true: str
    picture: bytes | None
    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class Row:
    """A row of the overview.

    Attributes:
        attack: name; empty for the undisturbed clips.
        summary: what was measured.
        accuracy: of the whole model.
        ours: what the paper calls the row's ratio: "Lips-R", "Lips-J" or nothing.
    """

    attack: str
    summary: Summary
    accuracy: Interval
    ours: str


@dataclass(frozen=True)
class Section:
    """A mixture on the page.

    Attributes:
        model: its spec.
        gigaflops: of a forward pass.
        rows: the overview.
        charts: distributions of the IoU of router and whole model.
        clips: some in detail.
    """

    model: str
    gigaflops: float
    rows: tuple[Row, ...]
    charts: tuple[Chart, ...]
    clips: tuple[ShownClip, ...]


def build_routing_page(
    measured: Sequence[Measured],
    out: Path,
    *,
    data: str,
    labels: Sequence[str] = (),
    pictures: Mapping[str, bytes] | None = None,
    unusable: int = 0,
    command: str = "",
) -> Path:
    """Write one self-contained page about the routing of one mixture or several.

    Args:
        measured: what was measured, mixture by mixture.
        out: the file.
        data: spec of the clips.
        labels: class names by index.
        pictures: JPEGs by clip: those clips are shown in detail.
        unusable: clips that could not be read.
        command: the command line to show.
    """
    page = fill(
        "routing.html.j2",
        title="Routing of " + wording.listed([one.model for one in measured]),
        sections=[_section(one, labels, pictures or {}) for one in measured],
        clips=measured[0].summaries[0].clips,
        data=data,
        unusable=unusable,
        command=command,
        date=now(),
        environment=environment(),
        styles=STYLES,
    )
    write_text(out, page)
    return out


def _section(measured: Measured, labels: Sequence[str], pictures: Mapping[str, bytes]) -> Section:
    steps = [step for clip in measured.clips for answer in clip.answers.values() for step in answer.steps]
    return Section(
        model=measured.model,
        gigaflops=measured.gigaflops,
        rows=tuple(
            Row(_name(s.attack), s, wilson(s.correct, s.clips), _PAPER.get(_kind(s.attack), ""))
            for s in measured.summaries
        ),
        charts=(
            _distribution(measured, "router", [[a.iou_router for a in own] for own in _columns(measured)]),
            _distribution(measured, "whole model", [[a.iou_whole for a in own] for own in _columns(measured)]),
        ),
        clips=tuple(
            _shown(clip, labels, pictures[clip.sample_id], max(steps, default=1.0))
            for clip in measured.clips
            if clip.sample_id in pictures
        ),
    )


_PAPER = {"tlga_r": "Lips-R", "j_tlga": "Lips-J"}
"""Attack -> what table 2 of the video MoE paper calls the ratio that is measured under it."""


def _kind(attack: str) -> str:
    return attack.partition("(")[0]


def _name(attack: str) -> str:
    """An attack as the page calls it; empty for none."""
    if attack == CLEAN:
        return ""
    built = load_attack(attack)
    return f"{built.label}, {wording.budget(built.threat.parts[0].eps, name_of(type(built.threat.parts[0])))}"


def _columns(measured: Measured) -> list[list[Answer]]:
    return [[clip.answers[s.attack] for clip in measured.clips] for s in measured.summaries]


def _distribution(measured: Measured, part: str, columns: Sequence[Sequence[float]]) -> Chart:
    """The share of the clips whose IoU is at most what the axis says, attack by attack."""
    lines, phrases = [], []
    for place, (summary, values) in enumerate(zip(measured.summaries, columns, strict=True)):
        name = _name(summary.attack) or "no attack"
        corners = [(0.0, 0.0)]
        for rank, value in enumerate(sorted(values), 1):
            corners += [(100 * value, corners[-1][1]), (100 * value, 100 * rank / len(values))]
        lines.append(Line(name, -1 if place == 0 else (place - 1) % STYLES, polyline([*corners, (100.0, 100.0)])))
        phrases.append(f"{name}: median {wording.number(sorted(values)[len(values) // 2], 2)}")
    title = f"IoU of the {part}'s clean decision and its output"
    emphasised = [*lines[1:], lines[0]]
    return Chart(title, "; ".join(phrases), "IoU", "clips with at most this", _RATIOS, _SHARES, tuple(emphasised))


def _shown(clip: Routes, labels: Sequence[str], picture: bytes, longest: float) -> ShownClip:
    clean = clip.answers[CLEAN]
    passages = []
    for attack, answer in clip.answers.items():
        rerouted = ""
        if answer.expert != clean.expert:
            rerouted = "the weakest expert" if answer.expert == clean.weakest else "another expert"
        bars = tuple(
            Bar(100 * step / longest, f"frame {frame}: {wording.number(255 * step, 2)}/255")
            for frame, step in enumerate(answer.steps, 1)
        )
        said, right = wording.class_name(labels, answer.prediction), answer.prediction == clip.label
        passages.append(Passage(_name(attack), answer, said, right, rerouted, bars))
    return ShownClip(clip.sample_id, wording.class_name(labels, clip.label), picture, tuple(passages))
