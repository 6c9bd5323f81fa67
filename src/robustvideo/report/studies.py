"""Several studies in one folder: an index page, and the same as a table for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from robustvideo.evaluation.run import now
from robustvideo.report.page import fill
from robustvideo.report.study_text import line
from robustvideo.report.wording import duration
from robustvideo.reproduction.reproduce import Outcome
from robustvideo.reproduction.study import Study
from robustvideo.storage import write_text

VERDICTS = ("reproduced", "contradicted", "undecided")


@dataclass(frozen=True)
class Attempt:
    """A study that was run among others, or was to be.

    Attributes:
        name: what the command line calls it.
        folder: its own, below that of the index page.
        seconds: that this attempt took; little for a study that was done before.
        study: None for one that cannot be read.
        outcome: None for one that failed.
        problem: why it failed, in one sentence; empty when it did not.
    """

    name: str
    folder: str
    seconds: float
    study: Study | None = None
    outcome: Outcome | None = None
    problem: str = ""

    @property
    def title(self) -> str:
        """The study's title, or its name where it cannot be read."""
        return self.study.title if self.study else self.name

    @property
    def page(self) -> str:
        """Address of the study's page, seen from the index."""
        return f"{quote(self.folder)}/report.html"

    @property
    def verdicts(self) -> tuple[int, ...]:
        """How many of the study's claims were reproduced, contradicted and left undecided."""
        counts = Counter(claim.verdict for claim in self.outcome.claims) if self.outcome else Counter()
        return tuple(counts[verdict] for verdict in VERDICTS)


def build_studies_page(attempts: Sequence[Attempt], scale: str, out: Path) -> Path:
    """Write the index page: a line per study, with a link to its page and what became of its claims.

    Args:
        attempts: the studies, in order, as far as they have come.
        scale: at which they were run.
        out: the file, in the folder that holds those of the studies.
    """
    page = fill(
        "studies.html.j2",
        title=f"Studies at scale {scale}",
        attempts=attempts,
        scale=scale,
        verdicts=VERDICTS,
        totals=tuple(map(sum, zip(*(attempt.verdicts for attempt in attempts), strict=True))),
        date=now(),
    )
    write_text(out, page)
    return out


def studies_text(attempts: Sequence[Attempt]) -> str:
    """The table as Markdown: study, state, time, and how many claims were reproduced, contradicted, undecided."""
    rows = [["study", "state", "time", *VERDICTS], ["---"] * (3 + len(VERDICTS))]
    for attempt in attempts:
        state = "done" if attempt.outcome else f"failed: {attempt.problem}"
        counts = map(str, attempt.verdicts) if attempt.outcome else ["-"] * len(VERDICTS)
        rows.append([attempt.name, state, duration(attempt.seconds), *counts])
    return "\n".join(line(row) for row in rows)
