"""Threat models: balls, boxes, grids, warps, and a check that nothing escapes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import clips, short

from robustvideo.clip import Clip, per_clip
from robustvideo.distances import frame_rms
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.support import Border, Frames, Patch
from robustvideo.threat import L2, L21, FlowField, Joint, Linf, NormBall, Part, ThreatModel, warp, with_budget
from robustvideo.threat.box import into_box

few = settings(max_examples=40)
SMALL = (2, 3, 4, 5)
BALLS: list[NormBall] = [Linf(16 / 255, stored=False), L2(0.7, stored=False), L21(0.1, stored=False)]


def streams(batch: int, seed: int = 0) -> ClipRandom:
    return ClipRandom(seed_for(seed, i) for i in range(batch))


def own_norm(part: Part, delta: Tensor) -> Tensor:
    """The part's norm of a dense perturbation, written independently of the package."""
    if isinstance(part, Linf | FlowField):
        return delta.flatten(1).abs().amax(1)
    if isinstance(part, L2):
        return delta.flatten(1).square().sum(1).sqrt()
    return torch.stack([delta[:, :, t].square().flatten(1).mean(1).sqrt() for t in range(delta.shape[2])]).sum(0)


def noise(batch: int, scale: float, seed: int, shape: tuple[int, ...] = SMALL) -> Tensor:
    return scale * torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


scales = st.floats(1e-6, 10)
seeds = st.integers(0, 10_000)
budgets = st.floats(1e-4, 1.0)


class TestProjection:
    @few
    @given(seeds, scales, budgets, st.sampled_from(BALLS))
    def test_lands_in_ball_and_box_and_stays(self, seed: int, scale: float, eps: float, ball: NormBall) -> None:
        signal = clips(3, shape=SMALL, low=0, high=256, seed=seed).video
        budget = torch.full((3,), eps, dtype=torch.float64)
        variable = ball.project(signal, noise(3, scale, seed), budget, None)
        assert (own_norm(ball, variable) <= budget * (1 + 1e-9)).all()
        assert ((signal + variable).amin() >= -1e-12) & ((signal + variable).amax() <= 1 + 1e-12)
        again = ball.project(signal, variable, budget, None)
        assert torch.allclose(again, variable, atol=1e-12)

    @few
    @given(seeds, budgets, st.sampled_from(BALLS))
    def test_what_is_inside_is_not_moved(self, seed: int, eps: float, ball: NormBall) -> None:
        signal = torch.full((3, *SMALL), 0.5, dtype=torch.float64)
        start = noise(3, 1.0, seed)
        inside = start * per_clip(0.99 * min(eps, 0.4) / own_norm(ball, start), start)
        inside = inside.clamp(-0.5, 0.5)
        assert torch.allclose(ball.project(signal, inside, torch.full((3,), eps, dtype=torch.float64), None), inside)

    @few
    @given(seeds, scales, budgets)
    def test_l2_moves_no_farther_than_needed(self, seed: int, scale: float, eps: float) -> None:
        """The nearest point of an L2 ball is the scaled one."""
        signal = torch.full((2, *SMALL), 0.5, dtype=torch.float64)
        z = noise(2, scale, seed)
        eps = min(eps, 0.4)
        norm = own_norm(L2(1.0), z)
        nearest = z * per_clip(torch.clamp(eps / norm, max=1.0), z)
        found = L2(1.0, stored=False).project(signal, z, torch.full((2,), eps, dtype=torch.float64), None)
        assert torch.allclose(found, nearest, atol=1e-9)

    @few
    @given(seeds, scales, budgets)
    def test_l21_moves_no_farther_than_needed(self, seed: int, scale: float, eps: float) -> None:
        """The nearest point shrinks every frame's size by one threshold, found here by bisection."""
        signal = torch.full((2, *SMALL), 0.5, dtype=torch.float64)
        eps = min(eps, 0.05)
        z = noise(2, scale, seed) * torch.tensor([1.0, 0.1, 2.0], dtype=torch.float64).view(1, 1, 3, 1, 1)
        sizes = frame_rms(z)
        low, high = torch.zeros(2, dtype=torch.float64), sizes.amax(1)
        for _ in range(200):
            middle = (low + high) / 2
            too_much = (sizes - middle[:, None]).clamp_min(0).sum(1) > eps
            low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
        high = torch.where(sizes.sum(1) <= eps, torch.zeros_like(high), high)
        kept = (sizes - high[:, None]).clamp_min(0) / sizes
        nearest = z * kept[:, None, :, None, None]
        found = L21(0.1, stored=False).project(signal, z, torch.full((2,), eps, dtype=torch.float64), None)
        assert torch.allclose(found, nearest.clamp(-0.5, 0.5), atol=1e-9)

    @few
    @given(seeds, st.sampled_from(BALLS))
    def test_a_budget_per_clip_and_zero_means_zero(self, seed: int, ball: NormBall) -> None:
        signal = clips(3, shape=SMALL, seed=seed).video
        budget = torch.tensor([0.0, 0.01, 0.2], dtype=torch.float64)
        variable = ball.project(signal, noise(3, 1.0, seed), budget, None)
        assert (variable[0] == 0).all()
        assert torch.allclose(own_norm(ball, variable)[1:], budget[1:], rtol=1e-6) or isinstance(ball, L21)

    @pytest.mark.parametrize("ball", BALLS, ids=short)
    def test_clips_do_not_mix(self, ball: NormBall) -> None:
        signal, z = clips(4, shape=SMALL, low=0, high=256).video, noise(4, 1.0, 3)
        budget = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        together = ball.project(signal, z, budget, None)
        for i in range(4):
            alone = ball.project(signal[i : i + 1], z[i : i + 1], budget[i : i + 1], None)
            assert torch.equal(alone[0], together[i])


