"""APE-GAN in front of a frozen network: who is updated by what, and what the losses are."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from driving import SHAPE, Seen, a_stage, network
from fronts import PGD, Says, a_generative, behind, homes, play, started
from resuming import check_resumption, tiny_recipe

from robustvideo.errors import InputError
from robustvideo.models import load_model
from robustvideo.models.generator import BehindGenerator
from robustvideo.training import load_training, train
from robustvideo.training.adversarial import AdversarialTraining
from robustvideo.training.ape import ApeGanTraining

APE = f"ape(adversary=at(attack={PGD}), width=2)"


def test_the_updates_of_a_batch_and_whom_they_change() -> None:
    method = load_training(APE)
    updates = play(method, started(method, behind()))
    assert [loss.parts for loss, _ in updates] == [("discriminator",), ("generator",), ("generator",)]
    assert [homes(changed) for _, changed in updates] == [
        {"discriminator"},
        {"network.generator"},
        {"network.generator"},
    ]
    assert len(play(load_training(f"{APE[:-1]}, generator_steps=1)"), started(method, behind()))) == 2


def test_the_network_stays_bit_for_bit_with_its_batch_statistics() -> None:
    method, model = load_training(APE), behind()
    before = copy.deepcopy(model.undefended.state_dict())
    play(method, started(method, model))
    after = model.undefended.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert int(model.generator.layers[1].num_batches_tracked) > 0, "the generator's are those of training"


@pytest.mark.parametrize("logit", [0.0, 1.5, -200.0])
def test_the_losses_are_those_of_the_equations(logit: float) -> None:
    method, model = a_generative(APE), behind()
    step = started(method, model)
    step.companions["discriminator"] = Says(logit)
    adversarial = method.adversary.adversarial(step)
    losses = [replace(loss, value=loss.value.detach()) for loss in method.losses(step)]
    verdict = 1 / (1 + math.exp(-logit))
    expected = -math.log(verdict) - math.log(1 - verdict) if logit > -100 else 200.0
    assert float(losses[0].value) == pytest.approx(expected, rel=1e-5)
    if logit == 0:
        assert float(losses[0].value) == pytest.approx(2 * math.log(2))
    mse = (model.purify(adversarial).video - step.clip.video).square().mean().detach()
    fooling = -math.log(verdict) if logit > -100 else 200.0
    assert float(losses[1].metrics["mse"].detach()) == pytest.approx(float(mse), rel=1e-5)
    assert float(losses[1].metrics["fooling_loss"].detach()) == pytest.approx(fooling, rel=1e-5)
    assert float(losses[1].value) == pytest.approx(0.7 * float(mse) + 0.3 * fooling, rel=1e-5)
    assert all(loss.value.isfinite() for loss in losses), "logits, never the logarithm of a sigmoid"


def test_real_are_the_clean_clips_and_the_attack_goes_through_the_generator() -> None:
    method, model = a_generative(APE), behind()
    step, shown = started(method, model), []
    assert isinstance(method.adversary, AdversarialTraining)
    adversarial = method.adversary.attack.with_seed(step.seed)(model, step.clip, step.labels).clip
    step.companions["discriminator"].register_forward_hook(lambda module, inputs, output: shown.append(inputs[0]))
    losses = method.losses(step)
    discriminator_loss = next(losses)
    assert torch.equal(shown[0], step.clip.video)
    torch.testing.assert_close(shown[1], model.purify(adversarial).video)
    clean, cleaned = (step.companions["discriminator"](video) for video in (shown[0], shown[1]))
    expected = F.binary_cross_entropy_with_logits(
        torch.cat([clean, cleaned]), torch.tensor([1.0] * 5 + [0.0] * 5), reduction="none"
    )
    torch.testing.assert_close(discriminator_loss.value, expected.sum() / 5)


def test_the_optimizer_is_the_published_one() -> None:
    method, model = load_training(APE), behind()
    parts = method.parts(model, method.companions(model))
    for part in parts.values():
        assert part.optimizer is not None
        optimizer = part.optimizer(list(part.parameters))
        assert isinstance(optimizer, torch.optim.Adam)
        assert optimizer.param_groups[0]["lr"] == 2e-4
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)


def test_the_adversary_may_be_a_curriculum() -> None:
    method = a_generative(f"ape(adversary=cat(attack={PGD}), width=2)")
    step = started(method, behind(), epoch=0, epochs=5)
    assert torch.equal(method.adversary.adversarial(step).video, step.clip.video)
    adaptive = load_training(f"gat(adversary=aat(attack={PGD}, budgets=[0, 1/255]))")
    stage = a_stage(behind())
    assert set(adaptive.before_epoch(stage)) == {"p_0", "p_1"}
    assert stage.memory["probabilities"] == [0.5, 0.5]


def test_behind_a_frozen_generator() -> None:
    method, model = load_training(f"ape_at(adversary=at(attack={PGD}))"), behind()
    before = copy.deepcopy(model.generator.state_dict())
    step = started(method, model)
    assert isinstance(step.forward, Seen)
    ((loss, changed),) = play(method, step)
    assert homes(changed) == {"network.undefended"}
    assert "robust_accuracy" in loss.metrics
    after = model.generator.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items()), "batch statistics included"
    assert step.forward.clips[0].video.shape[1:] == SHAPE


@pytest.mark.parametrize("spec", [APE, "gat(width=2)", "ape_at"])
def test_a_network_without_a_generator_is_refused(spec: str) -> None:
    method, plain = load_training(spec), network()
    with pytest.raises(InputError, match="add with=ape_gan"):
        method.parts(plain, method.companions(plain))


def test_a_spec_says_it_all() -> None:
    for spec in ("ape", "gat", "ape_at", APE, "gat(ce_into_generator=false, gamma1=1)"):
        method = load_training(spec)
        assert load_training(method.spec) == method
    assert isinstance(load_training("ape"), ApeGanTraining)
    for bad, message in {
        "ape(gamma1=-1)": "gamma1=-1",
        "gat(generator_steps=0)": "at least 1",
        "ape(lr=0)": "above 0",
        "ape(adversary=standard)": "standard cannot be used here",
        "ape(adversary=at(attack=pgd(targeted=true)))": "cannot be targeted",
    }.items():
        with pytest.raises(InputError, match=message):
            load_training(bad)


def test_from_a_plain_network_to_one_trained_behind_its_generator(tmp_path: Path) -> None:
    """The paper's chain: a benign network, a generator for it, then the network behind the frozen generator."""
    spec = "embedded:frame2d?with=ape_gan(width=2)"
    changes = {"model": spec, "epochs": 1}
    first = train(tiny_recipe(APE, **changes), tmp_path / "ape", quiet=True).weights
    front, benign = load_model(f"trained:{first}"), load_model("embedded:frame2d").state_dict()
    assert isinstance(front, BehindGenerator)
    kept = front.undefended.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in benign.items())
    changes["model"] = f"trained:{first}"
    second = train(tiny_recipe(f"ape_at(adversary=at(attack={PGD}))", **changes), tmp_path / "at", quiet=True).weights
    first.unlink()
    last = load_model(f"trained:{second}")
    assert isinstance(last, BehindGenerator)
    generator = front.generator.state_dict()
    assert all(torch.equal(last.generator.state_dict()[key], value) for key, value in generator.items())
    assert not torch.equal(next(last.undefended.parameters()), next(front.undefended.parameters()))


def test_a_run_that_is_broken_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(APE, model="embedded:frame2d?with=ape_gan(width=2)")
    lines = check_resumption(recipe, tmp_path, monkeypatch)
    assert {"mse", "fooling_loss", "discriminator_loss"} <= lines[0].keys()
