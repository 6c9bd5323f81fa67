"""DeepSAVA: what it changes and how much, which frames it takes, and what a re-encoded frame costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from toys import Able, Linear, Smooth, Watched, alternating, clips, problem_for, signs, weights

from robustvideo.attacks import DeepSAVA, load_attack
from robustvideo.attacks.deepsava import AlikeScore, WarpAndNoiseStep
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.key_frames import BruteForce, Choice, First, FrameSearch, Last, selectors
from robustvideo.attacks.objectives import Evasion
from robustvideo.attacks.updates import Position
from robustvideo.clip import Clip, concatenate
from robustvideo.data import load_data
from robustvideo.distances import frames_touched, l21, ssim_per_frame, structural_distance
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models import load_model
from robustvideo.support import Frames
from robustvideo.threat import L21, WarpAndNoise, WarpAndNoiseL21

SHAPE = (3, 6, 16, 18)


def linear(norms: tuple[float, ...] = (1, 2, 0.5, 8, 0.2, 4), scale: float = 1.0) -> Linear:
    """A linear model whose frames have given Euclidean norms."""
    w = weights(SHAPE)
    return Linear(w * (torch.tensor(norms).double() / w.square().sum((0, 2, 3)).sqrt())[:, None, None], scale=scale)


class Spy(First):
    """Writes down the forecast."""

    told: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def choose(self, search: FrameSearch) -> Choice:
        self.told.append(search.forecast())
        return super().choose(search)


def some_clips(batch: int = 3, **options: Any) -> Clip:
    return clips(batch, shape=SHAPE, **options)


def touched(clean: Clip, changed: Clip) -> list[list[int]]:
    rows = (clean.video != changed.video).flatten(3).any(3).any(1)
    return [row.nonzero()[:, 0].tolist() for row in rows]


def standing(model: Linear, clip: Clip, labels: Tensor, margin: float = -4.0) -> Linear:
    """The model with a bias for one clip alone, so that its margin is given."""
    value = model.value(clip).detach()[0] * signs(labels, labels)[0]
    model.bias.data = model.bias.data + (margin - value) * signs(labels, labels)[0]
    return model


@pytest.mark.parametrize("k", [1, 2, 4, None])
def test_no_more_than_k_frames_change(k: int | None) -> None:
    clip = some_clips()
    result = DeepSAVA(k=k, steps=5, eps=0.3, early_stop=False)(Smooth(SHAPE), clip, alternating(3))
    assert frames_touched(clip.video, result.clip.video).tolist() == [k or 6] * 3


@pytest.mark.parametrize("bound", ["ssim", "l21"])
@pytest.mark.parametrize("eps", [0.02, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_the_budget_is_a_true_constraint_of_the_stored_clip(bound: str, eps: float, dtype: torch.dtype) -> None:
    clip, model = some_clips(dtype=dtype), linear().to(dtype)
    threat = {"ssim": WarpAndNoise(eps), "l21": WarpAndNoiseL21(eps)}[bound]
    attack = DeepSAVA(threat, k=2, lam=0.0, early_stop=False, step_size=0.02, steps=30)
    result = attack(model, clip, alternating(3))
    measure = {"ssim": structural_distance, "l21": l21}[bound](clip.video.double(), result.clip.video.double())
    assert (measure <= eps * (1 + 1e-5)).all()
    assert (measure >= 0.7 * eps).all()


def test_as_a_stopping_rule_the_budget_is_exceeded_by_one_step_and_no_more() -> None:
    clip, labels = some_clips(), alternating(3)
    hard = DeepSAVA(eps=0.03, lam=0.0, early_stop=False, steps=40, select=First(), step_size=0.01)
    stop = replace(hard, constraint="stop")
    distance = structural_distance(clip.video, stop(linear(), clip, labels).clip.video)
    assert (distance > 0.03).all()
    few = [replace(stop, steps=n)(linear(), clip, labels).clip.video for n in range(1, 41)]
    by_steps = torch.stack([structural_distance(clip.video, video) for video in few])
    over = (by_steps > 0.03).int().argmax(0)
    assert (by_steps[over, range(3)] > 0.03).all()
    for i in range(3):
        assert (by_steps[: over[i], i] <= 0.03).all()
        assert torch.equal(few[int(over[i])][i], few[-1][i]), "it stays where it first exceeded the budget"
    assert (structural_distance(clip.video, hard(linear(), clip, labels).clip.video) <= 0.03 + 1e-7).all()


def test_noise_alone_moves_nothing_and_warp_alone_cannot_change_a_flat_picture() -> None:
    flat, labels = Clip(torch.full((2, *SHAPE), 0.5, dtype=torch.float64)), alternating(2)
    still = DeepSAVA(noise=False, steps=5, early_stop=False)(linear(), flat, labels)
    assert torch.equal(still.clip.video, flat.video)
    noisy = DeepSAVA(warp=False, steps=5, early_stop=False)(linear(), flat, labels)
    assert not torch.equal(noisy.clip.video, flat.video)
    with pytest.raises(InputError, match="no attack"):
        DeepSAVA(noise=False, warp=False)


def test_the_update_is_adam_s_with_a_rate_for_each_half() -> None:
    problem = problem_for(Smooth(SHAPE), some_clips(), alternating(3), WarpAndNoise(2.0))
    part = problem.threat.parts[0]
    rule = WarpAndNoiseStep(0.255, 0.001)
    variable = part.zeros(problem.clip.video)
    gradient = weights(tuple(variable.shape))
    here = Position(part, problem.clip.video, problem.eps[0], None, variable, gradient, torch.zeros(3), 0, 1)
    moved, state = rule.step(here, rule.init(variable))
    assert torch.allclose(moved[:, :2], 0.255 * gradient[:, :2].sign(), atol=1e-6)
    assert torch.allclose(moved[:, 2:], 0.001 * gradient[:, 2:].sign(), atol=1e-8)
    assert state["first"].shape == variable.shape
    held, _ = WarpAndNoiseStep(0.0, 0.001).step(here, rule.init(variable))
    assert not held[:, :2].any()


@pytest.mark.parametrize("frame", [0, 3, 5])
def test_noise_on_a_linear_model_spends_the_l21_budget_along_the_sign(frame: int) -> None:
    """A constant gradient makes Adam's steps its sign: rms eps on frame t gains ``eps * |w_t|_1``."""
    clip, labels, model = some_clips(), alternating(3), linear()
    attack = DeepSAVA(
        WarpAndNoiseL21(0.05, stored=False),
        frames=(frame,),
        warp=False,
        lam=0.0,
        loss="margin",
        early_stop=False,
        step_size=0.005,
        steps=30,
    )
    result = attack(model, clip, labels)
    gain = result.margin - model.value(clip).detach() * signs(labels, labels)
    expected = 0.05 * model.weight.detach()[:, frame].abs().sum()
    assert (gain >= 0.98 * expected).all()
    assert (gain <= 1.001 * expected).all()