class TestSteepest:
    @pytest.mark.parametrize("ball", [*BALLS, FlowField(1.0)], ids=short)
    @pytest.mark.parametrize("parametrisation", ["dense", "frame_colour"])
    def test_has_norm_one_and_no_direction_rises_faster(self, ball: Part, parametrisation: str) -> None:
        """In the norm of the pixels, whatever the parametrisation: a step of eps then moves by eps."""
        if parametrisation == "frame_colour":
            if not isinstance(ball, NormBall):
                pytest.skip("a flow has no colour")
            ball = type(ball)(ball.eps, parametrisation="frame_colour", stored=False)
        signal = torch.full((3, *SMALL), 0.5, dtype=torch.float64)
        gradient = noise(3, 1.0, 5, tuple(ball.zeros(signal).shape[1:]))
        direction = ball.steepest(gradient, signal, None)

        def norm(variable: Tensor) -> Tensor:
            return own_norm(ball, variable if isinstance(ball, FlowField) else variable.expand_as(signal))

        assert torch.allclose(norm(direction), torch.ones(3, dtype=torch.float64))
        rise = (gradient * direction).flatten(1).sum(1)
        for seed in range(200):
            other = noise(3, 1.0, 100 + seed, tuple(gradient.shape[1:]))
            if seed % 2:
                other = gradient + 0.3 * other
            other = other / per_clip(norm(other), other)
            assert ((gradient * other).flatten(1).sum(1) <= rise + 1e-9).all()

    @pytest.mark.parametrize("ball", [*BALLS, FlowField(1.0)], ids=short)
    def test_zero_gradient_zero_direction(self, ball: Part) -> None:
        gradient = noise(3, 1.0, 5)
        gradient[1] = 0
        direction = ball.steepest(gradient, gradient, None)
        assert (direction[1] == 0).all()
        assert direction.isfinite().all()

    @pytest.mark.parametrize("exponent", [-40, -35, -30, -25, -22, -20, -15, 15, 20, 30])
    @pytest.mark.parametrize("ball", BALLS, ids=short)
    def test_the_gradient_s_scale_does_not_matter_in_float32(self, ball: NormBall, exponent: int) -> None:
        gradient = noise(3, 1.0, 5).float()
        scaled = gradient * 10.0**exponent
        direction = ball.steepest(scaled, scaled, None)
        norm = own_norm(ball, direction.double())
        loose = 1e-2 if exponent <= -38 else 1e-4  # subnormal numbers have few digits
        assert torch.allclose(norm, torch.ones_like(norm), rtol=loose), norm.tolist()
        cosine = torch.cosine_similarity(
            direction.double().flatten(1), ball.steepest(gradient, gradient, None).double().flatten(1), dim=1
        )
        assert (cosine > 1 - loose).all(), cosine.tolist()


