"""Numbers as the page says them: percentages, intervals, budgets and class names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from robustvideo.evaluation.metrics import Interval

THIN = "\u202f"
"""Narrow no-break space, between a number and its unit."""

NOTHING = "\u2013"
"""A dash: what stands where there is no number."""

MINUS = "\u2212"
"""The typographic minus sign."""

_BOTH = "audio_visual(audio="


def rounded(value: float, digits: int = 0) -> float:
    """The nearest number with ``digits`` decimals, halves away from zero: 62.5 -> 63, where format() says 62.

    What lies a rounding error below a half counts as one: 29 of 200 clips are 14.499999999999998 %.
    """
    size = 10**digits
    return math.copysign(math.floor(abs(value) * size + 0.5 + 1e-9) / size, value) + 0.0  # no -0


def percent(share: float) -> str:
    """0.123 -> "12 %". Only an exact 0 or 1 reads as 0 % or 100 %.

    Whole percents everywhere but in the tables of studies (`tenths`): a decimal of fewer than 200 clips is noise.
    """
    if math.isnan(share):
        return NOTHING
    if 0 < share < 0.001:
        return f"<{THIN}0.1{THIN}%"
    if 0 < share < 0.01 or 0.99 < share < 1:
        return f"{min(rounded(100 * share, 1), 99.9):.1f}{THIN}%"
    return f"{rounded(100 * share):.0f}{THIN}%".replace("-", MINUS)


def tenths(share: float) -> str:
    """0.1234 -> "12.3", in percent: as tables of papers print them."""
    return NOTHING if math.isnan(share) else f"{rounded(100 * share, 1):.1f}"


def bounds(interval: Interval) -> str:
    """The interval in percent: "[7, 20]"."""
    return f"[{rounded(100 * interval.low):.0f}, {rounded(100 * interval.high):.0f}]"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: "+12"."""
    return NOTHING if math.isnan(difference) else f"{rounded(100 * difference):+.0f}".replace("-", MINUS)


def number(value: float, digits: int = 1) -> str:
    """A number with ``digits`` decimals; thousands are grouped; NaN and infinity have their signs."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return f"{value:,.{digits}f}".replace(",", THIN).replace("-", MINUS)


def figure(value: float) -> str:
    """A number of any size with three significant digits."""
    return number(value, max(0, 2 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else 0)


def duration(seconds: float) -> str:
    """Seconds as "0.41 s", "12 min" or "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.2f}{THIN}s" if seconds < 10 else f"{seconds:.0f}{THIN}s"
    return f"{seconds / 60:.0f}{THIN}min" if seconds < 7200 else f"{seconds / 3600:.1f}{THIN}h"


def magnitude(count: float) -> str:
    """A large count as "11.2 M" or "840 k"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{THIN}{unit}"
    return f"{count:.0f}"


def day(iso: str) -> str:
    """An ISO time as "20 November 2026, 05:48 UTC"; other text unchanged."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def in_levels(norm: str) -> bool:
    """Whether a budget of this norm is one of pixels, told in levels of 255."""
    return norm == "linf" or norm.startswith(_BOTH)


def budget(eps: float, norm: str) -> str:
    """A budget in its own unit: "8/255" for pixels, "2 px" for shifts, a plain number otherwise."""
    if in_levels(norm):
        levels = eps * 255
        return f"{levels:.4g}/255" if abs(levels - round(levels)) > 1e-6 else f"{round(levels)}/255"
    return f"{eps:.3g}{THIN}px" if norm == "flow" else f"{eps:.3g}"


def _of_sound(norm: str) -> float:
    """The budget of the sound, in budgets of the picture: the number in "audio_visual(audio=0.3825*eps)"."""
    return float(norm.removeprefix(_BOTH).removesuffix("*eps)"))


def norm_name(norm: str) -> str:
    """The norm as people write it."""
    names = {"linf": "L∞", "l2": "L2", "l21": "L2,1", "flow": "pixel shift"}
    if norm.startswith(_BOTH):
        return f"L∞ (of sound {_of_sound(norm):.3g} times as much)"
    known, _, modality = norm.partition(" ")
    if known not in names:
        return norm
    return f"{names[known]} (sound)" if modality else names[known]


def changes(eps: float, norm: str) -> str:
    """What a budget allows, as the middle of a sentence: "changes of at most 8/255 per pixel"."""
    size = budget(eps, norm)
    if norm.startswith(_BOTH):
        return f"changes of at most {size} per pixel and {eps * _of_sound(norm):.3g} per sound sample"
    phrases = {
        "linf": f"changes of at most {size} per pixel",
        "l2": f"changes of Euclidean norm at most {size} per clip",
        "l21": f"changes of L2,1 norm at most {size} per clip",
        "flow": f"pixels shifted by at most {size}",
        "linf audio": f"changes of at most {size} per sound sample",
    }
    return phrases.get(norm, f"joint changes ({norm})" if "(" in norm else f"changes of {norm} norm at most {size}")


def defense_name(defense: str) -> str:
    """The defence's spec, or "no defence"."""
    return "no defence" if defense in ("", "none") else defense


def class_name(labels: Sequence[str], index: int) -> str:
    """The class by name, or by number where it has none."""
    if 0 <= index < len(labels):
        return labels[index]
    return f"class {index}" if index >= 0 else NOTHING


def listed(names: Sequence[str], most: int = 3) -> str:
    """ "a, b and c", or "a, b, c and 4 more"."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