def test_warp_follows_a_ramp() -> None:
    """On a ramp all pixels of weight w > 0 are fetched from where it is brighter."""
    ramp = (torch.arange(18.0).double() / 40 + 0.2).expand(1, *SHAPE).contiguous()
    model = Linear(weights(SHAPE).abs())
    attack = DeepSAVA(eps=2.0, noise=False, lam=0.0, loss="margin", frames=(2,), steps=8, early_stop=False)
    result = attack(model, Clip(ramp), torch.zeros(1, dtype=torch.long))
    change = (result.clip.video - ramp)[0, :, 2, :, :-4]
    assert (change >= 0.9 * 8 * 0.255 / 40 - 1 / 255).all()


def test_a_saturated_model_is_still_attacked() -> None:
    """The softmax of the true class rounds to 1 in float32: ``log(1 - p)`` has no gradient but in its stable form."""
    clip, labels = some_clips(1, dtype=torch.float32), torch.zeros(1, dtype=torch.long)
    model = standing(linear(scale=1.0).float(), clip, labels, margin=-300.0)
    logits = model(clip).detach()
    assert float(logits.softmax(1)[0, 0]) == 1.0
    result = DeepSAVA(frames=(3,), steps=5, lam=0.0, early_stop=False)(model, clip, labels)
    assert float(result.margin) > -300.0 + 0.5