class TestRandomStart:
    @pytest.mark.parametrize("support", [None, Frames((1,)), Patch(0.4, (0, 1))], ids=short)
    @pytest.mark.parametrize("parametrisation", ["dense", "frame_colour"])
    @pytest.mark.parametrize("kind", [Linf, L2, L21])
    def test_is_inside_ball_box_and_support(self, kind: type[NormBall], parametrisation: str, support) -> None:
        ball = kind(0.1, stored=False, parametrisation=parametrisation)  # type: ignore[arg-type]
        signal = clips(6, shape=SMALL, low=0, high=256).video
        mask = None if support is None else support.mask(signal, streams(6))
        budget = torch.full((6,), 0.1, dtype=torch.float64)
        variable = ball.random_start(signal, budget, mask, streams(6))
        delta = ball.apply(signal, variable, mask) - signal
        assert (own_norm(ball, delta) <= 0.1 * (1 + 1e-9)).all()
        assert (own_norm(ball, delta) > 1e-4).all()
        if mask is not None:
            assert (delta[(mask == 0).expand_as(delta)] == 0).all()

    @pytest.mark.parametrize("ball", [*BALLS, FlowField(1.0)], ids=short)
    def test_depends_on_the_clip_s_own_stream_alone(self, ball: Part) -> None:
        signal = clips(3, shape=SMALL).video
        budget = torch.full((3,), 0.1, dtype=torch.float64)
        together = ball.random_start(signal, budget, None, streams(3))
        alone = ball.random_start(signal[2:], budget[2:], None, ClipRandom([seed_for(0, 2)]))
        assert torch.equal(together[2:], alone)
        assert not torch.equal(together[0], together[1])

    def test_linf_fills_the_ball(self) -> None:
        signal = torch.full((1, 3, 8, 20, 20), 0.5, dtype=torch.float64)
        start = Linf(0.1, stored=False).random_start(signal, torch.tensor([0.1]), None, streams(1))
        assert abs(float(start.mean())) < 2e-3
        assert abs(float(start.std()) - 0.1 / 3**0.5) < 1e-3


