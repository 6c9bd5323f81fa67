"""Gradients against finite differences, and what stays in full precision when the gradient pass does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import ConvNet, Linear, Smooth, Watched, alternating, clips, problem_for, weights

from robustvideo.attacks import IFGSM, PGD
from robustvideo.attacks.attack import Problem
from robustvideo.attacks.gradients import finite, plain
from robustvideo.attacks.objectives import CrossEntropy, Margin, Objective
from robustvideo.clip import Clip
from robustvideo.model import Model
from robustvideo.threat import L2, FlowField, Joint, Linf, ThreatModel

THREATS: dict[str, ThreatModel] = {
    "linf": Linf(8 / 255),
    "l2": L2(1.0),
    "frame_colour": Linf(8 / 255, parametrisation="frame_colour"),
    "flow": FlowField(1.0),
    "joint": Joint((Linf(8 / 255), Linf(0.01, modality="audio"))),
    "warp_then_noise": Joint((FlowField(1.0), Linf(8 / 255))),
}


def value_at(problem: Problem, objective: Objective, variables: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        perturbed = problem.threat.perturb(problem.clip, variables, problem.masks)
        return objective(problem, perturbed)[0]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("objective", [CrossEntropy(), Margin()], ids=["ce", "margin"])
@pytest.mark.parametrize("name", THREATS)
def test_plain_is_the_derivative(name: str, objective: Objective, targeted: bool) -> None:
    threat = THREATS[name]
    model = Smooth(audio=(1, 30))
    clip, labels = clips(3, samples=30), alternating(3)
    problem = problem_for(model, clip, labels, threat, targeted=targeted)
    random = torch.Generator().manual_seed(0)
    point = tuple(
        # off the whole numbers, where bilinear interpolation has kinks
        0.01 * (0.3 + torch.rand(p.zeros(clip.signal(p.modality)).shape, generator=random, dtype=torch.float64))
        for p in threat.parts
    )
    estimate = plain(problem, objective, point)
    assert torch.equal(estimate.objective, value_at(problem, objective, point))
    for k, gradient in enumerate(estimate.gradients):
        assert gradient.shape == point[k].shape
        direction = torch.randn(gradient.shape, generator=random, dtype=torch.float64)
        h = 1e-6
        ahead, behind = (
            value_at(problem, objective, tuple(v + s * h * direction if i == k else v for i, v in enumerate(point)))
            for s in (1, -1)
        )
        slope = (gradient * direction).flatten(1).sum(1)
        assert torch.allclose((ahead - behind) / (2 * h), slope, rtol=1e-5, atol=1e-8)
        assert slope.abs().median() > 1e-3


def test_a_clip_s_gradient_does_not_depend_on_its_batch() -> None:
    clip, labels = clips(4), torch.arange(4) % 3
    model = ConvNet().double().eval()
    whole = plain(problem_for(model, clip, labels, Linf(8 / 255)), CrossEntropy(), (torch.zeros_like(clip.video),))
    for i in range(4):
        one = clip.select([i])
        alone = plain(
            problem_for(model, one, labels[i : i + 1], Linf(8 / 255)), CrossEntropy(), (torch.zeros_like(one.video),)
        )
        assert torch.allclose(alone.gradients[0][0], whole.gradients[0][i], rtol=1e-9, atol=1e-15)


class Deaf(Linear):
    """Ignores the video."""

    def value(self, clip: Clip) -> Tensor:
        return clip.signal("audio").flatten(1).sum(1)


class Cut(Linear):
    """Cuts the graph."""

    def value(self, clip: Clip) -> Tensor:
        return super().value(clip).detach()


class Poles(Linear):
    """Its gradient is infinite or NaN in places."""

    def value(self, clip: Clip) -> Tensor:
        centred = clip.video - clip.video.detach()
        return super().value(clip) + centred[:, 0].flatten(1).sqrt().sum(1)


def test_ignored_parts_and_cut_graphs_give_zeros_and_poles_something_finite() -> None:
    clip, labels = clips(2, samples=10), alternating(2)
    joint = Joint((Linf(8 / 255), Linf(0.01, modality="audio")))
    zeros = tuple(p.zeros(clip.signal(p.modality)) for p in joint.parts)
    deaf = plain(problem_for(Deaf(weights()), clip, labels, joint), CrossEntropy(), zeros)
    assert (deaf.gradients[0] == 0).all()
    assert (deaf.gradients[1] != 0).all()
    cut = plain(problem_for(Cut(weights()), clip, labels, joint), CrossEntropy(), zeros)
    assert all((g == 0).all() for g in cut.gradients)
    assert (cut.forwards, cut.backwards) == (1, 0)
    poles = plain(problem_for(Poles(weights()), clip, labels, joint), CrossEntropy(), zeros)
    assert all(g.isfinite().all() for g in poles.gradients)
    assert (poles.gradients[0][:, 1:] != 0).all()


class Flat(Model):
    """Logits by one linear layer, which autocast runs in low precision."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.layer = torch.nn.Linear(weight.numel(), 2, bias=False)
        self.layer.weight.data = torch.stack([-weight.flatten() / 2, weight.flatten() / 2])

    def forward(self, clip: Clip) -> Tensor:
        return self.layer(clip.video.flatten(1))


