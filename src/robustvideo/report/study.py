"""The page of a study: the paper's table with our numbers in it, and what became of its claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustvideo.evaluation.metrics import Interval
from robustvideo.evaluation.run import environment, now
from robustvideo.report.page import fill
from robustvideo.report.study_text import MARK, ONE_TRAINING
from robustvideo.reproduction.outcomes import MEASURES, Measure
from robustvideo.reproduction.reproduce import Outcome
from robustvideo.reproduction.study import Study
from robustvideo.storage import write_text


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Attributes:
        name, note: of the row.
        cells: by column what we measured, what the paper printed (shares in percent), None where there is none, and
            of what; empty while the row is not done.
        seconds: training time per epoch; None without training.
        ratio: of that time to the first trained row's.
    """

    name: str
    note: str
    cells: Sequence[tuple[Interval | None, float | None, Measure]]
    seconds: float | None
    ratio: float | None


def build_study_page(study: Study, scale: str, outcome: Outcome, out: Path) -> Path:
    """Write one self-contained page about a study, as far as it has come.

    Args:
        study: the table.
        scale: at which scale it was run.
        outcome: what was measured.
        out: the file.
    """
    page = fill(
        "study.html.j2",
        title=study.title,
        study=study,
        scale=scale,
        lines=_lines(study, outcome),
        claims=outcome.claims,
        mark=MARK,
        marked=any(study.compares_networks(result.claim) for result in outcome.claims),
        one_training=ONE_TRAINING,
        measures={column.name: MEASURES[column.measure] for column in study.columns},
        clips=max((row.clips for row in outcome.rows.values()), default=0),
        date=now(),
        environment=environment(),
    )
    write_text(out, page)
    return out


def _lines(study: Study, outcome: Outcome) -> list[Line]:
    per_epoch = {key: row.epoch_seconds for key, row in outcome.rows.items() if row.epoch_seconds}
    first = next(iter(per_epoch.values()), None)
    measures = [MEASURES[column.measure] for column in study.columns]
    lines = []
    for key, row in study.rows.items():
        paper = row.paper or [None] * len(study.columns)
        done = outcome.rows.get(key)
        cells = list(zip(done.cells, paper, measures, strict=True)) if done else []
        seconds = per_epoch.get(key)
        lines.append(Line(row.name, row.note, cells, seconds, seconds / first if seconds and first else None))
    return lines
