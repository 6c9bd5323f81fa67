"""Ensembles of surrogates against their members."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import ConvNet, Linear, Watched, clips, problem_for, weights

from robustvideo.attacks import IFGSM
from robustvideo.attacks.attack import Problem
from robustvideo.attacks.gradients import Estimate, plain
from robustvideo.attacks.lipschitz import LipschitzTerm
from robustvideo.attacks.mean_loss import MeanLoss
from robustvideo.attacks.objectives import CrossEntropy, Divergence, Margin, Objective
from robustvideo.attacks.tla import TLAM, WholeLoss
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, at_rest, wrap
from robustvideo.models import load_model
from robustvideo.models.ensemble import Ensemble, Fusion
from robustvideo.threat import AudioVisual, Linf

FUSIONS: list[Fusion] = ["logits", "probabilities"]
LABELS = torch.tensor([0, 1, 2])


def nets(count: int, dtype: torch.dtype = torch.float64) -> list[Model]:
    return [ConvNet(seed=seed).to(dtype).eval() for seed in range(count)]


def problem(model: Model) -> Problem:
    return problem_for(model, clips(3), LABELS, Linf(8 / 255))


def gradient(model: Model, objective: Objective) -> Estimate:
    return plain(problem(model), objective, (torch.zeros_like(clips(3).video),))


@pytest.mark.parametrize("fusion", [*FUSIONS, "loss"])
def test_identical_members_are_one(fusion: str) -> None:
    net = nets(1)[0]
    loss = fusion == "loss"
    ensemble = Ensemble([net, net, net], "logits" if loss else fusion)  # type: ignore[arg-type]
    found = gradient(ensemble, MeanLoss(CrossEntropy()) if loss else CrossEntropy())
    expected = gradient(net, CrossEntropy())
    assert torch.allclose(found.gradients[0], expected.gradients[0], rtol=1e-9, atol=1e-14)
    assert torch.allclose(found.objective, expected.objective, rtol=1e-12)
    assert torch.allclose(found.logits.log_softmax(1), expected.logits.log_softmax(1), rtol=1e-12)


@pytest.mark.parametrize("fusion", [*FUSIONS, "loss"])
def test_a_weight_of_one_is_that_member(fusion: str) -> None:
    members = nets(3)
    loss = fusion == "loss"
    ensemble = Ensemble(members, "logits" if loss else fusion, weights=[0, 2, 0])  # type: ignore[arg-type]
    found = gradient(ensemble, MeanLoss(CrossEntropy()) if loss else CrossEntropy())
    expected = gradient(members[1], CrossEntropy())
    assert found.gradients[0].isfinite().all()
    assert torch.allclose(found.gradients[0], expected.gradients[0], rtol=1e-9, atol=1e-14)
    assert torch.allclose(found.logits.log_softmax(1), expected.logits.log_softmax(1), rtol=1e-12)


def test_what_is_averaged() -> None:
    members, clip = nets(2), clips(3)
    one, two = (m(clip) for m in members)
    assert torch.allclose(Ensemble(members, weights=[1, 3])(clip), 0.25 * one + 0.75 * two)
    fused = Ensemble(members, "probabilities", weights=[1, 3])(clip)
    assert torch.allclose(fused.softmax(1), 0.25 * one.softmax(1) + 0.75 * two.softmax(1))
    assert torch.allclose(fused.logsumexp(1), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    value, logits = MeanLoss(CrossEntropy())(problem(Ensemble(members, weights=[1, 3])), clip)
    losses = [F.cross_entropy(z, LABELS, reduction="none") for z in (one, two)]
    assert torch.allclose(value, 0.25 * losses[0] + 0.75 * losses[1])
    assert torch.allclose(logits, 0.25 * one + 0.75 * two)


def test_probabilities_that_underflow_still_have_a_gradient() -> None:
    model = Linear(weights(dtype=torch.float32), bias=-500.0)
    ensemble = Ensemble([model, model], "probabilities")
    clip = clips(1, dtype=torch.float32)
    found = plain(
        problem_for(ensemble, clip, torch.tensor([0]), Linf(8 / 255)), Margin(), (torch.zeros_like(clip.video),)
    )
    assert (found.gradients[0] != 0).all()


@pytest.mark.parametrize("objective", [CrossEntropy(), MeanLoss(CrossEntropy())], ids=["logits", "loss"])
def test_recomputing_changes_no_gradient(objective: Objective) -> None:
    kept, again = (Ensemble(nets(3), recompute=recompute) for recompute in (False, True))
    one, two = gradient(kept, objective), gradient(again, objective)
    assert torch.equal(one.gradients[0], two.gradients[0])
    assert torch.equal(one.logits, two.logits)
    watched = [Watched(net) for net in nets(2)]
    gradient(Ensemble(watched, recompute=True), CrossEntropy())
    assert [len(model.tally.calls) for model in watched] == [2, 2]


def test_recomputing_keeps_nothing() -> None:
    """Tensors saved for the backward pass: with recompute only what the fusion itself needs."""

    def saved(recompute: bool) -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        ensemble = Ensemble(nets(3), recompute=recompute)
        clip = clips(3)
        clip.video.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            ensemble(clip).sum()
        return sum(sizes)

    assert saved(recompute=True) < 0.05 * saved(recompute=False)


def test_an_attack_on_an_ensemble_fools_it_and_leaves_no_trace() -> None:
    ensemble = Ensemble(nets(3, torch.float32))
    clip = clips(4, dtype=torch.float32)
    with at_rest(ensemble), torch.no_grad():
        labels = ensemble(clip).argmax(1)
    ensemble.train()
    result = IFGSM(eps=32 / 255, steps=20)(ensemble, clip, labels)
    assert result.success.any()
    assert all(module.training for module in ensemble.modules())
    assert all(parameter.requires_grad for parameter in ensemble.parameters())


@dataclass(frozen=True)
class MeanLossIFGSM(IFGSM):
    def objective(self) -> Objective:
        return MeanLoss(super().objective())


def test_the_mean_loss_in_an_attack() -> None:
    members = nets(2)
    ensemble = Ensemble(members, weights=[1, 0])
    found = MeanLossIFGSM(steps=3, early_stop=False)(ensemble, clips(3), LABELS)
    expected = IFGSM(steps=3, early_stop=False)(members[0], clips(3), LABELS)
    assert torch.equal(found.clip.video, expected.clip.video)
    with pytest.raises(InputError, match="needs an ensemble"):
        MeanLossIFGSM(steps=1)(members[0], clips(3), LABELS)


class Drift:
    """An objective that remembers the clean logits: distance from them."""

    def reference(self, problem: Problem) -> dict[str, Tensor]:
        return {"clean": problem.gradient_model(problem.clip).detach()}

    def __call__(self, problem: Problem, adversarial: Clip) -> tuple[Tensor, Tensor]:
        logits = problem.gradient_model(adversarial)
        return (logits - problem.reference["clean"]).square().sum(1), logits


def test_every_member_keeps_its_own_reference() -> None:
    members = nets(2)
    asked = problem(Ensemble(members, weights=[1, 3]))
    asked = replace(asked, reference=MeanLoss(Drift()).reference(asked))
    assert set(asked.reference) == {"0/clean", "1/clean"}
    other = clips(3, seed=9)
    value, _ = MeanLoss(Drift())(asked, other)
    moved = [(m(other) - m(clips(3))).square().sum(1) for m in members]
    assert torch.allclose(value, 0.25 * moved[0] + 0.75 * moved[1])
    assert not MeanLoss(Drift())(asked, clips(3))[0].any()


@dataclass(frozen=True)
class MeanLossTLA(TLAM):
    def objective(self) -> Objective:
        return MeanLoss(super().objective())


def test_an_objective_that_is_referenced_once_for_all_restarts_may_be_averaged() -> None:
    """Its members' references are kept apart, though it is asked for them again at every start."""
    members = nets(2)
    options = {"lam": 1.0, "steps": 3, "restarts": 2, "early_stop": False}
    found = MeanLossTLA(**options)(Ensemble(members, weights=[1, 0]), clips(3), LABELS)
    expected = TLAM(**options)(members[0], clips(3), LABELS)
    assert torch.equal(found.clip.video, expected.clip.video)


