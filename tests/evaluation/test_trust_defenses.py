"""Broken defences, each caught by the line that should catch it; honest models pass every line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.attacks import PGD
from robustvideo.attacks.attack import Attack
from robustvideo.clip import Clip, concatenate
from robustvideo.data import load_data
from robustvideo.evaluation.crafting import clean_verdict
from robustvideo.evaluation.records import Record
from robustvideo.evaluation.run import Manifest, Run
from robustvideo.evaluation.trust import LINES, Check, examine
from robustvideo.evaluation.trust.check import (
    ABLATION,
    BLACK_BOX,
    CONVERGENCE,
    CURVE,
    DIFFERENCES,
    GRADIENTS,
    LADDER,
    PROVENANCE,
    RANDOMNESS,
    SUBSTITUTION,
)
from robustvideo.evaluation.trust.examine import missing_records, stored_again
from robustvideo.evaluation.trust.from_defense import ablation, randomness, substitution
from robustvideo.evaluation.trust.from_model import convergence, finite_differences, gradient_health
from robustvideo.evaluation.trust.from_records import black_box, budget_curve, ladder
from robustvideo.evaluation.trust.subject import Subject, at_budget, find_subject, reference_attack
from robustvideo.model import Model
from robustvideo.models import load_model
from robustvideo.models.moe import MixtureOfExperts
from robustvideo.purification import Defended, load_defense
from robustvideo.purification.purifier import Gradient, Purifier
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.threat import Linf

DATA = load_data("embedded:kinetic?split=test&clips=16")
QUICK = PGD(eps=8 / 255, steps=5)


@cache
def network(name: str = "r3d_at") -> Model:
    return load_model(f"embedded:{name}")


class Behind(Model):
    """``network`` behind something done to the clip, or with something done to its logits."""

    def __init__(self, before: Callable[[Tensor], Tensor] = lambda v: v, scale: float = 1.0):
        super().__init__()
        self.network, self.before, self.scale = network(), before, scale

    def forward(self, clip: Clip) -> Tensor:
        return self.scale * self.network(clip.with_signal("video", self.before(clip.video)))  # type: ignore[no-any-return]


def blurred(video: Tensor) -> Tensor:
    return F.avg_pool3d(video, (1, 3, 3), 1, (0, 1, 1))


def resized(video: Tensor) -> Tensor:
    """At a random size, at a random place: draws that no seed of the project controls."""
    side = int(torch.randint(40, 48, (1,)))
    top, left = (int(torch.randint(0, 49 - side, (1,))) for _ in range(2))
    small = F.interpolate(video, (video.shape[2], side, side), mode="trilinear")
    return F.pad(small, (left, 48 - side - left, top, 48 - side - top))


def subject(model: Model, attack: Attack = QUICK, clips: int = 4) -> Subject:
    found = find_subject(model, DATA, [attack], clips=clips)
    assert found is not None
    return found


def grade(check: Check) -> str:
    assert check.advice if check.grade in ("warn", "fail") else not check.advice
    assert check.meaning
    return check.grade


def test_saturated_logits_have_no_gradient_and_the_attack_is_no_better_than_noise() -> None:
    found = subject(Behind(scale=1000.0), clips=8)
    assert grade(gradient_health(found)) == "fail"
    rows = missing_records(found, found.run(), [], queries=10, seed=0)
    assert grade(ladder(rows)) == "warn"
    assert grade(budget_curve(rows)) == "fail"


@pytest.mark.parametrize(
    "before",
    [lambda video: (video * 15).round() / 15, lambda video: blurred(video).detach()],
    ids=["rounded", "detached"],
)
def test_a_gradient_that_is_cut_is_seen_as_zero_and_differs_from_the_model(before: Callable[[Tensor], Tensor]) -> None:
    found = subject(Behind(before))
    health, agreement = gradient_health(found), finite_differences(found)
    assert (grade(health), health.number) == ("fail", 1.0)
    assert (grade(agreement), agreement.number) == ("fail", 0.0)


def test_a_purifier_detached_behind_the_identity_differs_from_its_gradient() -> None:
    def heavy(video: Tensor) -> Tensor:
        small = F.avg_pool3d(video, (1, 6, 6))
        return F.interpolate(small, video.shape[2:], mode="trilinear")

    broken = subject(Behind(lambda video: video + (heavy(video) - video).detach()))
    assert grade(gradient_health(broken)) == "pass"
    assert grade(finite_differences(broken)) in ("warn", "fail")
    assert grade(finite_differences(subject(Behind(heavy)))) == "pass"


class Clamping(Model):
    """Honest: the share of light in the upper half, of what a purifier would have clamped."""

    def forward(self, clip: Clip) -> Tensor:
        upper, lower = clip.video.clamp(0, 1).mean((1, 2, 4)).chunk(2, 1)
        return 100 * torch.stack([upper.mean(1), lower.mean(1)], 1) @ torch.eye(2, len(DATA.labels))


def clamping(gain: float) -> Subject:
    """`Clamping` on four clips with so much more contrast, much of which is black or white."""
    clip = concatenate([DATA.clip(index) for index in range(4)])
    clip = clip.with_signal("video", ((clip.video - 0.5) * gain + 0.5).clamp(0, 1))
    labels = Clamping()(clip).argmax(1)
    return Subject(Clamping(), clip, labels, clean_verdict(Clamping(), clip, labels), QUICK)


@pytest.mark.parametrize("gain", [1.0, 8.0, 32.0])
def test_slopes_are_not_measured_across_the_end_of_the_range(gain: float) -> None:
    check = finite_differences(clamping(gain))
    assert check.number is not None
    assert check.number > 0.99
    assert grade(check) == "pass"


def test_clips_of_black_and_white_alone_have_no_slopes_to_compare() -> None:
    assert finite_differences(clamping(1e9)).grade == "not applicable"


def test_a_purifier_that_the_gradient_does_not_know_is_caught_by_the_stand_ins() -> None:
    found = subject(Defended(network(), load_defense("bit_depth(bits=5, gradient=none)")))
    assert grade(substitution(found, found.run())) == "fail"
    assert finite_differences(found).grade == "not applicable"


def test_a_random_resize_has_no_single_answer() -> None:
    found = subject(Behind(resized))
    check = randomness(found, found.run())
    assert grade(check) == "fail"
    assert "clean" in check.meaning


def test_draws_from_the_clips_name_are_attacked_in_expectation() -> None:
    class Noisy(Model):
        def forward(self, clip: Clip) -> Tensor:
            noise = ClipRandom(seed_for(name) for name in clip.ids).normal(clip.video)
            return network()(clip.with_signal("video", clip.video + 0.15 * noise))  # type: ignore[no-any-return]

    found = subject(Noisy(), replace(QUICK, steps=3, eps=2 / 255))
    check = randomness(found, found.run())
    assert "averaged over 8" in check.meaning
    assert "outside" not in check.meaning
    alone, averaged = map(float, re.findall(r"cosine of (\S+) alone and (\S+) averaged", check.meaning)[0])
    assert averaged > alone + 0.1
    assert grade(check) == "warn"
    assert randomness(replace(found, attack=replace(found.attack, eot=8)), found.run()).grade != "warn"


@pytest.mark.parametrize(
    ("gate", "expected"), [("renormalised", "fail"), ("kept", "pass"), ("straight_through", "pass")]
)
def test_hard_routing_hides_the_router(gate: str, expected: str) -> None:
    torch.manual_seed(0)
    mixture = MixtureOfExperts([network(), network("r3d")], load_model("embedded:r3d?weights=none&classes=2"), 1, gate)  # type: ignore[arg-type]
    found = subject(mixture)
    assert grade(substitution(found, found.run())) == expected


@dataclass(frozen=True)
class Turned(Purifier):
    """Turns the clip by a quarter: exactly differentiable, and nothing like the identity."""

    registered_name = "turned"
    differentiable = True
    gradient: Gradient | None = "exact"

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        return (clip.with_signal("video", clip.video.rot90(1, (3, 4))),)


class Unturned(Model):
    """The network that expects turned clips."""

    def forward(self, clip: Clip) -> Tensor:
        return network()(clip.with_signal("video", clip.video.rot90(-1, (3, 4))))  # type: ignore[no-any-return]


def test_the_other_gradient_of_a_purifier_is_tried() -> None:
    exact, bpda = (subject(Defended(Unturned(), Turned(gradient=mode))) for mode in ("exact", "bpda"))
    assert substitution(exact, exact.run()).number == 0.0
    check = substitution(bpda, bpda.run())
    assert grade(check) == "fail"
    assert "mode exact" in check.meaning
    assert check.number is not None
    assert check.number > 0


@dataclass(frozen=True)
class Handed(Turned):
    """Works with a network that only its user has."""

    def network(self) -> nn.Module:
        raise AssertionError("there is a network, and it is another one")

    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        assert network is not None
        return (clip.with_signal("video", network(clip.video.rot90(1, (3, 4)))),)


@pytest.mark.parametrize("mode", ["exact", "bpda"])
def test_the_other_gradient_is_that_of_the_purifier_s_own_network(mode: Gradient) -> None:
    found = subject(Defended(Unturned(), Handed(gradient=mode), nn.Identity()))
    loaded = subject(Defended(Unturned(), Turned(gradient=mode)))
    assert substitution(found, found.run()).number == substitution(loaded, loaded.run()).number


def test_a_purifier_without_a_gradient_is_judged_by_its_stand_in() -> None:
    found = subject(Defended(network(), load_defense("bit_depth(bits=6)")))
    check = substitution(found, found.run())
    assert grade(check) == "pass"
    assert "grey levels" in check.meaning


def test_a_defence_that_adds_nothing_is_told() -> None:
    found = subject(Defended(network("r3d"), load_defense("identity")))
    assert grade(ablation(found, found.run())) == "warn"
    assert ablation(subject(network()), found.run()).grade == "not applicable"


def test_an_attack_that_needs_more_steps_is_caught() -> None:
    short = subject(network(), PGD(eps=16 / 255, steps=3, step_size=2 / 255), clips=8)
    assert grade(convergence(short, short.run())) == "fail"


def test_masking_shows_when_square_finds_what_gradients_do_not() -> None:
    found = subject(Behind(scale=1000.0), replace(QUICK, eps=48 / 255))
    assert grade(black_box(missing_records(found, found.run(), [], queries=60, seed=0))) == "fail"


def test_only_what_the_records_lack_is_run() -> None:
    found = subject(network("r3d"))
    base = found.run()
    own = found.records(QUICK, base)
    assert all(record.success for record in own)
    known = [replace(record, attack=name) for record in own for name in ("noise", "fgsm", "square(queries=9)")]

    def names(records: list[Record]) -> set[str]:
        return {record.attack.partition("(")[0] for record in records}

    assert names(missing_records(found, base, known, queries=9, seed=0)) == {"pgd"}
    assert names(missing_records(found, base, [], queries=9, seed=0)) == {"pgd", "noise", "fgsm"}
    standing = replace(base, success=~base.success, logits=torch.eye(8)[found.labels])
    added = missing_records(found, standing, [], queries=9, seed=0)
    assert names(added) == {"pgd", "noise", "fgsm"}  # fgsm broke them
    assert max(record.eps for record in added) == QUICK.threat.parts[0].eps


def kinds(records: Sequence[Record]) -> set[str]:
    """The attacks of some records, and "transfer" for those crafted on another model."""
    return {"transfer" if record.surrogate else record.attack.partition("(")[0] for record in records}


def standing(found: Subject, attack: str, **changes: str) -> list[Record]:
    """The records of an attack against which every clip stands."""
    rows = found.records(found.attack, found.run())
    return [
        replace(r, attack=attack, adversarial_prediction=r.label, success=False, **changes)  # type: ignore[arg-type]
        for r in rows
    ]


def test_queries_and_a_transfer_are_each_run_where_the_records_lack_them() -> None:
    found = subject(Defended(Behind(scale=1000.0), load_defense("identity")), replace(QUICK, eps=2 / 255, steps=2), 2)
    base = found.run()
    other = standing(found, "pgd(steps=5)", surrogate="embedded:other")
    own = [replace(r, surrogate="embedded:r3d_at") for r in other]
    queried = standing(found, "square(queries=9)")
    ensemble = standing(found, "autoattack")
    rand = standing(found, "autoattack(version=rand)")

    def added(*records: list[Record]) -> set[str]:
        rows = [row for part in records for row in part]
        new = missing_records(found, base, rows, queries=9, seed=0, undefended="embedded:r3d_at")
        return kinds([r for r in new if r.eps == found.eps]) & {"square", "transfer"}

    assert added() == added(other) == added(rand) == {"square", "transfer"}
    assert added(own) == {"square"}
    assert added(queried) == added(ensemble) == added(queried, other) == {"transfer"}
    assert added(own, queried) == added(own, ensemble) == set()


def test_clips_that_fell_without_a_gradient_have_not_fallen_to_one() -> None:
    found = subject(Behind(scale=1000.0), replace(QUICK, eps=1 / 255, steps=2), 2)
    base = found.run()
    fell = [
        replace(r, adversarial_prediction=(r.label + 1) % 8, success=True, member="square(queries=9)")
        for r in standing(found, "autoattack")
    ]
    added = missing_records(found, base, fell, queries=9, seed=0)
    assert max(r.eps for r in added) > found.eps  # until the gradient breaks them
    assert grade(black_box([*fell, *added])) == "fail"


def test_what_a_file_holds_succeeds_again() -> None:
    found = subject(network("r3d"))
    base = found.run()
    assert stored_again(found, base) == [True] * int(base.success.sum())


def test_the_gradient_is_the_models() -> None:
    found = subject(network(), clips=2)
    video = found.clip.video.clone().requires_grad_()
    F.cross_entropy(network()(found.clip.with_signal("video", video)), found.labels, reduction="sum").backward()
    assert video.grad is not None
    torch.testing.assert_close(found.gradient(found.clip), video.grad, rtol=1e-3, atol=1e-6)


def test_which_attack_is_examined() -> None:
    small, large = PGD(eps=4 / 255, steps=7), PGD(eps=16 / 255, steps=7)
    assert reference_attack([small, large], [], 3) == small
    assert reference_attack([large], [], 3) == large
    heard = PGD(Linf(0.003, modality="audio"), steps=7)
    assert reference_attack([heard, large], [], 3) == large
    assert reference_attack([], [], 3) == PGD(eps=8 / 255, steps=20, seed=3)
    fixed = at_budget(PGD(eps=4 / 255, step_size=1 / 255), 16 / 255)
    assert fixed.relative_step == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["r3d_at", "r3d"])
def test_an_honest_model_passes_every_line(name: str, tmp_path: Path) -> None:
    manifest = Manifest(
        model={"spec": f"embedded:{name}"},
        configuration={"model_digest": "a", "data_fingerprint": "b"},
        environment={"torch": torch.__version__, "device": "cpu"},
    )
    checks = examine(
        network(name), DATA, [], [PGD(eps=8 / 255, steps=20)], run=Run(tmp_path, manifest), clips=8, queries=60
    )
    assert [check.name for check in checks] == list(LINES)
    grades = {check.name: check.grade for check in checks}
    assert {name for name, found in grades.items() if found == "not applicable"} == {SUBSTITUTION, ABLATION}
    applicable = {name: found for name, found in grades.items() if found != "not applicable"}
    assert set(applicable.values()) == {"pass"}, applicable


def test_a_model_that_knows_nothing_is_not_examined() -> None:
    class Wrong(Model):
        def forward(self, clip: Clip) -> Tensor:
            return torch.arange(9.0).expand(len(clip), 9)  # a class that no clip has

    checks = {check.name: check for check in examine(Wrong(), DATA, [], clips=2)}
    assert list(checks) == list(LINES)
    assert checks[CONVERGENCE].grade == checks[CURVE].grade == checks[LADDER].grade == "not applicable"
    assert checks[BLACK_BOX].grade == checks[GRADIENTS].grade == checks[RANDOMNESS].grade == "not applicable"
    assert checks[PROVENANCE].grade == "fail"
    assert checks[DIFFERENCES].grade == "not applicable"


def routed() -> Model:
    torch.manual_seed(0)
    router = load_model("embedded:r3d?weights=none&classes=2")
    return MixtureOfExperts([network(), network("r3d")], router, 1, "renormalised")


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (lambda: Behind(scale=1000.0), GRADIENTS),
        (lambda: Behind(lambda video: (video * 15).round() / 15), GRADIENTS),
        (lambda: Behind(lambda video: blurred(video).detach()), DIFFERENCES),
        (lambda: Behind(resized), RANDOMNESS),
        (routed, SUBSTITUTION),
    ],
    ids=["saturated", "quantised", "detached", "resized", "routed"],
)
def test_five_of_five_broken_defences_are_caught(broken: Callable[[], Model], line: str) -> None:
    checks = {check.name: check for check in examine(broken(), DATA, [], [QUICK], clips=4, queries=20)}
    assert grade(checks[line]) == "fail"