@pytest.mark.parametrize(
    "spec",
    ["brute", "bo(tolerance=0)", "bo_gradient", "saliency", "sa(evaluations=60)", "ga(evaluations=60)", "relaxed"],
)
def test_the_frame_that_matters_is_chosen(spec: str) -> None:
    clip = some_clips()
    model = linear((0.1, 0.1, 0.1, 20, 0.1, 0.1))
    model.bias.data = -model.value(clip).detach().mean() - 200.0
    attack = DeepSAVA(lam=0.0, loss="margin", select=selectors.build(spec), steps=3, early_stop=False)
    result = attack(model, clip, torch.zeros(3, dtype=torch.long))
    assert touched(clip, result.clip) == [[3]] * 3


def test_key_frames_tells_what_was_probed_and_keeps_the_paper_s_curve() -> None:
    clip, labels, model = some_clips(), torch.zeros(3, dtype=torch.long), linear()
    model.bias.data = -model.value(clip).detach().mean() - 50.0
    choice = DeepSAVA(lam=0.5, select=BruteForce(), warp=False).key_frames(model, clip, labels)
    assert choice.tried[:, :, 0].tolist() == [list(range(6))] * 3
    assert choice.frames[:, 0].tolist() == choice.losses.argmin(1).tolist() == [3, 3, 3]
    one = DeepSAVA(lam=0.5, frames=(4,), warp=False, steps=4, early_stop=False, eps=2.0)(model, clip, labels)
    assert torch.allclose(-one.loss_trace[:, 3].double(), choice.losses[:, 4], rtol=1e-5)


@pytest.mark.parametrize("halves", [(True, True), (True, False), (False, True)])
def test_the_forecast_is_what_adam_s_first_step_gains_to_first_order(halves: tuple[bool, bool]) -> None:
    clip, labels, model = some_clips(), alternating(3), Smooth(SHAPE)
    attack = DeepSAVA(select=Spy(), warp=halves[0], noise=halves[1], lam=3.0)
    problem = attack.problem(model, clip, labels)
    start = problem.threat.parts[0].zeros(clip.video)
    with torch.enable_grad():
        seen = plain(problem, attack.objective(), (start,))
    rates = torch.tensor([0.255 * halves[0]] * 2 + [0.001 * halves[1]] * 3)
    expected = (rates[:, None, None, None] * seen.gradients[0].abs()).sum((1, 3, 4))
    attack.key_frames(model, clip, labels)
    gains, loss = Spy.told[-1]
    assert torch.allclose(gains, expected, rtol=1e-6)
    assert torch.allclose(loss, -seen.objective)


def test_only_frames_of_the_support_are_chosen() -> None:
    clip, labels = some_clips(), alternating(3)
    threat = WarpAndNoise(0.1, support=Frames((0, 2, 4)))
    for select in ("brute", "last", "bo", "random", "saliency", "saliency(least=true)", "relaxed(steps=2)", "sa", "ga"):
        attack = DeepSAVA(threat, select=selectors.build(select), steps=2, early_stop=False)
        chosen = attack.key_frames(linear(), clip, labels).frames
        assert set(chosen.flatten().tolist()) <= {0, 2, 4}
        assert touched(clip, attack(linear(), clip, labels).clip) == chosen.tolist()
    assert DeepSAVA(threat, select=Last()).key_frames(linear(), clip, labels).frames.tolist() == [[4]] * 3


class Whole(Model):
    """A framewise model that hides it."""

    def __init__(self, model: Model):
        super().__init__()
        self.hidden = model

    def forward(self, clip: Clip) -> Tensor:
        return self.hidden(clip)


@pytest.mark.parametrize(
    "options",
    [{}, {"k": 2}, {"select": First(), "early_stop": False}, {"targeted": True}, {"eot": 2, "eot_noise": 0.01}],
    ids=str,
)
def test_re_encoding_changed_frames_alone_gives_the_same_result(options: dict[str, Any]) -> None:
    clip, labels = some_clips(4), torch.tensor([0, 1, 2, 0])
    attack = DeepSAVA(steps=6, eps=0.2, **options)
    few, all_of_them = (attack(model.double().eval(), clip, labels) for model in (Able(), Whole(Able())))
    assert torch.equal(few.clip.video, all_of_them.clip.video)
    assert few.success.tolist() == all_of_them.success.tolist()
    assert few.first_success_step.tolist() == all_of_them.first_success_step.tolist()
    assert torch.allclose(few.logits, all_of_them.logits, atol=1e-12)
    assert (few.forward_passes == all_of_them.forward_passes + 1).all(), "the clean frames, once"