@pytest.mark.parametrize("objective", [Divergence(), WholeLoss(LipschitzTerm(1.0))], ids=["kl", "tla"])
def test_members_are_compared_with_themselves(objective: Objective) -> None:
    """What a member says of the clean clips, not what the ensemble does."""
    members = nets(2)
    reference = MeanLoss(objective).reference(problem(Ensemble(members)))
    assert len(reference) == 2
    for said, member in zip(reference.values(), members, strict=True):
        assert torch.allclose(said, member(clips(3)))


def test_what_members_agree_on_is_the_ensemble_s() -> None:
    def model(labels: list[str] | None, frames: int | None, size: int | None) -> Model:
        return wrap(torch.nn.Flatten(), frames=frames, size=size, labels=labels)

    same = Ensemble([model(["a", "b"], 16, 32), model(None, 16, 64)])
    assert (same.labels, same.frames, same.size, same.sample_rate) == (("a", "b"), 16, None, None)
    hearing = model(None, None, None)
    hearing.sample_rate = 16000
    assert Ensemble([hearing, model(None, 8, None)]).sample_rate == 16000
    with pytest.raises(InputError, match="same classes in the same order"):
        Ensemble([model(["a", "b"], 16, 32), model(["b", "a"], 16, 32)])


def test_members_may_hear_at_their_own_rates() -> None:
    network = "audio_visual?visual=resnet_small&audio=vgg_small&size=16&features=6&n_fft=64&hop=32&mels=8&steps=4"
    members = [load_model(f"{network}&rate={rate}", num_classes=3, seed=rate).eval() for rate in (8000, 4000)]
    random = torch.Generator().manual_seed(0)
    video, sound = torch.rand(2, 3, 4, 16, 16, generator=random), torch.rand(2, 1, 1600, generator=random) - 0.5
    clip = Clip(video, sound, sample_rate=16000)
    together = Ensemble(members)
    torch.testing.assert_close(together(clip), sum(member(clip) for member in members) / 2)
    assert together.sample_rate == 8000
    result = IFGSM(AudioVisual(), steps=2, early_stop=False)(together, clip, torch.tensor([0, 1]))
    assert (result.clip.signal("audio") != sound).any()


def test_refusals() -> None:
    with pytest.raises(InputError, match="at least one model"):
        Ensemble([])
    with pytest.raises(InputError, match="did you mean 'logits'"):
        Ensemble(nets(1), "logit")  # type: ignore[arg-type]
    for bad in ([1.0], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(InputError, match="as many weights"):
            Ensemble(nets(2), weights=bad)
    with pytest.raises(InputError, match="3 and 2 classes"):
        Ensemble([nets(1)[0], Linear(weights())])(clips(2))


def test_a_spec_of_several_models_is_their_ensemble() -> None:
    clip = Clip(torch.rand(2, 3, 16, 48, 48, generator=torch.Generator().manual_seed(0)))
    together = load_model("embedded:r3d + embedded:r3d_at")
    apart = [load_model(name)(clip) for name in ("embedded:r3d", "embedded:r3d_at")]
    assert isinstance(together, Ensemble)
    torch.testing.assert_close(together(clip), sum(apart) / 2)
    with pytest.raises(InputError, match="did you mean 'r3d'"):
        load_model("embedded:r3d + embedded:r3")
