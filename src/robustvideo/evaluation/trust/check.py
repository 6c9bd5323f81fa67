"""`Check`: one line of the trust protocol, and how lines are kept on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from robustvideo.errors import InputError
from robustvideo.storage import signature, write_text

Grade = Literal["pass", "warn", "fail", "not applicable"]

FILE = "trust.json"
"""Where a run directory keeps its checks."""

LADDER = "Attack ladder"
CURVE = "Budget curve to zero"
CONVERGENCE = "Convergence"
BLACK_BOX = "Black box below white box"
GRADIENTS = "Zero gradients and saturation"
DIFFERENCES = "Gradient against finite differences"
RANDOMNESS = "Randomness"
SUBSTITUTION = "Stand-ins in the gradient"
ABLATION = "Parts of the defence"
SURVIVAL = "Survival of storage"
PROVENANCE = "Cost and provenance"

LINES = (
    LADDER,
    CURVE,
    CONVERGENCE,
    BLACK_BOX,
    GRADIENTS,
    DIFFERENCES,
    RANDOMNESS,
    SUBSTITUTION,
    ABLATION,
    SURVIVAL,
    PROVENANCE,
)
"""The eleven lines of the protocol, in order."""


@dataclass(frozen=True)
class Check:
    """One line: whether a robust accuracy may be believed, in one respect.

    Attributes:
        name: one of `LINES`.
        grade: "pass"; "warn": quote the number with this in mind; "fail": the number is in doubt; or
            "not applicable".
        number: what was measured; None when nothing was.
        threshold: where "pass" ends; None when nothing was measured.
        meaning: what the number is, in one or two sentences.
        advice: what to do about a warning or a failure; else empty.
        unit: "%" for a share (0.12 is shown as 12 %), else empty.
        bound: whether the number passes when it is "at most" or "at least" the threshold.
    """

    name: str
    grade: Grade
    number: float | None
    threshold: float | None
    meaning: str
    advice: str = ""
    unit: Literal["%", ""] = ""
    bound: Literal["at most", "at least"] = "at most"


def not_applicable(name: str, why: str) -> Check:
    """A line that says nothing about this model."""
    return Check(name, "not applicable", None, None, why)


def at_most(number: float, passing: float, warning: float) -> Grade:
    """The grade of a number that should be small; NaN fails."""
    return "pass" if number <= passing else "warn" if number <= warning else "fail"


def at_least(number: float, passing: float, warning: float) -> Grade:
    """The grade of a number that should be large; NaN fails."""
    return "pass" if number >= passing else "warn" if number >= warning else "fail"


def count(number: int, noun: str) -> str:
    """ "1 clip", "3 clips"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def save_checks(run: Path, checks: Mapping[str, Sequence[Check]]) -> None:
    """Write ``trust.json`` of a run directory, whole or not at all.

    Args:
        run: the run directory.
        checks: the lines of every defence, by its spec.
    """
    content = {defense: [_finite(asdict(check)) for check in lines] for defense, lines in checks.items()}
    whole = {"schema_version": 1, "defenses": content, "signature": signature(content)}
    write_text(run / FILE, json.dumps(whole, indent=2, allow_nan=False) + "\n")


def load_checks(run: Path) -> dict[str, list[Check]]:
    """The lines of every defence, by its spec; empty when the run was not examined.

    Raises:
        InputError: the file is damaged, or of a newer version.
    """
    path = run / FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] != 1:
            raise InputError(f"{path} was written by a newer version: upgrade, or delete it and evaluate again.")
        found = {str(d): [Check(**line) for line in lines] for d, lines in content["defenses"].items()}
        if any(check.grade not in get_args(Grade) for lines in found.values() for check in lines):
            raise ValueError("an unknown grade")
        if content.get("signature") not in (None, signature(content["defenses"])):  # early versions did not sign
            raise ValueError("not what was written")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is damaged: delete it, and the same evaluation writes it again.") from error
    return found


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
