"""What every registered attack must keep to. A new attack is tested here because it exists."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from toys import SHAPE, Able, clips, short

from robustvideo.attacks import load_attack
from robustvideo.attacks.attack import Attack, AttackResult, attacks, judge
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.registry import parameters
from robustvideo.support import Patch
from robustvideo.threat import L2, L21, FlowField, Joint, Linf, ThreatModel

NAMES = list(attacks.entries())


def small(name: str, **options: Any) -> Attack:
    """The attack as a test can afford it: few steps, few queries."""
    known = parameters(attacks.get(name))
    cheap = {"steps": 3, "queries": 30, "restarts": 1}
    return attacks.get(name)(**{k: v for k, v in {**cheap, **options}.items() if k in known})


def some_clips(attack: Attack, dtype: torch.dtype = torch.float64, batch: int = 3) -> Clip:
    """Small silent clips, unless the attack needs sound, or a frame wide enough to have a border."""
    wants_sound = any(part.modality == "audio" for part in attack.threat.parts)
    shape = (3, 4, 40, 40) if "border" in attack.registered_name else SHAPE
    return clips(batch, shape=shape, dtype=dtype, samples=48 if wants_sound else None)


def same(one: AttackResult, rows: list[int], other: AttackResult, other_rows: list[int]) -> None:
    for name in ("success", "first_success_step", "steps", "forward_passes", "backward_passes"):
        assert getattr(one, name)[rows].tolist() == getattr(other, name)[other_rows].tolist(), name
    differing = int((one.clip.video[rows] != other.clip.video[other_rows]).sum())
    assert differing == 0
    assert torch.allclose(one.logits[rows], other.logits[other_rows], rtol=1e-9, atol=1e-12)
    if one.clip.audio is not None and other.clip.audio is not None:
        assert torch.equal(one.clip.audio[rows], other.clip.audio[other_rows])


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_result_does_not_depend_on_the_batch(name: str, early_stop: bool) -> None:
    attack = small(name, early_stop=early_stop, eps=2 / 255)
    model = Able().double()
    clip, labels = some_clips(attack), torch.tensor([0, 1, 2])
    together = attack(model, clip, labels)
    order = [2, 0, 1]
    permuted = attack(model, clip.select(order), labels[order])
    same(permuted, [0, 1, 2], together, order)
    for i in range(3):
        same(attack(model, clip.select([i]), labels[i : i + 1]), [0], together, [i])


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_does_not_depend_on_the_batch_in_float32(name: str) -> None:
    attack = small(name)
    model = Able()
    clip, labels = some_clips(attack, torch.float32, 6), torch.arange(6) % 3
    together = attack(model, clip, labels)
    for i in range(6):
        alone = attack(model, clip.select([i]), labels[i : i + 1])
        assert alone.success.tolist() == together.success[i : i + 1].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_lawful_and_its_verdict_is_the_model_s(name: str) -> None:
    attack = small(name)
    model = Able().double().eval()
    clip, labels = some_clips(attack), torch.tensor([0, 1, 2])
    result = attack(model, clip, labels)
    verdict = judge(model, result.clip, labels)
    assert torch.equal(verdict.success, result.success)
    assert torch.allclose(verdict.logits.detach(), result.logits)
    assert ((result.first_success_step >= 0) == result.success).all()
    assert (result.first_success_step <= result.steps).all()
    assert result.clip.ids == clip.ids
    assert not result.clip.video.requires_grad
    assert not result.logits.requires_grad
    assert (result.forward_passes >= 1).all()
    assert result.success.dtype is torch.bool
    assert result.loss_trace.shape[0] == 3
    levels = result.clip.video * 255
    assert torch.allclose(levels, levels.round(), atol=1e-6)


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_training_crafts_the_clips_of_a_call(name: str, early_stop: bool) -> None:
    attack = small(name, early_stop=early_stop, eps=2 / 255)
    model = Able().double()
    clip, labels = some_clips(attack), torch.tensor([0, 1, 2])
    called, crafted = attack(model, clip, labels).clip, attack.craft(model, clip, labels)
    assert torch.equal(crafted.video, called.video)
    assert (crafted.audio is None) == (called.audio is None)
    if crafted.audio is not None and called.audio is not None:
        assert torch.equal(crafted.audio, called.audio)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_gives_the_same_result_and_ignores_the_global_seed(name: str) -> None:
    attack = small(name, eps=2 / 255)
    model = Able().double()
    clip, labels = some_clips(attack), torch.tensor([0, 1, 2])
    first = attack(model, clip, labels)
    torch.manual_seed(12345)
    same(first, [0, 1, 2], attack(model, clip, labels), [0, 1, 2])


def snapshot(model: torch.nn.Module, clip: Clip, labels: torch.Tensor) -> dict[str, Any]:
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "video": clip.video.detach().clone(),
        "audio": None if clip.audio is None else clip.audio.detach().clone(),
        "clip_grad": (clip.video.requires_grad, clip.video.grad),
        "labels": labels.clone(),
        "torch": torch.random.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "python": random.getstate(),
        "grad_mode": torch.is_grad_enabled(),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "tf32": (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        "threads": torch.get_num_threads(),
        "default": torch.get_default_dtype(),
    }


def assert_same(a: Any, b: Any, where: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor), where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.mark.parametrize("fail_at", [None, 1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_an_attack_leaves_no_trace(name: str, fail_at: int | None) -> None:
    """Also when the model fails in the middle: modes, flags, gradients, inputs and random states are as before."""
    attack = small(name)
    model = Able(fail_at=fail_at).double()
    model.train()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    for parameter in model.router.parameters():
        parameter.grad = torch.ones_like(parameter)
    clip, labels = some_clips(attack), torch.tensor([0, 1, 2])
    clip.video.requires_grad_()
    before = snapshot(model, clip, labels)
    message = ""
    try:
        attack(model, clip, labels)
    except Exception as error:
        message = str(error)
    assert ("fails on purpose" in message) == bool(message), message
    assert bool(message) == (fail_at is not None and len(model.tally.dtypes) >= fail_at)
    assert_same(before, snapshot(model, clip, labels))


@pytest.mark.parametrize("name", NAMES)
def test_the_result_shares_no_memory_with_the_input(name: str) -> None:
    attack = small(name)
    clip, labels = some_clips(attack), torch.tensor([0, 1, 2])
    result = attack(
        Able().double(), clip, labels, eps=[torch.zeros(3, dtype=torch.float64) for _ in attack.threat.parts]
    )
    kept = clip.video.clone()
    result.clip.video.mul_(0)
    assert torch.equal(clip.video, kept)


def budgets_of_every_kind() -> list[dict[str, Any]]:
    return [
        {},
        {"eps": 4 / 255},
        {"eps": 1.5, "norm": "l2"},
        {"eps": 0.1, "norm": "l21"},
        {"eps": 2.0, "norm": "flow"},
        {"threat": Linf(8 / 255, support=Patch(0.2, (1, 2)), stored=False)},
        {"threat": L21(0.05, parametrisation="frame_colour")},
        {"threat": Joint((Linf(8 / 255), Linf(0.012, modality="audio"), FlowField(1.0)))},
        {"seed": 7, "targeted": True, "early_stop": False, "precision": "bf16", "steps": 7, "step_size": 0.1 / 3},
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_builds_an_equal_attack(name: str) -> None:
    built = 0
    for options in budgets_of_every_kind():
        known = parameters(attacks.get(name))
        try:
            attack = attacks.get(name)(**{k: v for k, v in options.items() if k in known})
        except InputError:  # an attack may refuse a threat model or targets, in a sentence
            continue
        built += 1
        assert load_attack(attack.spec) == attack
        assert load_attack(attack.spec).spec == attack.spec
        assert hash(load_attack(attack.spec)) == hash(attack)
        assert copy.deepcopy(attack) == attack
        seeded = attack.with_seed(attack.seed + 1)
        assert seeded.seed == attack.seed + 1
        assert seeded.label == attack.label
        assert seeded.with_seed(attack.seed) == attack
    assert built >= 2


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_is_a_sentence(name: str) -> None:
    summary = attacks.entries()[name].summary
    assert summary
    assert summary.endswith(".")
    assert attacks.get(name).registered_name == name


@pytest.mark.parametrize("threat", [L2(1.0), L21(0.05), FlowField(1.0)], ids=short)
@pytest.mark.parametrize("name", NAMES)
def test_batches_do_not_matter_in_other_balls(name: str, threat: ThreatModel) -> None:
    try:
        attack = small(name, threat=threat)
    except InputError:
        return
    model = Able().double()
    clip, labels = some_clips(attack), torch.tensor([0, 1, 2])
    try:
        together = attack(model, clip, labels)
    except InputError:
        return
    for i in range(3):
        same(attack(model, clip.select([i]), labels[i : i + 1]), [0], together, [i])
