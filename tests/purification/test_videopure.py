"""VideoPure on models whose noise is known: eqs. 11 to 16, Algorithm 1, and every switch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusing import SCHEDULE, SpaceToDepth, a_video, known, nothing, rugged
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.purification.ddim_inversion import DDIMInversion
from robustvideo.purification.diffusion_model import Diffusion
from robustvideo.purification.diffusion_purifier import Passage
from robustvideo.purification.diffusion_steps import predicted_clean
from robustvideo.purification.guidance import Warp, temporal_loss
from robustvideo.purification.videopure import VideoPure

STEPS = SCHEDULE.steps(50, 6)
KAPPA = [0.278, 0.281, 0.288, 0.306, 0.421, 0.496]  # method sheet, section 23: from t = 101 to t = 1
TAU = [0.0278, 0.0281, 0.0288, 0.0306, 0.0421, 0.0496]


def passed(purifier: VideoPure, clip: Clip, network: nn.ModuleDict) -> Passage:
    diffusion = network["diffusion"]
    assert isinstance(diffusion, Diffusion)
    with torch.no_grad():
        return purifier.passage(diffusion, clip, [0] * len(clip), network, recorded=True)


def unguided(clip: Clip, network: nn.ModuleDict, **options: Any) -> tuple[Tensor, ...]:
    return passed(VideoPure(strength=0, **options), clip, network).candidates


def per_frame(state: Tensor, t: int) -> Tensor:
    """The noise of frame i is the constant i."""
    return torch.arange(float(state.shape[2]), dtype=state.dtype)[:, None, None].expand_as(state)


def test_without_guidance_and_noise_every_vote_is_the_clip() -> None:
    clip = a_video()
    votes = VideoPure(strength=0).purify(clip, [0, 0], known(nothing))
    assert len(votes) == 7
    centred = [2 * vote.video - 1 for vote in votes]
    source = 2 * clip.video - 1
    for vote in centred[:-1]:
        assert torch.allclose(vote, source * SCHEDULE.levels()[0] ** -0.5, atol=1e-12)
    assert SCHEDULE.levels()[0] ** -0.5 == pytest.approx(1.000425, abs=1e-6)
    assert torch.allclose(centred[-1], source, atol=1e-12)


def test_the_end_is_off_by_the_difference_to_the_first_frame_s_noise() -> None:
    clip = a_video()
    end = unguided(clip, known(per_frame))[-1]
    expected = -0.316885 * torch.arange(4.0, dtype=torch.float64)[:, None, None]
    assert torch.allclose(end - (2 * clip.video - 1), expected.expand_as(end), atol=1e-6)
    other = unguided(clip, known(per_frame), reference=-1)[-1]
    assert torch.allclose((other - (2 * clip.video - 1))[:, :, -1], torch.zeros(1, dtype=torch.float64), atol=1e-12)


def test_spatial_guidance_extrapolates_by_the_published_factors() -> None:
    clip = a_video()
    source = 2 * clip.video - 1
    guided = passed(VideoPure(temporal=0), clip, known(rugged)).candidates
    for kappa, vote, clean in zip(KAPPA, guided, unguided(clip, known(rugged)), strict=False):
        found = ((vote - clean) / (clean - source)).median()
        assert found == pytest.approx(kappa, abs=6e-4)
        assert torch.allclose(vote, clean + found * (clean - source), atol=1e-6)
        assert ((vote - source).norm() > (clean - source).norm()).all()


def test_temporal_guidance_is_a_sign_step_of_the_published_size() -> None:
    clip = a_video()
    guided = passed(VideoPure(spatial=0, flow=None), clip, known(rugged)).candidates
    for tau, vote, clean in zip(TAU, guided, unguided(clip, known(rugged)), strict=False):
        signs = torch.zeros_like(clean)
        signs[:, :, :-1] = (clean[:, :, :-1] - clean[:, :, 1:]).sign()
        assert torch.allclose(vote, clean - tau * signs, atol=6e-5)


def test_temporal_guidance_lowers_the_temporal_loss() -> None:
    clip = a_video(height=24, width=24)
    purifier = VideoPure(spatial=0, flow=None, sides="two_sided", strength=0.5)
    warp = Warp.along(torch.zeros(2, 2, 3, 24, 24, dtype=torch.float64))
    for vote, clean in zip(
        passed(purifier, clip, known(rugged)).candidates, unguided(clip, known(rugged)), strict=True
    ):
        assert (temporal_loss(vote, warp) < temporal_loss(clean, warp)).all()


def test_soft_signs_change_a_gradient_and_no_answer() -> None:
    def seen(softness: float) -> tuple[Tensor, Tensor]:
        clip = a_video(height=24, width=24)
        clip.video.requires_grad_()
        votes = VideoPure(spatial=0, flow=None, gradient="exact", softness=softness).purify(clip, [0, 0], known(rugged))
        answers = torch.stack([vote.video for vote in votes])
        weights = torch.linspace(0, 1, answers.numel(), dtype=answers.dtype).view_as(answers)
        return answers.detach(), torch.autograd.grad((answers * weights).sum(), clip.video)[0]

    (hard, flat), (soft, steep) = seen(0.0), seen(0.05)
    assert torch.equal(hard, soft)
    assert not torch.allclose(flat, steep)


def test_the_last_vote_is_guided_where_it_is() -> None:
    clip = a_video()
    source = 2 * clip.video - 1
    end, guided = unguided(clip, known(rugged))[-1], passed(VideoPure(temporal=0), clip, known(rugged)).candidates[-1]
    assert torch.allclose(guided, end + 4 * 7.760243 * 800 * 2 / 100352 * (end - source), atol=1e-6)


def test_guidance_leaves_the_way_down_alone_unless_told_otherwise() -> None:
    clip, network = a_video(), known(rugged)
    plain = passed(VideoPure(strength=0), clip, network).states
    assert all(torch.equal(a, b) for a, b in zip(passed(VideoPure(), clip, network).states, plain, strict=True))
    altered = passed(VideoPure(guided_way=True), clip, network).states
    assert not torch.allclose(altered[0], plain[0])


def test_switched_off_it_is_ddim_inversion() -> None:
    clip, network = a_video(), known(rugged, SpaceToDepth())
    (bare,) = VideoPure(inversion="plain", temporal=0, spatial=0, candidate=0).purify(clip, [0, 0], network)
    (baseline,) = DDIMInversion().purify(clip, [0, 0], network)
    assert torch.equal(bare.video, baseline.video)
    (temporal,) = VideoPure(temporal=0, spatial=0, candidate=0).purify(clip, [0, 0], network)
    assert not torch.allclose(temporal.video, baseline.video)


def test_a_candidate_is_one_of_the_votes_counted_from_the_end() -> None:
    clip, network = a_video(), known(rugged)
    votes = VideoPure().purify(clip, [0, 0], network)
    for number in range(7):
        (alone,) = VideoPure(candidate=number).purify(clip, [0, 0], network)
        assert torch.equal(alone.video, votes[6 - number].video)


def test_votes_are_the_predictions_from_the_highest_step_down() -> None:
    clip, network = a_video(), known(rugged)
    passage = passed(VideoPure(strength=0), clip, network)
    state = passage.states[0]  # at timestep 81
    expected = predicted_clean(state, rugged(state, 81), STEPS[1].upper)
    assert torch.allclose(passage.candidates[1], expected, atol=1e-12)
    assert len(passage.references) == len(passage.states) == 6
    assert torch.equal(passage.references[-1], 2 * clip.video - 1)


def test_a_constant_weight_is_the_mean_one() -> None:
    clip, network = a_video(), known(rugged)
    source = 2 * clip.video - 1
    mean = sum(abs(step.log_variance) for step in STEPS) / 6
    guided = passed(VideoPure(temporal=0, weight="constant"), clip, network).candidates
    for step, vote, clean in zip(STEPS, guided, unguided(clip, network), strict=False):
        factor = 6400 * mean / (100352 * step.upper)
        assert torch.allclose(vote, clean + factor * (clean - source), atol=1e-9)


def test_a_scene_that_moves_along_the_flow_needs_no_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    """By 8 pixels, one cell of the latents, to the right per frame; at the border the warp fetches zeros."""

    def flow(video: Tensor, source: str | None, network: nn.Module | None) -> Tensor:
        found = torch.zeros(2, 2, 3, *video.shape[3:], dtype=video.dtype)
        found[:, 0] = 8
        return found

    scene = a_video(2, 1, 32, 32).video[:, :, 0]
    clip = Clip(torch.stack([scene.roll(8 * t, 3) for t in range(4)], 2))
    network = known(nothing, SpaceToDepth())
    free = unguided(clip, network)
    monkeypatch.setattr("robustvideo.purification.videopure.optical_flow", flow)
    for border, still in (("zeros", 3), ("mask", 4)):
        guided = passed(VideoPure(spatial=0, border=border), clip, network).candidates  # type: ignore[arg-type]
        for vote, clean in zip(guided, free, strict=True):
            assert torch.allclose(vote[..., :still], clean[..., :still], atol=1e-9)
            assert torch.allclose(vote[..., -1], clean[..., -1], atol=1e-9) == (border == "mask")
    monkeypatch.undo()
    still_guided = passed(VideoPure(spatial=0, flow=None), clip, network).candidates
    assert not torch.allclose(still_guided[0][..., :3], free[0][..., :3], atol=1e-3)


def test_fewer_steps_are_a_surrogate_that_keeps_the_ends() -> None:
    network = known(rugged)
    diffusion = network["diffusion"]
    few = VideoPure(substeps=2)
    assert len(few.purify(a_video(), [0, 0], network)) == 3
    assert isinstance(diffusion, Diffusion)
    assert diffusion.network.asked == [1, 101, 101, 1]
    stand_in = VideoPure(gradient="surrogate", strength=3).stand_in()
    assert stand_in == VideoPure(substeps=3, strength=3)
    assert VideoPure(gradient="bpda").stand_in() is None


@pytest.mark.parametrize(
    ("candidate", "substeps", "answered"), [(0, None, 0), (1, None, None), (6, None, None), (2, 3, 2), (4, 4, None)]
)
def test_the_surrogate_of_one_prediction_votes_with_all_of_its_own(
    candidate: int, substeps: int | None, answered: int | None
) -> None:
    """Unless the number means the same in both: the end, or in as many steps."""
    purifier = VideoPure(candidate=candidate, substeps=substeps, gradient="surrogate")
    assert purifier.stand_in() == VideoPure(substeps=3, candidate=answered)


def test_without_noise_and_guidance_the_surrogate_is_the_purifier() -> None:
    clip = a_video()
    (full,) = VideoPure(strength=0, candidate=0).purify(clip, [0, 0], known(nothing))
    (few,) = VideoPure(strength=0, candidate=0, substeps=2).purify(clip, [0, 0], known(nothing))
    assert torch.allclose(full.video, few.video, atol=1e-12)


def test_a_clip_is_purified_alone_as_in_a_batch() -> None:
    clip = a_video(3)
    together = VideoPure().purify(clip, [0, 1, 2], known(rugged))
    alone = VideoPure().purify(clip.select([1]), [1], known(rugged))
    for vote, other in zip(together, alone, strict=True):
        assert torch.allclose(vote.video[1:2], other.video, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inversion": "none"}, "Unknown inversion"),
        ({"flow": "farneback"}, "Unknown flow"),
        ({"strength": -4.0}, "at least 0"),
        ({"candidate": 7}, "from 0"),
        ({"steps": 51}, "grid=50"),
        ({"substeps": 7}, "steps=6"),
        ({"precision": "fp8"}, "Unknown precision"),
        ({"votes": 2}, "answers the same"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VideoPure(**options)


def test_a_frame_that_is_not_there_cannot_be_the_reference() -> None:
    with pytest.raises(InputError, match="reference=4"):
        VideoPure(reference=4).purify(a_video(), [0, 0], known(nothing))