class TestFlow:
    @pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (7, 9), (16, 16), (112, 112), (33, 57)], ids=short)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_zero_flow_is_the_identity_bit_for_bit(self, size: tuple[int, int], dtype: torch.dtype) -> None:
        video = torch.rand(1, 3, 2, *size, dtype=dtype)
        part = FlowField(1.0)
        assert torch.equal(part.apply(video, part.zeros(video), None), video)

    def test_pixels_that_stay_are_bit_equal_beside_pixels_that_move(self) -> None:
        part, video = FlowField(1.0), torch.rand(2, 3, 2, 7, 9)
        flow = part.zeros(video)
        flow[:, 0, :, 3, 4] = 0.5
        moved = part.apply(video, flow, None)
        assert int((moved != video).any(1).sum()) == 4

    def test_pixels_that_stay_still_have_a_gradient(self) -> None:
        part, video = FlowField(1.0), torch.rand(1, 3, 2, 7, 9, dtype=torch.float64)
        flow = part.zeros(video).requires_grad_()
        (gradient,) = torch.autograd.grad(part.apply(video, flow, None).square().sum(), flow)
        assert float((gradient != 0).double().mean()) > 0.6

    @pytest.mark.parametrize(("dx", "dy"), [(1, 0), (-2, 0), (0, 1), (3, -1), (100, 0)])
    def test_whole_displacements_fetch_whole_pixels(self, dx: int, dy: int) -> None:
        video = torch.rand(2, 3, 2, 6, 9, dtype=torch.float64)
        flow = torch.zeros(2, 2, 2, 6, 9, dtype=torch.float64)
        flow[:, 0], flow[:, 1] = dx, dy
        rows = (torch.arange(6) + dy).clamp(0, 5)
        columns = (torch.arange(9) + dx).clamp(0, 8)
        assert torch.allclose(warp(video, flow), video[..., rows, :][..., columns], atol=1e-12)

    def test_fractions_interpolate_linearly_on_a_ramp(self) -> None:
        y, x = torch.meshgrid(torch.arange(6, dtype=torch.float64), torch.arange(9, dtype=torch.float64), indexing="ij")
        ramp = (0.1 + 0.02 * x + 0.03 * y).expand(1, 3, 2, 6, 9).contiguous()
        flow = torch.rand(1, 2, 2, 6, 9, dtype=torch.float64) * 1.8 - 0.9
        wanted = 0.1 + 0.02 * (x + flow[:, 0]).clamp(0, 8) + 0.03 * (y + flow[:, 1]).clamp(0, 5)
        assert torch.allclose(warp(ramp, flow), wanted[:, None].expand_as(ramp), atol=1e-12)

    def test_each_frame_has_its_own_flow(self) -> None:
        video = torch.rand(1, 1, 3, 4, 4, dtype=torch.float64)
        flow = torch.zeros(1, 2, 3, 4, 4, dtype=torch.float64)
        flow[:, 0, 1] = 1
        moved = warp(video, flow)
        assert torch.allclose(moved[:, :, [0, 2]], video[:, :, [0, 2]], atol=1e-12)
        assert torch.allclose(moved[:, :, 1, :, :-1], video[:, :, 1, :, 1:], atol=1e-12)

    def test_masked_frames_are_bit_equal(self) -> None:
        part = FlowField(2.0, support=Frames((1,)))
        video = torch.rand(2, 3, 3, 5, 7)
        mask = part.support.mask(video, streams(2))
        flow = torch.full((2, 2, 3, 5, 7), 1.3)
        moved = part.apply(video, flow, mask)
        assert torch.equal(moved[:, :, [0, 2]], video[:, :, [0, 2]])
        assert not torch.equal(moved[:, :, 1], video[:, :, 1])

    def test_the_variable_is_bounded_per_axis(self) -> None:
        part = FlowField(1.5)
        flow = part.project(
            torch.rand(2, 3, 2, 4, 4), torch.full((2, 2, 2, 4, 4), -9.0), torch.tensor([1.5, 0.0]), None
        )
        assert (flow[0] == -1.5).all()
        assert (flow[1] == 0).all()


def levels_up(clip: Clip, levels: int) -> Tensor:
    """The video some grey levels brighter, exactly as a decoder would deliver it."""
    return ((clip.video * 255).round() + levels) / 255


