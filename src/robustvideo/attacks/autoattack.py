"""AutoAttack: complementary attacks, one after another, each on the clips that still stand."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from robustvideo.attacks.apgd import APGDCE, APGDDLR, APGDT
from robustvideo.attacks.attack import Attack, AttackResult, Problem, attacks
from robustvideo.attacks.fab import FABT
from robustvideo.attacks.search import in_turn
from robustvideo.attacks.square import Square
from robustvideo.errors import InputError, unknown

Version = Literal["standard", "plus", "rand", "custom"]

_STEPS, _QUERIES = 100, 5000


@dataclass(frozen=True, eq=False)
class AutoAttackResult(AttackResult):
    """What an ensemble found, and which of its members found it.

    Attributes:
        members: the labels of the members (specs without budget and seed), in order.
        broken_by: (B,) the first member that broke each clip, as an index into ``members``; -1 for none.
        member_forward_passes, member_backward_passes: (B, members) what each member spent on each clip.
    """

    members: tuple[str, ...]
    broken_by: Tensor
    member_forward_passes: Tensor
    member_backward_passes: Tensor

    @property
    def without_gradient(self) -> Tensor:
        """(B,) bool: broken by a member that took no gradient. After gradient attacks failed, the mark of masking."""
        spent = self.member_backward_passes.gather(1, self.broken_by.clamp_min(0)[:, None])[:, 0]
        return (self.broken_by >= 0) & (spent == 0)


@attacks.register("autoattack")
@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack for video: an ensemble without parameters to tune, per clip the union (Croce and Hein 2020).

    | version  | members |
    |----------|---------|
    | standard | apgd_ce, apgd_t, fab_t, square, square(extent=tube) with half the queries |
    | plus     | apgd_ce and apgd_dlr with 5 starts each, apgd_t, fab_t with 5 starts, both squares |
    | rand     | apgd_ce and apgd_dlr with gradients averaged over 20 passes, for models that answer at random |
    | custom   | ``members`` |

    A member sees the clips that all members before it left standing (without ``early_stop`` all clips). It runs with
    the ensemble's threat model, targets, precision and early stopping; the ensemble's seed is added to its own. What a
    member adds to its problem, such as a region or one colour per frame, holds for it alone; it may narrow the budget,
    not widen it. The authors' "plus" has an untargeted FAB where this has more starts of the targeted one. A member
    that fails ends the attack: an ensemble is never silently weaker. The result is an `AutoAttackResult`. An ensemble
    cannot be resumed by itself: to a run it is one work item per batch, which is on disk whole or is done again.

    Attributes:
        version: which members. Default "standard".
        members: the members of version "custom", in order.
        steps: gradient steps of the members of a named version. Default 100.
        queries: queries of the first square of a named version. Default 5000.

    Raises:
        InputError: members without version "custom" or the other way round, a threat model that a member refuses, or a
            member that leaves the budget.
    """

    version: Version = "standard"
    members: tuple[Attack, ...] = ()
    steps: int = _STEPS
    queries: int = _QUERIES

    def __post_init__(self, eps: float | None, norm: str | None) -> None:
        super().__post_init__(eps, norm)
        if self.version not in get_args(Version):
            raise unknown("version of autoattack", self.version, get_args(Version))
        if (self.version == "custom") != bool(self.members):
            raise InputError("members and version=custom go together: give both or neither.")
        if self.version == "custom" and (self.steps, self.queries) != (_STEPS, _QUERIES):
            raise InputError("In a custom ensemble each member has its own steps and queries: give them there.")
        for member in self.members:
            if member.threat not in (self.threat, type(member).__dataclass_fields__["threat"].default):
                raise InputError(
                    f"Members share the threat model of the ensemble: give eps to it, not to {member.spec}."
                )
        self.lineup()  # a member that refuses the threat model says so now

    def lineup(self) -> tuple[Attack, ...]:
        """The members as they run, with everything that the ensemble hands down."""
        return tuple(
            replace(
                member,
                threat=self.threat,
                targeted=self.targeted,
                early_stop=self.early_stop,
                precision=self.precision,
                seed=self.seed + member.seed,
            )
            for member in self._chosen()
        )

    def solve(self, problem: Problem) -> AutoAttackResult:
        lineup = self.lineup()
        count, device = len(problem.clip), problem.clip.device
        broken_by = torch.full((count,), -1, device=device)
        spent = torch.zeros(2, count, len(lineup), dtype=torch.long, device=device)

        def search(problem: Problem, number: int) -> AttackResult:
            rows = (broken_by < 0).nonzero()[:, 0] if self.early_stop else torch.arange(count, device=device)
            result = _alone(lineup[number], problem)
            broken_by[rows[result.success & (broken_by[rows] < 0)]] = number
            spent[0, rows, number] = result.forward_passes
            spent[1, rows, number] = result.backward_passes
            return result

        found = in_turn(problem, (partial(search, number=i) for i in range(len(lineup))), self.early_stop)
        return AutoAttackResult(
            **{field.name: getattr(found, field.name) for field in fields(AttackResult)},
            members=tuple(member.label for member in self._chosen()),
            broken_by=broken_by,
            member_forward_passes=spent[0],
            member_backward_passes=spent[1],
        )

    def _chosen(self) -> tuple[Attack, ...]:
        steps, queries = self.steps, self.queries
        squares = (Square(queries=queries), Square(queries=max(queries // 2, 2), extent="tube"))
        if self.version == "standard":
            return (APGDCE(steps=steps), APGDT(steps=steps), FABT(steps=steps), *squares)
        if self.version == "plus":
            starts = (APGDCE(steps=steps, restarts=5), APGDDLR(steps=steps, restarts=5))
            return (*starts, APGDT(steps=steps), FABT(steps=steps, restarts=5), *squares)
        if self.version == "rand":
            return (APGDCE(steps=steps, eot=20), APGDDLR(steps=steps, eot=20))
        return self.members


def _alone(member: Attack, problem: Problem) -> AttackResult:
    """What a member finds of a problem that is posed as its own call would pose it.

    Raises:
        InputError: the member widens the budget, as an attack does whose budget is a stopping rule.
        ConstraintViolated: the member left what it restricted itself to (a defect of the member).
    """
    own = member.restrict(replace(problem, reference={}, seed=member.seed))
    if any(bool((wide > eps).any()) for wide, eps in zip(own.eps, problem.eps, strict=True)):
        raise InputError(f"Members share the budget of the ensemble, which {member.spec} may leave.")
    result = member.solve(own)
    member.must_be_lawful(own, result.clip)
    return result
