"""Who saw the model's gradient: the two sides of the protocol, and which clips fall only to the one that did not.

A row of an ensemble speaks for both sides. Its members ran one after another on what the members before left
standing, and `Record.member` is the first that broke the clip:

* A clip that a gradient-free member broke fell without the gradient, and stands against the gradient members that came
  before: they were tried on it and failed.
* A clip that a gradient member broke fell to the gradient. The gradient-free members need not have met it, but cannot
  make it fall *only* without; it counts as one that both sides met, so that shares are of all clips, not of the few
  that the gradient members left.
* A clip that no member broke stands against both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.metrics import is_recognised
from robustvideo.evaluation.records import Record
from robustvideo.spec import Call, parse_call

GRADIENT_FREE = frozenset({"noise", "square", "nes", "simba", "boundary"})
"""Attacks that take no gradient of the model."""

QUERY_ATTACKS = GRADIENT_FREE - {"noise"}
"""Those that look at the model's answers."""


@dataclass(frozen=True)
class Sides:
    """For whom rows speak.

    Attributes:
        seeing: they tell how clips stand against attacks that take gradients of the model under test.
        blind: they tell how clips stand against attacks that do not, those crafted on another model among them.
        fell_blind: a clip that fell, fell to the blind side.
    """

    seeing: bool
    blind: bool
    fell_blind: bool


def kind_of(record: Record) -> str:
    """The attack's registered name."""
    return parse_call(record.attack).name


@cache
def lineup(attack: str) -> tuple[Call, ...]:
    """The members of an ensemble in order, of a named version one per side; else the attack itself."""
    call = parse_call(attack)
    if call.name != "autoattack":
        return (call,)
    members = call.arguments.get("members")
    if members is None:
        return (Call("apgd_ce"),) if call.arguments.get("version") == "rand" else (Call("apgd_ce"), Call("square"))
    return tuple(member if isinstance(member, Call) else Call(str(member)) for member in members)


@cache
def sides(attack: str, surrogate: str, member: str) -> Sides:
    """For whom the rows speak that have these in their columns."""
    members = lineup(attack)
    blind = [own.name in GRADIENT_FREE for own in members]
    if surrogate or all(blind):
        return Sides(seeing=False, blind=True, fell_blind=True)
    if not any(blind):
        return Sides(seeing=True, blind=False, fell_blind=False)
    if not member or parse_call(member).name not in GRADIENT_FREE:
        return Sides(seeing=True, blind=True, fell_blind=False)
    broke = _labelled(parse_call(member))
    place = next((i for i, own in enumerate(members) if _labelled(own) == broke), len(members))
    return Sides(seeing=not all(blind[:place]), blind=True, fell_blind=True)


def blind_part(title: str, attack: str, surrogate: str) -> str:
    """What of an attack does without the model's gradient, in words; empty where nothing does.

    Args:
        title: how the attack is called.
        attack: its spec.
        surrogate: the model that it was crafted on; empty for the model under test.
    """
    side = sides(attack, surrogate, "")
    if not side.blind:
        return ""
    return f"gradient-free members of {title}" if side.seeing else title


def falls_to_gradient(record: Record) -> bool | None:
    """Whether the clip fell to an attack with the model's gradient; None where the row says nothing of such attacks."""
    side = sides(record.attack, record.surrogate, record.member)
    return not (is_recognised(record) or side.fell_blind) if side.seeing else None


def only_without_gradient(rows: Columns) -> tuple[int, int]:
    """How many clips fall without the gradient and stand against every attack with it, of how many both sides met.

    Args:
        rows: clips recognised without an attack, under the attacks at one budget.
    """
    met, fell = np.zeros((2, 2, len(rows.coded("sample_id")[1])), bool)  # by the seeing side, by the blind one
    for key, own in rows.groups("attack", "surrogate", "member").items():
        side, clip, falls = sides(*key), own.coded("sample_id")[0], ~is_recognised(own)
        met[0, clip] |= side.seeing
        met[1, clip] |= side.blind
        np.logical_or.at(fell[int(side.fell_blind)], clip, falls)
    both = met.all(0)
    return int((both & fell[1] & ~fell[0]).sum()), int(both.sum())


def _labelled(member: Call) -> tuple[str, dict[str, Any]]:
    """A member as `Attack.label` names it: what the ensemble hands down is no part of it."""
    return member.name, {k: v for k, v in member.arguments.items() if k not in ("eps", "seed", "threat")}
