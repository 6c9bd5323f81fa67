"""The contract of `Attack`: what it takes, what it refuses, and in which words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from toys import ConvNet, Linear, Watched, alternating, clips, weights

from robustvideo.attacks import FGSM, IFGSM, MIFGSM, NIFGSM, PGD, Noise, load_attack
from robustvideo.attacks.attack import Attack, AttackResult, Problem, margin
from robustvideo.clip import Clip
from robustvideo.errors import ConstraintViolated, InputError
from robustvideo.model import Model
from robustvideo.threat import L2, L21, FlowField, Joint, Linf

ALL = [PGD(), FGSM(), NIFGSM(), Noise()]


class TestInputs:
    @pytest.mark.parametrize("attack", ALL, ids=lambda a: a.registered_name)
    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
    def test_labels_of_any_whole_type(self, attack: Attack, dtype: torch.dtype) -> None:
        clip, labels = clips(3), alternating(3)
        expected = attack(Linear(weights()), clip, labels)
        assert torch.equal(attack(Linear(weights()), clip, labels.to(dtype)).success, expected.success)

    @pytest.mark.parametrize("attack", ALL, ids=lambda a: a.registered_name)
    @pytest.mark.parametrize(
        "labels", [torch.tensor([0, 1, 2]), torch.tensor([-1, 0, 0]), torch.zeros(2), torch.zeros(3), torch.zeros(3, 1)]
    )
    def test_labels_that_do_not_fit(self, attack: Attack, labels: torch.Tensor) -> None:
        with pytest.raises(InputError, match=r"(?i)label|class"):
            attack(Linear(weights()), clips(3), labels)

    @pytest.mark.parametrize("attack", ALL, ids=lambda a: a.registered_name)
    @pytest.mark.parametrize("value", [-0.01, 1.01, 128.0, float("nan")])
    def test_clips_out_of_range(self, attack: Attack, value: float) -> None:
        clip = clips(3)
        clip.video[1, 0, 0, 0, 0] = value
        with pytest.raises(InputError, match="255"):
            attack(Linear(weights()), clip, alternating(3))

    @pytest.mark.parametrize("attack", ALL, ids=lambda a: a.registered_name)
    def test_no_clip(self, attack: Attack) -> None:
        with pytest.raises(InputError, match="no clip"):
            attack(Linear(weights()), clips(1).select([]), torch.zeros(0, dtype=torch.long))

    @pytest.mark.parametrize("attack", ALL, ids=lambda a: a.registered_name)
    @pytest.mark.parametrize("fault", ["nan", "shape", "one_class", "list", "raises"])
    def test_models_that_do_not_give_logits(self, attack: Attack, fault: str) -> None:
        class Faulty(Model):
            def forward(self, clip: Clip) -> torch.Tensor:
                logits = clip.video.flatten(1)[:, :2]
                if fault == "raises":
                    raise RuntimeError("shapes do not fit")
                if fault == "list":
                    return [logits]  # type: ignore[return-value]
                return {"nan": logits * torch.nan, "shape": logits.sum(1), "one_class": logits[:, :1]}[fault]

        with pytest.raises(InputError, match=r"model"):
            attack(Faulty(), clips(2), torch.zeros(2, dtype=torch.long))

    def test_budgets_per_clip_must_fit(self) -> None:
        clip, labels = clips(3), alternating(3)
        good = torch.full((3,), 2 / 255, dtype=torch.float64)
        for bad in ([good, good], [good[:2]], [-good], [good * torch.nan], []):
            with pytest.raises(InputError):
                PGD()(Linear(weights()), clip, labels, eps=bad)

    def test_sound_that_is_not_there(self) -> None:
        attack = PGD(Joint((Linf(8 / 255), Linf(0.01, modality="audio"))))
        with pytest.raises(InputError, match="sound"):
            attack(Linear(weights()), clips(2), alternating(2))


class TestParameters:
    @pytest.mark.parametrize(
        "spec",
        [
            "pgd(steps=0)",
            "pgd(restarts=0)",
            "pgd(step_size=0)",
            "pgd(step_size=-1/255)",
            "ifgsm(restarts=2)",
            "mifgsm(decay=-1)",
            "noise(draws=0)",
            "pgd(eps=0)",
            "pgd(eps=8)",
            "pgd(eps=nan)",
            "pgd(eps=inf, norm=l2)",
            "pgd(eps=1/512)",
            "pgd(precision=fp8)",
            "pgd(norm=l3)",
            "pgd(norm=joint)",
            "pgd(steps=ten)",
            "pgd(steps=2.5)",
            "pgd(step=3)",
            "pgd(threat=3)",
            "pgd(threat=none)",
            "pgd(threat=linf)",
            "pgd(threat=linf(eps=8/255, suport=patch))",
            "pgd(threat=joint(members=[]))",
            "pgd(threat=joint(members=linf(eps=8/255)))",
            "pgd(steps=3, steps=4)",
            "pgdd",
            "",
            "pgd(8/255)",
            "pgd(eps=__import__('os'))",
        ],
    )
    def test_what_is_refused_is_refused_in_a_sentence(self, spec: str) -> None:
        with pytest.raises(InputError) as caught:
            load_attack(spec)
        message = str(caught.value)
        assert message.endswith((".", "?")), message
        assert "\n" not in message

    def test_a_norm_whose_unit_is_not_a_fraction_needs_its_budget(self) -> None:
        """8/255 is a Linf budget: as the Euclidean norm of a whole clip, or in pixels, it is next to nothing."""
        for norm in ("l2", "flow"):
            with pytest.raises(InputError, match="eps"):
                PGD(norm=norm)

    def test_shorthands(self) -> None:
        assert PGD(eps=4 / 255).threat == Linf(4 / 255)
        assert PGD(eps=1.5, norm="l2").threat == L2(1.5)
        assert PGD(Linf(4 / 255, stored=False), eps=2 / 255).threat == Linf(2 / 255, stored=False)
        assert load_attack("pgd(eps=8/255, steps=20)") == PGD(eps=8 / 255, steps=20)
        assert load_attack("pgd(threat=joint(members=[linf(eps=8/255), linf(eps=0.012, modality=audio)]))").threat == (
            Joint((Linf(8 / 255), Linf(0.012, modality="audio")))
        )
        with pytest.raises(InputError, match="joint"):
            PGD(Joint((Linf(8 / 255), FlowField(1.0))), eps=4 / 255)

    def test_specs_are_short_and_labels_leave_the_budget_out(self) -> None:
        assert PGD(eps=4 / 255, steps=20, seed=3).spec == "pgd(eps=4/255, steps=20, seed=3)" or set(
            PGD(eps=4 / 255, steps=20, seed=3).spec[4:-1].split(", ")
        ) == {"eps=4/255", "steps=20", "seed=3"}
        assert PGD(eps=4 / 255, seed=3).label == PGD(eps=8 / 255).label == "pgd"
        assert PGD(L21(0.1)).label == "pgd(norm=l21)"

    def test_default_step_sizes(self) -> None:
        assert PGD(steps=10).relative_step == 0.25
        assert IFGSM(steps=10).relative_step == 0.1
        assert PGD(eps=8 / 255, step_size=2 / 255).relative_step == 0.25

    def test_a_subclass_without_a_name_of_its_own_does_not_borrow_its_parent_s(self) -> None:
        """Its spec would build, and its records would name, another attack."""

        @dataclass(frozen=True)
        class Mine(PGD):
            """Somebody's own attack."""

        with pytest.raises(InputError, match="register"):
            _ = Mine().spec


