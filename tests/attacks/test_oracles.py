"""On models whose optimum is known in closed form every attack must reach it, and none may claim more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import SHAPE, Linear, Stairs, alternating, clips, short, signs, weights

from robustvideo.attacks import FGSM, IFGSM, MIFGSM, NIFGSM, PGD, Noise
from robustvideo.attacks.attack import Attack
from robustvideo.clip import Clip
from robustvideo.distances import frame_rms
from robustvideo.support import Border, Frames, Patch
from robustvideo.threat import L2, L21, FlowField, Joint, Linf, NormBall, ThreatModel, warp

GRADIENT_ATTACKS = {
    "fgsm": lambda threat, **kw: FGSM(threat, **kw),
    "ifgsm": lambda threat, **kw: IFGSM(threat, **kw),
    "mifgsm": lambda threat, **kw: MIFGSM(threat, **kw),
    "nifgsm": lambda threat, **kw: NIFGSM(threat, **kw),
    "pgd": lambda threat, **kw: PGD(threat, steps=40, **kw),
}
BALLS = {
    "linf": Linf(8 / 255, stored=False),
    "linf_stored": Linf(8 / 255),
    "l2": L2(1.0, stored=False),
    "l21": L21(0.08, stored=False),
}


def dual(weight: Tensor, ball: NormBall) -> float:
    """Largest ``<w, delta>`` over the ball, the box aside."""
    if isinstance(ball, Linf):
        return ball.eps * float(weight.detach().abs().sum())
    if isinstance(ball, L2):
        return ball.eps * float(weight.detach().norm())
    per_frame = weight[0].numel() * weight.shape[0] / weight.shape[1]
    return ball.eps * float(weight.detach().transpose(0, 1).flatten(1).norm(dim=1).max()) * per_frame**0.5


def share_reached(name: str, ball: NormBall) -> float:
    """How much of the optimum an attack must reach.

    Steps that add up to 2.5 eps turn a start on the far side of an L2 sphere (orthogonal to the gradient) to within
    ``2 atan(exp(-2.5))`` of it, whose cosine is ``tanh(2.5) = 0.9866``, however many steps there are.
    """
    return 0.985 if name == "pgd" and isinstance(ball, L2) else 0.99


def clean_margin(model: Linear, clip: Clip, labels: Tensor) -> Tensor:
    return model.value(clip).detach() * signs(labels, labels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_linear_optimum_is_reached(name: str, ball: str, batch: int, dtype: torch.dtype) -> None:
    threat = BALLS[ball]
    clip, labels = clips(batch, dtype=dtype), alternating(batch)
    model = Linear(weights(dtype=dtype))
    result = GRADIENT_ATTACKS[name](threat, early_stop=False)(model, clip, labels)
    gain = result.margin.double() - clean_margin(model, clip, labels).double()
    optimum = dual(model.weight, threat)
    assert (gain >= share_reached(name, threat) * optimum).all(), (gain / optimum).tolist()
    assert (gain <= 1.0001 * optimum).all(), (gain / optimum).tolist()


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
@pytest.mark.parametrize("early_stop", [True, False])
def test_verdict_is_right_on_both_sides_of_the_optimum(name: str, ball: str, early_stop: bool) -> None:
    threat = BALLS[ball]
    clip, labels = clips(1), torch.zeros(1, dtype=torch.long)
    model = Linear(weights())
    optimum, value = dual(model.weight, threat), float(model.value(clip).detach())
    for share, expected in ((0.98, True), (1.001, False)):
        model.bias.data = torch.tensor(-value - share * optimum, dtype=torch.float64)
        result = GRADIENT_ATTACKS[name](threat, early_stop=early_stop)(model, clip, labels)
        assert result.success.tolist() == [expected]
        model.bias.data = torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_targeted_is_untargeted_with_the_other_label(name: str) -> None:
    clip, labels = clips(4), alternating(4)
    model = Linear(weights())
    away = GRADIENT_ATTACKS[name](BALLS["linf_stored"], early_stop=False)(model, clip, labels)
    towards = GRADIENT_ATTACKS[name](BALLS["linf_stored"], early_stop=False, targeted=True)(model, clip, 1 - labels)
    assert torch.equal(away.clip.video, towards.clip.video)
    assert torch.equal(away.success, towards.success)
    assert torch.equal(away.margin, towards.margin)


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
@pytest.mark.parametrize("stored", [True, False])
def test_linf_optimum_where_the_box_is_active(name: str, stored: bool) -> None:
    """Every pixel may go as far as the box lets it: ``clamp(x + eps * sign(w), 0, 1)``."""
    clip, labels = clips(3, low=0, high=256), alternating(3)
    model = Linear(weights())
    threat = Linf(16 / 255, stored=stored)
    result = GRADIENT_ATTACKS[name](threat, early_stop=False)(model, clip, labels)
    best = (clip.video + 16 / 255 * model.weight.sign() * signs(labels, clip.video)).clamp(0, 1)
    assert torch.allclose(result.clip.video, best, atol=1e-12)


@pytest.mark.parametrize("clean_on_grid", [True, False], ids=["on_grid", "off_grid"])
@pytest.mark.parametrize(
    "support", [Frames((1, -1)), Frames(k=2), Patch(0.3), Patch(0.3, (1, 2)), Border(0.5)], ids=short
)
@pytest.mark.parametrize("name", ["fgsm", "mifgsm", "pgd"])
def test_linf_optimum_on_a_support(name: str, support, clean_on_grid: bool) -> None:
    clip, labels = clips(3), alternating(3)
    if not clean_on_grid:
        clip = Clip(clip.video + 0.3 / 255)
    model = Linear(weights())
    attack = GRADIENT_ATTACKS[name](Linf(8 / 255, support=support), early_stop=False)
    result = attack(model, clip, labels)
    changed = result.clip.video != clip.video
    difference = (result.clip.video - clip.video) * 255
    reach = 8.0 if clean_on_grid else 7.7 - 1e-9  # the last grid point inside the ball
    least = reach if clean_on_grid else 7.3
    wanted = model.weight.sign() * signs(labels, clip.video)
    touched = changed.any(1, keepdim=True).expand_as(changed)
    assert torch.equal(difference[touched].sign(), wanted.expand_as(difference)[touched])
    assert difference[touched].abs().min() >= least - 0.7
    frames_used = touched[:, 0].any(3).any(2).sum(1)
    if isinstance(support, Frames):
        assert frames_used.tolist() == [2, 2, 2]
        assert touched[:, 0].sum((1, 2, 3)).tolist() == [2 * 6 * 8] * 3
    elif isinstance(support, Patch):
        assert touched[:, 0].sum((1, 2, 3)).tolist() == [4 * 3 * 4] * 3
    else:
        assert touched[:, 0].sum((1, 2, 3)).tolist() == [4 * (6 * 8 - 4 * 6)] * 3


@pytest.mark.parametrize("clean_on_grid", [True, False], ids=["on_grid", "off_grid"])
@pytest.mark.parametrize(
    "threat",
    [
        L2(1.0, support=Frames((0, 2))),
        L21(0.1, support=Frames((0, 2))),
        L2(1.0, support=Patch(0.3, (1, 1))),
        L21(0.1, support=Border(0.5)),
        FlowField(1.0, support=Frames((0, 2))),
        FlowField(1.0, support=Patch(0.3, (1, 1))),
    ],
    ids=short,
)
def test_nothing_changes_off_the_support(threat: NormBall, clean_on_grid: bool) -> None:
    """Also where the clean clip is not on the storage grid: untouched values are left as they are, not rounded."""
    clip, labels = clips(3), alternating(3)
    if not clean_on_grid:
        clip = Clip(clip.video + 0.3 / 255)
    result = PGD(threat, early_stop=False)(Linear(weights()), clip, labels)
    mask = threat.support.mask(clip.video, None)  # type: ignore[arg-type]
    off = (mask == 0).expand_as(clip.video)
    assert torch.equal(result.clip.video[off], clip.video[off])
    assert not torch.equal(result.clip.video, clip.video)


@pytest.mark.parametrize(("ball", "mask"), [("l2", Patch(0.3, (1, 2))), ("l21", Border(0.5)), ("l2", Frames((2,)))])
def test_l2_and_l21_optimum_on_a_support(ball: str, mask) -> None:
    threat = {"l2": L2(0.3, stored=False, support=mask), "l21": L21(0.05, stored=False, support=mask)}[ball]
    clip, labels = clips(3), alternating(3)
    model = Linear(weights())
    result = PGD(threat, steps=40, early_stop=False)(model, clip, labels)
    allowed = mask.mask(clip.video, None)[:1, :, :, :, :].expand(1, *SHAPE)[0]
    optimum = dual(model.weight.detach() * allowed, threat)
    gain = result.margin.double() - clean_margin(model, clip, labels)
    assert (gain >= share_reached("pgd", threat) * optimum).all(), (gain / optimum).tolist()


@pytest.mark.parametrize("name", ["fgsm", "ifgsm", "mifgsm", "pgd"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l21"])
@pytest.mark.parametrize("support", [None, Frames((1,)), Patch(0.3, (1, 2))], ids=short)
def test_frame_colour_optimum(name: str, norm: str, support) -> None:
    """One offset per frame and channel: the optimum follows from the sums of w over the frame (its allowed part)."""
    kind = {"linf": Linf, "l2": L2, "l21": L21}[norm]
    eps = {"linf": 8 / 255, "l2": 0.5, "l21": 0.05}[norm]
    extra = {} if support is None else {"support": support}
    threat = kind(eps, stored=False, parametrisation="frame_colour", **extra)
    clip, labels = clips(3), alternating(3)
    model = Linear(weights())
    result = GRADIENT_ATTACKS[name](threat, early_stop=False)(model, clip, labels)

    allowed = torch.ones(SHAPE, dtype=torch.float64)
    if support is not None:
        allowed = support.mask(clip.video, None)[0].expand(SHAPE)
    sums = (model.weight.detach() * allowed).sum((2, 3))  # (C, T)
    pixels = allowed.sum((2, 3))  # values that one variable moves
    if norm == "linf":
        optimum = eps * float(sums.abs().sum())
    elif norm == "l2":
        optimum = eps * float((sums.square() / pixels.clamp_min(1)).sum().sqrt())
    else:  # rms over a frame's values, of which only `pixels` of H * W move
        share = (pixels / (SHAPE[2] * SHAPE[3])).amax(0)
        per_frame = (sums.square().sum(0) * SHAPE[0]).sqrt() / share.sqrt().clamp_min(1e-9)
        optimum = eps * float(per_frame.max())
    gain = result.margin.double() - clean_margin(model, clip, labels)
    assert (gain >= share_reached(name, threat) * optimum).all(), (gain / optimum).tolist()
    assert (gain <= 1.0001 * optimum).all(), (gain / optimum).tolist()
    difference = result.clip.video - clip.video
    if support is None:
        assert torch.allclose(difference, difference[..., :1, :1].expand_as(difference), atol=1e-12)


@pytest.mark.parametrize("name", ["fgsm", "ifgsm", "mifgsm", "nifgsm", "pgd"])
@pytest.mark.parametrize("stored", [True, False])
def test_joint_video_and_audio_reach_the_sum_of_both_optima(name: str, stored: bool) -> None:
    clip, labels = clips(3, samples=50), alternating(3)
    model = Linear(weights(), audio=weights((1, 50), seed=5))
    eps_v, eps_a = 8 / 255, 393 / 32768
    threat = Joint((Linf(eps_v, stored=stored), Linf(eps_a, modality="audio", stored=stored)))
    result = GRADIENT_ATTACKS[name](threat, early_stop=False)(model, clip, labels)
    gain = result.margin.double() - clean_margin(model, clip, labels)
    assert model.audio is not None
    optimum = eps_v * float(model.weight.abs().sum()) + eps_a * float(model.audio.abs().sum())
    assert torch.allclose(gain, torch.full_like(gain, optimum), rtol=1e-5)


def test_audio_alone_leaves_the_video_bit_equal() -> None:
    clip, labels = clips(3, samples=50), alternating(3)
    model = Linear(weights(), audio=weights((1, 50), seed=5))
    result = PGD(Linf(0.012, modality="audio"), early_stop=False)(model, clip, labels)
    assert torch.equal(result.clip.video, clip.video)
    assert result.clip.audio is not None
    assert clip.audio is not None
    # 0.012 is 393.2 steps of 16-bit sound: the largest stored change is 393 of them
    assert torch.equal(((result.clip.audio - clip.audio) * 32768).round().abs(), torch.full_like(clip.audio, 393))


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_l2_on_the_grid_with_a_small_budget_still_uses_it(name: str) -> None:
    """A budget of less than half a level per value: rounding to nearest alone would undo it all.

    With n nearly equal weights the best point on the grid moves ``k = (255 eps)^2`` values by one level each.
    """
    n = torch.tensor(SHAPE).prod().item()
    eps = 0.4 / 255 * n**0.5
    clip, labels = clips(2), torch.zeros(2, dtype=torch.long)
    model = Linear(1 + 0.05 * torch.rand(SHAPE, dtype=torch.float64))
    result = GRADIENT_ATTACKS[name](L2(eps), early_stop=False)(model, clip, labels)
    gain = result.margin.double() - clean_margin(model, clip, labels)
    best_on_grid = int((255 * eps) ** 2 + 1e-6) / 255
    assert (gain >= 0.8 * best_on_grid).all(), (gain / best_on_grid).tolist()


@pytest.mark.parametrize("threat", [L2(0.6), L2(3.0), L21(0.02), L21(0.1)], ids=short)
def test_l2_and_l21_on_the_grid_lose_little(threat: NormBall) -> None:
    clip, labels = clips(3), alternating(3)
    model = Linear(weights())
    result = PGD(threat, steps=40, early_stop=False)(model, clip, labels)
    gain = result.margin.double() - clean_margin(model, clip, labels)
    optimum = dual(model.weight, threat)
    assert (gain >= 0.9 * optimum).all(), (gain / optimum).tolist()


def test_flow_finds_the_shift_that_a_ramp_asks_for() -> None:
    """On a horizontal ramp a displacement dx changes each value by ``slope * dx``, so the optimum moves all by eps."""
    slope, eps = 4 / 255, 1.0
    ramp = (torch.arange(16, dtype=torch.float64) * slope + 0.2).expand(2, 3, 2, 5, 16).contiguous()
    weight = weights((3, 2, 5, 16), seed=3)
    weight[..., :2] = weight[..., -2:] = 0  # the border repeats: no ramp there
    model = Linear(weight.abs())
    labels = alternating(2)
    result = PGD(FlowField(eps, stored=False), steps=20, early_stop=False)(model, Clip(ramp), labels)
    gain = result.margin.double() - clean_margin(model, Clip(ramp), labels)
    optimum = eps * slope * float(model.weight.sum())
    assert (gain >= 0.99 * optimum).all()
    assert (gain <= 1.0001 * optimum).all()


def test_steepest_l21_step_spends_everything_on_one_frame() -> None:
    weight = weights()
    weight[:, 2] *= 3
    clip, labels = clips(2), alternating(2)
    result = FGSM(L21(0.05, stored=False), early_stop=False)(Linear(weight), clip, labels)
    sizes = frame_rms(result.clip.video - clip.video)
    assert torch.allclose(sizes, torch.tensor([[0.0, 0.0, 0.05, 0.0]], dtype=torch.float64).expand(2, 4), atol=1e-9)


def test_noise_is_the_best_of_its_draws_and_stays_in_the_ball() -> None:
    clip, labels = clips(4), alternating(4)
    model = Linear(weights())
    margins = []
    for draws in (1, 5, 25):
        result = Noise(Linf(8 / 255), draws=draws, early_stop=False)(model, clip, labels)
        assert ((result.clip.video - clip.video).abs() * 255).max() <= 8 + 1e-9
        margins.append(result.margin)
    assert (margins[1] >= margins[0]).all()
    assert (margins[2] >= margins[1]).all()
    assert (margins[2] > margins[0]).any()


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
@pytest.mark.parametrize("threat", [Linf(8 / 255), L2(1.0), L21(0.1)], ids=short)
def test_a_model_without_gradient_leaves_the_clip_where_it_started(name: str, threat: ThreatModel) -> None:
    clip, labels = clips(3), alternating(3)
    result = GRADIENT_ATTACKS[name](threat, early_stop=False)(Stairs(weights()), clip, labels)
    assert result.margin.isfinite().all()
    if name != "pgd":  # PGD starts at random
        assert torch.equal(result.clip.video, clip.video)


def test_zero_gradient_on_part_of_the_clip_leaves_that_part() -> None:
    weight = weights()
    weight[:, 1] = 0
    clip, labels = clips(3), alternating(3)
    for attack in (FGSM(Linf(8 / 255)), IFGSM(Linf(8 / 255)), MIFGSM(Linf(8 / 255)), IFGSM(L2(1.0)), FGSM(L21(0.1))):
        result = attack(Linear(weight), clip, labels)
        assert torch.equal(result.clip.video[:, :, 1], clip.video[:, :, 1]), attack.spec


@pytest.mark.parametrize(
    "threat", [Linf(8 / 255, stored=False), L2(1.0, stored=False), L21(0.08, stored=False)], ids=short
)
@pytest.mark.parametrize("gap", [10.0, 30.0, 60.0, 80.0])
def test_float32_gradients_that_are_tiny_still_point_somewhere(threat: NormBall, gap: float) -> None:
    """At a logit gap of 60 the cross-entropy's gradient is 1e-26: its square underflows in float32, it does not."""
    clip, labels = clips(1, dtype=torch.float32), torch.zeros(1, dtype=torch.long)
    scale = 20.0
    model = Linear(weights(dtype=torch.float32), scale=scale)
    model.bias.data -= model.value(clip).detach()[0] / scale + gap / scale
    attack: Attack = IFGSM(threat, steps=1, early_stop=False)
    result = attack(model, clip, labels)
    gain = float(result.margin[0]) + gap
    optimum = scale * dual(model.weight, threat)
    assert gain >= 0.98 * optimum, gain / optimum


def test_shifted_oracle_of_warp_matches_the_attack_direction() -> None:
    """Sanity of the sign convention: output (r, c) reads the input at (r + dy, c + dx)."""
    video = torch.rand(1, 1, 1, 3, 5, dtype=torch.float64)
    flow = torch.zeros(1, 2, 1, 3, 5, dtype=torch.float64)
    flow[:, 0] = 1
    moved = warp(video, flow)
    assert torch.allclose(moved[..., :-1], video[..., 1:])
    assert torch.allclose(moved[..., -1], video[..., -1])