class TestVerify:
    clip = clips(2, samples=20)
    eps = torch.full((2,), 8 / 255, dtype=torch.float64)

    def test_passes_what_is_lawful(self) -> None:
        assert self.check(Linf(8 / 255), levels_up(self.clip, 8)).tolist() == [True, True]

    def test_off_the_grid(self) -> None:
        changed = self.clip.video.clone()
        changed[1, 0, 0, 0, 0] += 0.4 / 255
        assert self.check(Linf(8 / 255), changed).tolist() == [True, False]
        assert self.check(Linf(8 / 255, stored=False), changed).tolist() == [True, True]

    @pytest.mark.parametrize("value", [-1 / 255, 256 / 255, float("nan"), float("inf")])
    @pytest.mark.parametrize("stored", [True, False])
    def test_out_of_the_box(self, value: float, stored: bool) -> None:
        changed = self.clip.video.clone()
        changed[0, 0, 0, 0, 0] = value
        assert not self.check(Linf(1.0, stored=stored), changed, eps=1.0)[0]

    def test_one_level_too_far(self) -> None:
        changed = self.clip.video.clone()
        changed[1, 0, 0, 0, 0] = levels_up(self.clip, 9)[1, 0, 0, 0, 0]
        assert self.check(Linf(8 / 255), changed).tolist() == [True, False]

    def test_l2_and_l21_one_level_too_far(self) -> None:
        for ball in (L2(10 / 255), L21(10 / 255)):
            changed = self.clip.video.clone()
            if isinstance(ball, L2):
                changed[1, 0, 0, 0, 0] = levels_up(self.clip, 11)[1, 0, 0, 0, 0]
            else:
                changed[1, :, 2] = levels_up(self.clip, 11)[1, :, 2]
            assert self.check(ball, changed, eps=10 / 255).tolist() == [True, False]

    def test_out_of_the_support(self) -> None:
        support = Frames((0,))
        changed = self.clip.video.clone()
        changed[0, :, 0] = levels_up(self.clip, 1)[0, :, 0]
        changed[1, 0, 1, 0, 0] = levels_up(self.clip, 1)[1, 0, 1, 0, 0]
        mask = support.mask(changed, streams(2))
        verdict = Linf(8 / 255, support=support).verify(
            self.clip, self.clip.with_signal("video", changed), [mask], [self.eps]
        )
        assert verdict.tolist() == [True, False]

    def test_a_frozen_modality_that_changed(self) -> None:
        assert self.clip.audio is not None
        sound = self.clip.audio.clone()
        sound[0, 0, 3] += 1 / 32768
        verdict = Linf(8 / 255).verify(self.clip, self.clip.with_signal("audio", sound), [None], [self.eps])
        assert verdict.tolist() == [False, True]

    def test_a_sound_track_that_was_lost(self) -> None:
        silent = Clip(self.clip.video, ids=self.clip.ids)
        assert not Linf(8 / 255).verify(self.clip, silent, [None], [self.eps]).any()

    def test_a_budget_of_its_own_per_clip(self) -> None:
        budget = torch.tensor([2 / 255, 4 / 255], dtype=torch.float64)
        changed = self.clip.with_signal("video", levels_up(self.clip, 3))
        assert Linf(8 / 255).verify(self.clip, changed, [None], [budget]).tolist() == [False, True]

    def test_both_parts_of_a_joint_model(self) -> None:
        joint = Joint((Linf(8 / 255), Linf(0.01, modality="audio")))
        sound = self.clip.with_signal("audio", self.clip.signal("audio") + 400 / 32768)
        budgets = [self.eps, torch.full((2,), 0.01, dtype=torch.float64)]
        assert joint.verify(self.clip, self.clip, [None, None], budgets).all()
        assert not joint.verify(self.clip, sound, [None, None], budgets).any()

    def check(self, threat: ThreatModel, video: Tensor, eps: float = 8 / 255) -> Tensor:
        budget = torch.full((2,), eps, dtype=torch.float64)
        return threat.verify(self.clip, self.clip.with_signal("video", video), [None], [budget])


@dataclass(frozen=True)
class Case:
    """A part, clean clips on or off the grid, budgets down to zero, and perhaps a mask; small when printed."""

    kind: type[Part]
    colour: bool
    dtype: torch.dtype
    seed: int
    on_grid: bool
    top: float
    support: Frames | Patch | None

    def build(self) -> tuple[Part, Clip, Tensor, Tensor, Tensor | None]:
        part: Part = self.kind(0.5)
        if self.colour and self.kind is not FlowField:
            part = self.kind(0.5, parametrisation="frame_colour")  # type: ignore[call-arg]
        clip = clips(4, shape=SMALL, low=0, high=256, seed=self.seed, dtype=self.dtype)
        if not self.on_grid:
            random = torch.Generator().manual_seed(self.seed)
            shift = 0.4 / 255 * torch.rand(clip.video.shape, generator=random, dtype=self.dtype)
            clip = Clip((clip.video + shift).clamp(0, 1))
        eps = torch.tensor([0.0, 0.4, 0.9, 1.0], dtype=self.dtype) * self.top * (4 if self.kind is L2 else 1)
        mask = None if self.support is None else self.support.mask(clip.video, streams(4))
        return part, clip, part.random_start(clip.video, eps, mask, streams(4, self.seed)), eps, mask