@dataclass(frozen=True)
class Lawless(Attack):
    """Returns whatever it is told to."""

    registered_name = "lawless"  # type: ignore[misc]
    shift: str = "0"
    audio: float = 0.0

    def solve(self, problem: Problem) -> AttackResult:
        honest = FGSM(problem.threat).solve(problem)
        clip = honest.clip.with_signal("video", problem.clip.video + float(self.shift))
        if self.audio:
            clip = clip.with_signal("audio", problem.clip.signal("audio") + self.audio)
        return replace(honest, clip=clip)


class TestVerification:
    @pytest.mark.parametrize("shift", ["0.0353", "0.001", "2", "nan", "inf"])
    def test_a_clip_outside_the_threat_model_is_never_returned(self, shift: str) -> None:
        with pytest.raises(ConstraintViolated, match="clip"):
            Lawless(shift=shift)(Linear(weights()), clips(2), alternating(2))

    def test_nor_one_whose_sound_changed(self) -> None:
        with pytest.raises(ConstraintViolated):
            Lawless(audio=1 / 32768)(Linear(weights()), clips(2, samples=10), alternating(2))


class TestMargin:
    def test_is_the_best_other_logit_minus_the_own(self) -> None:
        logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
        labels = torch.tensor([0, 2])
        assert margin(logits, labels).tolist() == [-1.0, 1.0]
        assert margin(logits, labels, targeted=True).tolist() == [1.0, -1.0]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_is_taken_in_float32(self, dtype: torch.dtype) -> None:
        assert margin(torch.tensor([[3.0, 1.0]], dtype=dtype), torch.tensor([0])).dtype is torch.float32

    def test_is_differentiable(self) -> None:
        logits = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
        (gradient,) = torch.autograd.grad(margin(logits, torch.tensor([0])).sum(), logits)
        assert gradient.tolist() == [[-1.0, 0.0, 1.0]]


def test_the_verdict_comes_from_the_model_not_from_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient twin that is wrong may make an attack weak, but it can never make it lie."""
    import robustvideo.attacks.attack as module

    monkeypatch.setattr(module, "gradient_twin", lambda model, precision: Linear(-weights()))
    clip, labels = clips(4), alternating(4)
    model = Watched(Linear(weights()))
    result = PGD(early_stop=True)(model, clip, labels)
    logits = model.inner(result.clip).detach()
    assert torch.equal(result.success, logits.argmax(1) != labels)
    assert torch.allclose(result.logits, logits)


def test_masks_given_to_a_call_replace_the_support() -> None:
    clip, labels = clips(3), alternating(3)
    mask = torch.zeros(3, 1, 4, 1, 1, dtype=torch.float64)
    mask[0, :, 0] = mask[1, :, 1] = mask[2, :, 2] = 1
    result = PGD(early_stop=False)(Linear(weights()), clip, labels, masks=[mask])
    touched = (result.clip.video != clip.video).any(4).any(3).any(1)
    assert torch.equal(touched, mask[:, 0, :, 0, 0] > 0)


def test_seeds_matter_and_momentum_attacks_have_none() -> None:
    clip, labels = clips(3), torch.arange(3)
    model = ConvNet().double()
    runs = [PGD(seed=s, early_stop=False, steps=2)(model, clip, labels).clip.video for s in (0, 1)]
    assert not torch.equal(*runs)
    runs = [MIFGSM(seed=s, early_stop=False, steps=2)(model, clip, labels).clip.video for s in (0, 1)]
    assert torch.equal(*runs)