def test_gradients_that_overflow_in_fp16_stay_the_largest_and_keep_their_sign() -> None:
    weight = weights(dtype=torch.float32)
    weight[:, 1] *= 200  # times the scale of fp16, more than it can hold
    clip, labels = clips(2, dtype=torch.float32), alternating(2)
    problem = problem_for(Flat(weight), clip, labels, Linf(8 / 255), precision="fp16")
    (found,) = plain(problem, Margin(), (torch.zeros_like(clip.video),)).gradients
    assert found.isfinite().all()
    for row, sign in enumerate((1, -1)):
        assert torch.equal(found[row].sign(), sign * weight.sign())
        assert found[row].abs().max() == found[row, :, 1].abs().max()


def test_an_infinite_gradient_is_as_large_as_the_largest_of_its_own_clip() -> None:
    inf, nan = torch.inf, torch.nan
    raw = torch.tensor([[3.0, -inf, nan, inf], [-0.5, inf, 0.25, 0.0], [inf, -inf, nan, 0.0], [1.0, -2.0, 0.0, 4.0]])
    expected = [[3.0, -3.0, 0.0, 3.0], [-0.5, 0.5, 0.25, 0.0], [1.0, -1.0, 0.0, 0.0], [1.0, -2.0, 0.0, 4.0]]
    assert finite(raw).tolist() == expected
    assert torch.equal(finite(raw[1:2]), finite(raw)[1:2])


class Spy(Model):
    """Notes the type of what it was given and of its first product, and which copy of it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.watched = Watched(ConvNet())
        self.original = True

    def __deepcopy__(self, memo: object) -> Spy:
        twin = Spy()
        twin.load_state_dict(self.state_dict())
        twin.watched.tally = self.watched.tally
        twin.original = False
        return twin.train(self.training)

    def forward(self, clip: Clip) -> Tensor:
        product = self.watched.inner.conv(clip.video)  # type: ignore[operator]
        self.watched.tally.notes.append((clip.video.dtype, product.dtype, clip.video.requires_grad, self.original))
        return self.watched(clip)


@pytest.mark.parametrize(("precision", "inside"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", None)])
def test_only_the_gradient_pass_is_in_low_precision(precision: str, inside: torch.dtype | None) -> None:
    clip, labels = clips(3, dtype=torch.float32), torch.arange(3)
    model = Spy()
    result = PGD(Linf(8 / 255), steps=3, precision=precision, early_stop=False)(model, clip, labels)  # type: ignore[arg-type]
    gradient_passes = [n for n in model.watched.tally.notes if n[2]]
    verdicts = [n for n in model.watched.tally.notes if not n[2]]
    assert len(gradient_passes) == 3
    assert verdicts
    assert all(given is torch.float32 for given, _, _, _ in model.watched.tally.notes)
    assert all(product is (inside or torch.float32) for _, product, _, _ in gradient_passes)
    assert all(product is torch.float32 for _, product, _, _ in verdicts)
    assert all(original for *_, original in verdicts)  # never the copy that is only there for its gradient
    assert result.clip.video.dtype is torch.float32
    assert result.loss_trace.dtype is torch.float32
    assert result.logits.dtype is torch.float32
    assert torch.allclose(result.logits, model.eval()(result.clip).detach(), atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_gradients_point_the_same_way(precision: str) -> None:
    clip, labels = clips(3, dtype=torch.float32), torch.arange(3)
    model = ConvNet().eval()
    zeros = (torch.zeros_like(clip.video),)
    exact = plain(problem_for(model, clip, labels, Linf(8 / 255)), CrossEntropy(), zeros)
    rough = plain(problem_for(model, clip, labels, Linf(8 / 255), precision=precision), CrossEntropy(), zeros)
    assert rough.gradients[0].dtype is torch.float32
    cosine = torch.cosine_similarity(exact.gradients[0].flatten(1), rough.gradients[0].flatten(1), dim=1)
    assert (cosine > 0.99).all()
    ratio = rough.gradients[0].flatten(1).norm(dim=1) / exact.gradients[0].flatten(1).norm(dim=1)
    assert torch.allclose(ratio, torch.ones(3), atol=0.05)  # the fp16 scale is divided out again


def test_an_outer_autocast_does_not_lower_the_precision_that_was_asked_for() -> None:
    clip, labels = clips(3, dtype=torch.float32), torch.arange(3)
    outside = PGD(Linf(8 / 255), early_stop=False)(ConvNet(), clip, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = PGD(Linf(8 / 255), early_stop=False)(ConvNet(), clip, labels)
    assert torch.equal(outside.logits, inside.logits)
    assert torch.equal(outside.clip.video, inside.clip.video)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_attack_has_gradients_wherever_it_is_called(mode: type) -> None:
    """Evaluation often runs under ``torch.inference_mode``: an attack without gradients would look like a defence."""
    clip, labels = clips(3), alternating(3)
    model = Linear(weights())
    outside = IFGSM(Linf(8 / 255), early_stop=False)(model, clip, labels)
    with mode():
        made_inside = Clip(clip.video.clone(), ids=clip.ids)
        inside = IFGSM(Linf(8 / 255), early_stop=False)(model, clip, labels)
        from_inside = IFGSM(Linf(8 / 255), early_stop=False)(model, made_inside, labels.clone())
    assert torch.equal(outside.clip.video, inside.clip.video)
    assert torch.equal(outside.clip.video, from_inside.clip.video)