cases = st.builds(
    Case,
    kind=st.sampled_from([Linf, L2, L21, FlowField]),
    colour=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=seeds,
    on_grid=st.booleans(),
    top=st.sampled_from([0.3 / 255, 1 / 255, 2.5 / 255, 8 / 255, 0.3]),
    support=st.sampled_from([None, Frames((1,)), Patch(0.4, (0, 1))]),
)


class TestStored:
    @settings(max_examples=200)
    @given(cases)
    def test_rounding_never_leaves_the_threat_model(self, case: Case) -> None:
        part, clip, variable, eps, mask = case.build()
        stored = part.store(clip, [variable], [mask], [eps])
        lawful = part.verify(clip, stored, [mask], [eps]).tolist()
        assert lawful == [True] * 4
        # and by hand: on the grid or untouched, inside box, ball and mask
        untouched = stored.video == clip.video
        levels = stored.video.double() * 255
        off_grid = int((~untouched & ((levels - levels.round()).abs() > 1e-3)).sum())
        assert off_grid == 0
        least, most = (float(v) for v in stored.video.aminmax())
        assert least >= 0
        assert most <= 1
        if isinstance(part, NormBall):
            delta = stored.video.double() - clip.video.double()
            over = (own_norm(part, delta) - eps.double() * (1 + 2e-5)).tolist()
            assert max(over) <= (1e-5 if isinstance(part, Linf) else 1e-12)
        if mask is not None:
            outside = int((~untouched & (mask == 0)).sum())
            assert outside == 0

    @settings(max_examples=60)
    @given(cases)
    def test_no_change_stays_no_change(self, case: Case) -> None:
        """Also off the grid: what the adversary did not touch is not rounded on its behalf."""
        part, clip, _, eps, mask = case.build()
        stored = part.store(clip, [part.zeros(clip.video)], [mask], [eps])
        changed = int((stored.video != clip.video).sum())
        assert changed == 0

    @pytest.mark.parametrize("kind", [Linf, L2, L21, FlowField])
    @pytest.mark.parametrize("seed", range(4))
    def test_neighbours_in_the_batch_do_not_change_how_a_clip_is_rounded(self, kind: type[Part], seed: int) -> None:
        """Clips whose rounding fits at once, beside clips whose rounding has to be searched for."""
        clip = clips(6, shape=SMALL, seed=seed)
        part = kind(0.5)
        eps = torch.tensor([0.001, 0.004, 0.02, 0.1, 0.3, 0.5], dtype=torch.float64) * (3 if kind is L2 else 1)
        variable = part.random_start(clip.video, eps, None, streams(6, seed))
        together = part.store(clip, [variable], [None], [eps])
        for i in range(6):
            alone = part.store(clip.select([i]), [variable[i : i + 1]], [None], [eps[i : i + 1]])
            differing = int((alone.video[0] != together.video[i]).sum())
            assert differing == 0

    @pytest.mark.parametrize("eps", [1 / 32768, 0.006, 0.012])
    @pytest.mark.parametrize("kind", [Linf, L2])
    def test_sound(self, kind: type[NormBall], eps: float) -> None:
        clip = clips(3, samples=200)
        sound = clip.signal("audio").clone()
        sound[0, 0, :4] = torch.tensor([1.0, -1.0, 32767 / 32768, -32767 / 32768])
        clip = clip.with_signal("audio", sound)
        part = kind(eps, modality="audio")
        budget = torch.full((3,), eps, dtype=torch.float64)
        variable = part.random_start(sound, budget, None, streams(3))
        stored = part.store(clip, [variable * 100], [None], [budget])
        assert part.verify(clip, stored, [None], [budget]).all()
        changed = stored.signal("audio")
        assert ((changed <= 32767 / 32768) | (changed == sound)).all()
        assert torch.equal((changed * 32768).round(), changed * 32768)

    def test_two_parts_on_one_modality_are_applied_in_order(self) -> None:
        clip = clips(2)
        joint = Joint((FlowField(2.0), Linf(4 / 255)))
        budgets = [torch.full((2,), 2.0, dtype=torch.float64), torch.full((2,), 4 / 255, dtype=torch.float64)]
        flow = torch.zeros(2, 2, *clip.video.shape[2:], dtype=torch.float64)
        flow[:, 0] = 1
        stored = joint.store(clip, [flow, torch.full_like(clip.video, 4 / 255)], [None, None], budgets)
        assert torch.allclose(stored.video[..., :-1], clip.video[..., 1:] + 4 / 255, atol=1e-9)
        assert joint.verify(clip, stored, [None, None], budgets).all()