@pytest.mark.parametrize("select", ["first", "bo", "bo_gradient", "brute", "saliency", "relaxed(steps=4)"])
def test_passes_are_counted(select: str) -> None:
    clip, labels = some_clips(3), alternating(3)
    model = Watched(Smooth(SHAPE))
    result = load_attack(f"deepsava(steps=4, select={select}, early_stop=false)")(model, clip, labels)
    assert result.forward_passes.tolist() == [model.tally.forwards(name) for name in clip.ids]


@pytest.mark.parametrize("network", ["cnn_lstm", "r3d"])
def test_half_precision_chooses_much_the_same_frames(network: str) -> None:
    data, model = load_data("embedded:kinetic?split=val&clips=8"), load_model(f"embedded:{network}")
    clip, labels = concatenate([data.clip(i) for i in range(8)]), torch.tensor([s.label for s in data.samples])
    full, half = (DeepSAVA(precision=p).key_frames(model, clip, labels) for p in ("fp32", "bf16"))
    assert (full.frames == half.frames).sum() >= 6


def test_more_steps_never_help_the_defender() -> None:
    clip, labels = some_clips(8, low=0, high=256), alternating(8)
    model = linear()
    model.bias.data = -model.value(clip).detach().mean()
    known = torch.zeros(8, dtype=torch.bool)
    for steps in (1, 4, 16):
        success = DeepSAVA(steps=steps, eps=0.3, select=First())(model, clip, labels).success
        assert (success | ~known).all()
        known = success
    assert known.any()


def test_targeted_is_untargeted_with_the_other_label() -> None:
    clip, labels = some_clips(), alternating(3)
    away = DeepSAVA(steps=4, early_stop=False)(linear(), clip, labels)
    towards = DeepSAVA(steps=4, early_stop=False, targeted=True)(linear(), clip, 1 - labels)
    assert torch.equal(away.clip.video, towards.clip.video)
    assert torch.equal(away.success, towards.success)


def test_the_objective_is_the_paper_s() -> None:
    clip, labels = some_clips(), torch.tensor([0, 1, 2])
    model = Able().double().eval()
    changed = Clip((clip.video + 0.05 * weights(SHAPE)).clamp(0, 1))
    problem = problem_for(model, clip, labels, WarpAndNoise(2.0))
    value, logits = AlikeScore(Evasion(), 1.5)(problem, changed)
    probability = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    expected = (1 - probability).log() - 1.5 * (1 - ssim_per_frame(clip.video, changed.video)).sum(1)
    assert torch.allclose(value, expected, atol=1e-9)


def test_a_heavier_penalty_leaves_clips_more_alike() -> None:
    clip, labels, model = some_clips(), torch.zeros(3, dtype=torch.long), linear()
    model.bias.data = -model.value(clip).detach().mean() - 100.0
    distances = []
    for lam in (0.0, 2000.0):
        result = DeepSAVA(eps=2.0, lam=lam, frames=(1,), steps=60, early_stop=False)(model, clip, labels)
        distances.append(structural_distance(clip.video, result.clip.video))
    assert (distances[1] < distances[0]).all()


def test_mistakes_are_named() -> None:
    for options, message in (
        ({"threat": L21(0.1)}, "warp_noise"),
        ({"loss": "mse"}, "margin"),
        ({"constraint": "soft"}, "stop"),
        ({"lam": -1.0}, "not negative"),
        ({"k": 0}, "at least one frame"),
        ({"frames": (1, 1)}, "once"),
        ({"probe_steps": 0}, "a probe makes one"),
    ):
        with pytest.raises(InputError, match=message):
            DeepSAVA(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Cannot choose k=9"):
        DeepSAVA(k=9)(linear(), some_clips(), alternating(3))
    with pytest.raises(InputError, match="do not all exist"):
        DeepSAVA(frames=(6,))(linear(), some_clips(), alternating(3))
    with pytest.raises(InputError, match="did you mean 'brute'"):
        load_attack("deepsava(select=brut)")
    attack = load_attack("deepsava(select=bo(guided=5), k=2, warp=false, norm=warp_noise_l21, eps=0.1)")
    assert load_attack(attack.spec) == attack
