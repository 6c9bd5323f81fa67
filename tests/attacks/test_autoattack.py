"""AutoAttack: per clip the union of its members, who broke it first, and what each member spent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from toys import SHAPE, Able, ConvNet, Linear, Stairs, TwoClass, Watched, alternating, clips, mixture, signs, weights

from robustvideo.attacks import FGSM, PGD, Noise, load_attack
from robustvideo.attacks.apgd import APGDCE, APGDDLR, APGDT
from robustvideo.attacks.attack import Attack, AttackResult, Problem, judge
from robustvideo.attacks.autoattack import AutoAttack, AutoAttackResult
from robustvideo.attacks.deepsava import DeepSAVA
from robustvideo.attacks.experts import PGDE, TLAE
from robustvideo.attacks.fab import FABT
from robustvideo.attacks.flickering import Flickering
from robustvideo.attacks.joint import JTLGA
from robustvideo.attacks.masked import FrameBorder, MaskedPGD
from robustvideo.attacks.router import PGDR, TLAR
from robustvideo.attacks.square import Square
from robustvideo.attacks.tla import TLAM
from robustvideo.clip import Clip
from robustvideo.errors import ConstraintViolated, InputError
from robustvideo.model import Model
from robustvideo.threat import L2, L21, Joint, Linf, ThreatModel, WarpAndNoise

EPS = 4 / 255
MEMBERS: tuple[Attack, ...] = (FGSM(), APGDCE(steps=30), Square(queries=80))


def custom(threat: ThreatModel, members: tuple[Attack, ...] = MEMBERS, **options: object) -> AutoAttack:
    return AutoAttack(threat, version="custom", members=members, **options)  # type: ignore[arg-type]


def run(attack: AutoAttack, model: Model, clip: Clip, labels: Tensor) -> AutoAttackResult:
    result = attack(model, clip, labels)
    assert isinstance(result, AutoAttackResult)
    return result


def network(batch: int = 12, classes: int = 4) -> tuple[Model, Clip, Tensor]:
    model = ConvNet(seed=4, classes=classes).double().eval()
    clip = clips(batch, seed=9)
    return model, clip, model(clip).argmax(1)


class Mixed(TwoClass):
    """Each clip its own defence: clip 0 falls to any gradient, clip 1 hides its gradient, clip 2 cannot fall.

    Which is which is told by the first value of a clip (0.2, 0.4, 0.6), which has no other meaning.
    """

    def __init__(self, weight: Tensor, reach: float):
        super().__init__()
        self.weight, self.reach = weight, reach

    def value(self, clip: Clip) -> Tensor:
        s = ((clip.video - 0.5) * self.weight).flatten(1).sum(1)
        kind = clip.video[:, 0, 0, 0, 0].detach()
        plain, masked, far = s - 0.3 * self.reach, s.floor() + 0.5 - 0.3 * self.reach, s - 5 * self.reach
        return torch.where(kind < 0.3, plain, torch.where(kind < 0.5, masked, far))


def mixed() -> tuple[Mixed, Clip, Tensor]:
    weight = weights((3, 2, 3, 4), seed=3).sign()[:, :1, :1].expand(3, 4, 6, 4).repeat_interleave(2, 3).contiguous()
    weight[:, 0, 0, 0] = 0
    video = torch.full((3, 3, 4, 6, 8), 128 / 255, dtype=torch.float64)
    video[:, :, 0, 0, 0] = (torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64)).view(3, 1)
    return Mixed(weight, EPS * float(weight.abs().sum())), Clip(video), torch.zeros(3, dtype=torch.long)


# --- the union ---


@pytest.mark.parametrize("threat", [Linf(EPS), L2(0.4)], ids=str)
@pytest.mark.parametrize("early_stop", [True, False])
def test_no_member_alone_breaks_a_clip_that_the_union_does_not(threat: ThreatModel, early_stop: bool) -> None:
    model, clip, labels = network()
    together = run(custom(threat, early_stop=early_stop), model, clip, labels)
    alone = [replace(m, threat=threat, early_stop=early_stop)(model, clip, labels) for m in MEMBERS]
    union = torch.stack([r.success for r in alone]).any(0)
    assert torch.equal(together.success, union)
    assert not union.all()
    assert union.any()
    first = torch.stack([r.success for r in alone]).int().argmax(0)
    assert torch.equal(together.broken_by, torch.where(union, first, -1))
    if not early_stop:
        best = torch.stack([torch.where(r.success == union, r.margin.float(), -torch.inf) for r in alone]).amax(0)
        assert torch.allclose(together.margin.float(), best)


@pytest.mark.parametrize("early_stop", [True, False])
def test_every_member_s_cost_is_recorded(early_stop: bool) -> None:
    inner, clip, labels = network()
    model = Watched(inner)
    result = run(custom(Linf(EPS), early_stop=early_stop), model, clip, labels)
    assert result.member_forward_passes.shape == (12, 3)
    assert torch.equal(result.member_forward_passes.sum(1), result.forward_passes)
    assert torch.equal(result.member_backward_passes.sum(1), result.backward_passes)
    assert result.forward_passes.tolist() == [model.tally.forwards(i) for i in clip.ids]
    assert (result.member_backward_passes[:, 2] == 0).all()
    for number in range(3):
        done_before = (result.broken_by >= 0) & (result.broken_by < number)
        asked = result.member_forward_passes[:, number] > 0
        assert torch.equal(asked, ~done_before) if early_stop else asked.all()
    assert result.members == ("fgsm", "apgd_ce(steps=30)", "square(queries=80)")


def test_the_member_that_broke_a_clip_is_named_and_masking_shows() -> None:
    model, clip, labels = mixed()
    members = (PGD(steps=20), APGDCE(steps=30), FABT(steps=10), Square(queries=400))
    result = run(custom(Linf(EPS), members), model, clip, labels)
    assert result.broken_by.tolist() == [0, 3, -1]
    assert result.without_gradient.tolist() == [False, True, False]
    assert result.success.tolist() == [True, True, False]
    before = 20 + 30 + 10  # the steps of the members before square count
    at_once, late, never = result.first_success_step.tolist()
    assert (0 < at_once <= 20, before <= late < before + 399, never) == (True, True, -1)
    assert result.steps.tolist()[2] == before + 399


def test_a_model_that_rounds_its_output_is_broken_by_square_alone() -> None:
    """The standard line-up, with fewer steps: no member with a gradient gets anywhere."""
    weight = weights((3, 2, 3, 4), seed=3)
    for axis in (1, 2, 3):
        weight = weight.repeat_interleave(2, axis)
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    model = Stairs(weight)
    reach = 8 / 255 * float(weight.abs().sum())
    gap = (model.linear.value(clip).detach() + 0.4 * reach) / weight.square().sum()
    clip = Clip(clip.video - gap.view(-1, 1, 1, 1, 1) * weight)
    result = run(AutoAttack(Linf(8 / 255), steps=30, queries=600), model, clip, labels)
    assert result.success.all()
    assert [result.members[i].split("(")[0] for i in result.broken_by.tolist()] == ["square", "square"]
    assert result.without_gradient.all()


def test_a_result_does_not_depend_on_the_batch() -> None:
    model, clip, labels = network(6)
    attack = custom(Linf(EPS), (*MEMBERS, FABT(steps=5)))
    together = run(attack, model, clip, labels)
    order = [4, 0, 5, 2, 1, 3]
    shuffled = run(attack, model, clip.select(order), labels[order])
    for name in ("broken_by", "member_forward_passes", "member_backward_passes", "first_success_step"):
        assert torch.equal(getattr(shuffled, name), getattr(together, name)[order]), name
    assert torch.equal(shuffled.clip.video, together.clip.video[order])
    for row in range(6):
        alone = run(attack, model, clip.select([row]), labels[row : row + 1])
        assert torch.equal(alone.clip.video[0], together.clip.video[row])
        assert alone.broken_by.tolist() == together.broken_by[row : row + 1].tolist()


@dataclass(frozen=True)
class Broken(Attack):
    """Fails, as an attack with a defect would."""

    registered_name = "broken"

    def solve(self, problem: Problem) -> AttackResult:
        raise RuntimeError(f"out of order at {problem.clip.ids[0]}")


def test_a_member_that_fails_ends_the_attack() -> None:
    model, clip, labels = mixed()
    with pytest.raises(RuntimeError, match="out of order at 1"):
        custom(Linf(EPS), (APGDCE(steps=30), Broken()))(model, clip, labels)


# --- what members are given ---


def test_members_inherit_everything_from_the_ensemble() -> None:
    attack = AutoAttack(L2(2.0), seed=5, early_stop=False, precision="bf16", targeted=True)
    assert len(attack.lineup()) == 5
    for member in attack.lineup():
        assert (member.threat, member.seed, member.early_stop) == (L2(2.0), 5, False)
        assert (member.precision, member.targeted) == ("bf16", True)
    seeds = [m.seed for m in custom(Linf(EPS), (PGD(seed=1), PGD(seed=2)), seed=10).lineup()]
    assert seeds == [11, 12]


def test_the_versions() -> None:
    def kinds(attack: AutoAttack) -> list[type]:
        return [type(member) for member in attack.lineup()]

    standard = AutoAttack().lineup()
    assert kinds(AutoAttack()) == [APGDCE, APGDT, FABT, Square, Square]
    assert isinstance(standard[3], Square)
    assert isinstance(standard[4], Square)
    assert (standard[3].queries, standard[3].extent) == (5000, "cube")
    assert (standard[4].queries, standard[4].extent) == (2500, "tube")
    assert kinds(AutoAttack(version="plus")) == [APGDCE, APGDDLR, APGDT, FABT, Square, Square]
    rand = AutoAttack(version="rand").lineup()
    assert [(type(m), m.eot) for m in rand if isinstance(m, APGDCE | APGDDLR)] == [(APGDCE, 20), (APGDDLR, 20)]
    assert all(m.steps == 40 for m in AutoAttack(steps=40).lineup()[:3])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "spec",
    [
        "autoattack",
        "autoattack(version=rand, eps=2/255)",
        "autoattack(eps=1.5, norm=l2, steps=50, queries=100)",
        "autoattack(version=custom, members=[apgd_ce(steps=50), square(extent=tube, queries=100), noise])",
    ],
)
def test_its_spec_builds_it(spec: str) -> None:
    attack = load_attack(spec)
    assert isinstance(attack, AutoAttack)
    assert load_attack(attack.spec) == attack


@pytest.mark.parametrize(
    "build",
    [
        lambda: AutoAttack(version="custom"),
        lambda: AutoAttack(members=(FGSM(),)),
        lambda: load_attack("autoattack(version=best)"),
        lambda: custom(Linf(EPS), steps=10),
        lambda: custom(Linf(EPS), (PGD(Linf(2 / 255)),)),
        lambda: AutoAttack(L21(0.1)),
        lambda: AutoAttack(Joint((Linf(EPS), Linf(0.01, modality="audio")))),
        lambda: AutoAttack(queries=1),
    ],
)
def test_what_makes_no_sense_is_refused(build) -> None:
    with pytest.raises(InputError):
        build()


@pytest.mark.parametrize(
    ("member", "threat"),
    [
        (MaskedPGD(ratio=0.3, steps=3, seed=2), Linf(0.3)),
        (FrameBorder(ratio=0.4, steps=3), Linf(0.3)),
        (Flickering(steps=3, optimizer="sign"), Linf(0.3)),
        (PGDR(steps=3), Linf(EPS)),
        (PGDE(steps=3), Linf(EPS)),
        (TLAM(steps=3), Linf(EPS)),
        (TLAM(steps=3, lam=0.0), Linf(EPS)),
        (TLAR(steps=3), Linf(EPS)),
        (TLAE(steps=3), Linf(EPS)),
        (JTLGA(steps=3), Linf(EPS)),
        (DeepSAVA(steps=3), WarpAndNoise(0.08)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_member_attacks_as_it_would_alone(member: Attack, threat: ThreatModel) -> None:
    """Its region, its parametrisation and what it remembers of the clean clips are its own, first in line or second."""
    shape = (3, 4, 40, 40) if isinstance(member, FrameBorder) else SHAPE
    model: Model = Able().double() if shape != SHAPE else mixture()
    clip = clips(3, shape=shape)
    with torch.no_grad():
        labels = model.eval()(clip).argmax(1)
    alone = replace(member, threat=threat, early_stop=False, seed=member.seed + 5)(model, clip, labels)
    options = {"early_stop": False, "seed": 5}
    first = run(custom(threat, (member,), **options), model, clip, labels)
    assert torch.equal(first.clip.video, alone.clip.video)
    assert torch.equal(first.forward_passes, alone.forward_passes)
    second = run(custom(threat, (Idle(), member), **options), model, clip, labels)
    better = alone.success | (alone.margin > judge(model, clip, labels).margin)
    assert torch.equal(second.clip.video[better], alone.clip.video[better])
    assert torch.equal(second.member_forward_passes[:, 1], alone.forward_passes)


@dataclass(frozen=True)
class Idle(Attack):
    """Changes nothing."""

    registered_name = "idle"

    def solve(self, problem: Problem) -> AttackResult:
        return Noise().solve(replace(problem, eps=tuple(torch.zeros_like(e) for e in problem.eps)))


def test_a_member_may_not_leave_the_budget_of_the_ensemble() -> None:
    """Nor its own region, which the ensemble does not know."""
    model, clip, labels = mixed()
    with pytest.raises(InputError, match="share the budget"):
        custom(WarpAndNoise(0.08), (DeepSAVA(steps=1, constraint="stop"),))(model, clip, labels)
    with pytest.raises(ConstraintViolated, match="strays"):
        custom(Linf(EPS), (Strays(),))(model, clip, labels)


@dataclass(frozen=True)
class Strays(Attack):
    """Promises to change nothing, and does."""

    registered_name = "strays"

    def restrict(self, problem: Problem) -> Problem:
        return replace(problem, eps=tuple(torch.zeros_like(e) for e in problem.eps))

    def solve(self, problem: Problem) -> AttackResult:
        return Noise().solve(replace(problem, eps=tuple(e + EPS for e in problem.eps)))


# --- whole line-ups, small ---


@pytest.mark.parametrize("threat", [Linf(8 / 255), L2(1.0)], ids=str)
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_two_classes_are_enough(version, threat: ThreatModel) -> None:
    clip, labels = clips(4), alternating(4)
    model = Linear(weights())
    values = model.value(clip).detach() * signs(labels, labels.double())
    dual = model.weight.detach().norm() if isinstance(threat, L2) else model.weight.detach().abs().sum()
    reachable = values > -0.97 * threat.parts[0].eps * dual
    out_of_reach = values < -1.01 * threat.parts[0].eps * dual
    result = run(AutoAttack(threat, version=version, steps=30, queries=20), model, clip, labels)
    assert result.success[reachable].all()
    assert not result.success[out_of_reach].any()


def test_targeted_ensembles_reach_the_label_they_are_given() -> None:
    model, clip, _ = network(6, classes=5)
    targets = model(clip).argsort(1)[:, -2]
    result = run(AutoAttack(Linf(24 / 255), steps=30, queries=50, targeted=True), model, clip, targets)
    assert result.success.any()
    assert torch.equal(model(result.clip).argmax(1) == targets, result.success)


def test_more_members_never_help_the_defender() -> None:
    model, clip, labels = network()
    one = run(custom(Linf(EPS), (Noise(draws=3),)), model, clip, labels)
    more = run(custom(Linf(EPS), (Noise(draws=3), FGSM(), APGDDLR(steps=30))), model, clip, labels)
    assert (more.success | ~one.success).all()
    assert more.success.sum() > one.success.sum()
