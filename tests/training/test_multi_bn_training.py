"""Training with a normalisation per attack: what goes through which branch."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from driving import a_step, network
from resuming import check_resumption, tiny_recipe

from robustvideo.errors import InputError
from robustvideo.models import load_model
from robustvideo.models.multi_bn import MultiBN
from robustvideo.training import load_training
from robustvideo.training.multi_bn import MultiBNTraining

FGSM, PGD = "fgsm(eps=8/255, early_stop=false)", "pgd(eps=4/255, steps=2, early_stop=false)"
SPEC = f"multi_bn(attacks=[{FGSM}, {PGD}])"


def a_mixture() -> MultiBN:
    model = MultiBN(network(), 3).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".branches." in name:
                parameter += 0.3 * int(name.split(".branches.")[1][0])
    return model


def test_every_attack_meets_its_own_branch() -> None:
    method, model = load_training(SPEC), a_mixture()
    assert isinstance(method, MultiBNTraining)
    step = a_step(model, seed=5)
    frozen = copy.deepcopy(model)
    shown: dict[int, torch.Tensor] = {}

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training:
            assert model.branch.number is not None
            shown[model.branch.number] = inputs[0]

    model.network.module.register_forward_pre_hook(note)
    (loss,) = method.losses(step)
    assert torch.equal(shown[0], step.clip.video)
    expected = []
    for number, attack in enumerate(method.attacks, 1):
        branch = frozen.separate[f"branch{number}"]
        clip = attack.with_seed(5)(branch, step.clip, step.labels).clip
        assert torch.equal(shown[number], clip.video)
        expected.append(clip)
    reference = copy.deepcopy(frozen)
    clips = [step.clip, *expected]
    entropies = [F.cross_entropy(reference.answer(clip, b), step.labels) for b, clip in enumerate(clips)]
    choices = reference.selector(torch.cat([clip.video for clip in clips]))
    kinds = torch.tensor([0] * 5 + [1] * 5 + [2] * 5)
    torch.testing.assert_close(loss.value, sum(entropies) + F.cross_entropy(choices, kinds))
    assert set(loss.metrics) == {"accuracy_0", "accuracy_1", "accuracy_2", "selector_accuracy"}


def test_gradients_reach_every_branch_and_the_selector_and_attacks_leave_no_trace() -> None:
    method, model = load_training(SPEC), a_mixture()
    (loss,) = method.losses(a_step(model))
    assert all(p.grad is None for p in model.parameters())
    loss.value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    counts = {k: int(v) for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    assert len(counts) == 3
    assert set(counts.values()) == {1}, "one forward pass in training mode per branch"
    assert model.training


def test_the_order_of_the_clips_does_not_matter() -> None:
    method, model = load_training(SPEC), a_mixture()
    step = a_step(model)
    order = [3, 1, 4, 0, 2]
    other = a_step(copy.deepcopy(model), clip=step.clip.select(order), labels=step.labels[order])
    one, two = (next(iter(method.losses(s))).value for s in (step, other))
    torch.testing.assert_close(one, two)


def test_the_number_of_branches_must_fit() -> None:
    method = load_training(SPEC)
    for model in (network(), MultiBN(network(), 2)):
        with pytest.raises(InputError, match=r"add with=multi_bn\(branches=3\)"):
            method.parts(model, method.companions(model))


def test_a_spec_says_it_all() -> None:
    method = load_training(SPEC)
    assert load_training(method.spec) == method
    assert load_training("multi_bn").spec == "multi_bn"
    for bad, message in {
        "multi_bn(attacks=[])": "at least one attack",
        "multi_bn(selector_weight=0)": "above 0",
        "multi_bn(attacks=[pgd(targeted=true)])": "cannot be targeted",
    }.items():
        with pytest.raises(InputError, match=message):
            load_training(bad)


def test_a_run_that_is_broken_off_goes_on_and_its_file_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = "multi_bn(attacks=[fgsm(eps=4/255, early_stop=false)])"
    recipe = tiny_recipe(training, model="embedded:frame2d?weights=none&with=multi_bn(branches=2)")
    check_resumption(recipe, tmp_path, monkeypatch)
    model = load_model(f"trained:{tmp_path / 'whole' / 'model.safetensors'}")
    assert isinstance(model, MultiBN)
    first, second = model.selector, model.separate
    assert list(second) == ["branch0", "branch1"]
    assert first.head.out_features == 2