class TestInputs:
    @pytest.mark.parametrize("eps", [0.0, -1.0, float("nan")])
    @pytest.mark.parametrize("kind", [Linf, L2, L21, FlowField])
    def test_a_budget_is_positive(self, kind: type[Part], eps: float) -> None:
        with pytest.raises(InputError, match="eps"):
            kind(eps)

    @pytest.mark.parametrize("kind", [L2, L21, FlowField])
    def test_a_budget_is_finite(self, kind: type[Part]) -> None:
        with pytest.raises(InputError, match="eps"):
            kind(float("inf"))

    def test_linf_refuses_grey_levels_and_budgets_below_the_grid(self) -> None:
        with pytest.raises(InputError, match="8/255"):
            Linf(8)
        with pytest.raises(InputError, match="1/255"):
            Linf(0.5 / 255)
        assert Linf(1 / 255).eps == 1 / 255
        assert Linf(0.5 / 255, stored=False).eps == 0.5 / 255
        assert Linf(1 / 32768, modality="audio").eps == 1 / 32768

    def test_what_sound_has_not(self) -> None:
        with pytest.raises(InputError):
            L21(0.1, modality="audio")
        with pytest.raises(InputError):
            FlowField(1.0, modality="audio")
        with pytest.raises(InputError):
            Linf(0.01, modality="audio", parametrisation="frame_colour")
        with pytest.raises(InputError):
            Linf(0.01, modality="audio", support=Frames((0,)))
        with pytest.raises(InputError):
            Joint(())

    def test_sound_is_missing(self) -> None:
        clip = clips(2)
        with pytest.raises(InputError, match="sound"):
            Linf(0.01, modality="audio").perturb(clip, [clip.video], [None])

    def test_with_budget(self) -> None:
        ball = Linf(8 / 255, support=Patch(0.2))
        assert with_budget(ball, 4 / 255) == Linf(4 / 255, support=Patch(0.2))
        with pytest.raises(InputError):
            with_budget(Joint((ball,)), 4 / 255)


def test_perturb_is_differentiable_and_adds_what_it_says() -> None:
    clip = clips(2)
    variable = torch.zeros_like(clip.video, requires_grad=True)
    mask = Border(0.5).mask(clip.video, streams(2))
    perturbed = Linf(8 / 255).perturb(clip, [variable], [mask])
    (gradient,) = torch.autograd.grad(perturbed.video.sum(), variable)
    assert torch.equal(gradient, mask.expand_as(gradient))


def test_black_and_white_keep_their_gradient() -> None:
    values = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    inside = into_box(values)
    inside.sum().backward()
    assert inside.tolist() == [0, 0, 0.5, 1, 1]
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 0]
