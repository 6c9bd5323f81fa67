"""Frame saliency: the order is the gradient's, and no frame more than needed is changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import SHAPE, ConvNet, Linear, Smooth, Watched, alternating, clips, problem_for, weights

from robustvideo.attacks.fgsm import IFGSM
from robustvideo.attacks.frame_saliency import FrameSaliency, saliency
from robustvideo.clip import Clip
from robustvideo.distances import frames_touched
from robustvideo.errors import InputError
from robustvideo.threat import L2, Linf

EPS = 8 / 255


def uneven(factors: tuple[float, ...] = (1.0, 4.0, 0.3, 2.0)) -> Tensor:
    """Weights whose frames differ in size."""
    return weights() * torch.tensor(factors, dtype=torch.float64)[:, None, None]


def model_and_clips(batch: int = 8) -> tuple[Linear, Clip, Tensor]:
    """Clips of one class, of which each needs another number of frames."""
    clip = clips(batch)
    model = Linear(uneven())
    gain = EPS * model.weight.detach().abs().sum((0, 2, 3)).sort(descending=True).values.cumsum(0)
    needed = torch.linspace(0.2, 1.05, batch, dtype=torch.float64) * gain[-1]
    # put every clip at its own distance from the boundary by shifting its grey level along the weights
    direction = model.weight.detach() / model.weight.detach().square().sum()
    video = clip.video - (model.value(clip).detach() + needed).view(-1, 1, 1, 1, 1) * direction
    return model, Clip(video), torch.zeros(batch, dtype=torch.long)


def frames_needed(model: Linear, clip: Clip) -> list[int]:
    gain = EPS * model.weight.detach().abs().sum((0, 2, 3)).sort(descending=True).values.cumsum(0)
    missing = -model.value(clip).detach()
    return [int((gain <= m).sum()) + 1 for m in missing.tolist()]


def test_saliency_of_a_linear_model_is_the_size_of_its_weights() -> None:
    clip, labels = clips(3), alternating(3)
    model = Linear(uneven())
    found, seen = saliency(problem_for(model, clip, labels, Linf(EPS)))
    sizes = model.weight.detach().abs().mean((0, 2, 3))
    assert torch.allclose(found / found.amax(1, keepdim=True), (sizes / sizes.max()).expand(3, -1))
    assert (seen.forwards, seen.backwards) == (1, 1)
    assert found.argsort(dim=1, descending=True).tolist() == [[1, 3, 0, 2]] * 3


@pytest.mark.parametrize("mode", ["iterative", "refresh"])
def test_exactly_the_smallest_prefix_of_frames_is_changed(mode: str) -> None:
    model, clip, labels = model_and_clips()
    attack = FrameSaliency(Linf(EPS, stored=False), mode=mode, steps=20)
    result = attack(model, clip, labels)
    needed = frames_needed(model, clip)
    assert result.success.tolist() == [n <= 4 for n in needed]
    assert frames_touched(result.clip.video, clip.video).tolist() == [min(n, 4) for n in needed]
    assert {1, 2, 3} <= set(needed)
    order = [1, 3, 0, 2]
    for row, count in enumerate(needed):
        for frame in order[count:]:
            assert torch.equal(result.clip.video[row, :, frame], clip.video[row, :, frame])


@pytest.mark.parametrize("mode", ["iterative", "refresh"])
def test_equal_frames_are_taken_by_number(mode: str) -> None:
    weight = weights((3, 1, 6, 8)).expand(SHAPE).contiguous()
    clip = Clip(clips(1).video[:, :, :1].expand(1, *SHAPE).contiguous())
    model = Linear(weight)
    model.bias.data = -model.value(clip).detach()[0] - 1.5 * EPS * weight[:, 0].abs().sum()
    result = FrameSaliency(eps=EPS, mode=mode, steps=20)(model, clip, torch.zeros(1, dtype=torch.long))
    assert (result.clip.video != clip.video).flatten(3).any(3).any(1)[0].tolist() == [True, True, False, False]


@pytest.mark.parametrize("mode", ["iterative", "refresh"])
def test_a_network_on_stored_clips(mode: str) -> None:
    """What is returned was judged as it is, and often fewer than all frames do."""
    clip, model = clips(6), ConvNet(seed=1).double().eval()
    labels = model(clip).argmax(1)
    result = FrameSaliency(eps=32 / 255, mode=mode, steps=10)(model, clip, labels)
    assert torch.equal(model(result.clip).argmax(1) != labels, result.success)
    used = frames_touched(result.clip.video, clip.video)
    assert result.success.any()
    assert used[result.success].min() < 4
    assert used[~result.success].tolist() == [4] * int((~result.success).sum())


def test_one_shot_is_iterated_ascent_on_all_frames() -> None:
    clip, labels = clips(3), alternating(3)
    one_shot = FrameSaliency(eps=EPS, mode="one_shot", steps=7)(Smooth(), clip, labels)
    plain = IFGSM(eps=EPS, steps=7, step_size=EPS / 15)(Smooth(), clip, labels)
    assert torch.equal(one_shot.clip.video, plain.clip.video)
    assert torch.equal(one_shot.forward_passes, plain.forward_passes)


@pytest.mark.parametrize("mode", ["iterative", "refresh", "one_shot"])
def test_passes_are_counted(mode: str) -> None:
    model, clip, labels = model_and_clips()
    watched = Watched(model)
    result = FrameSaliency(Linf(EPS, stored=False), mode=mode, steps=5, step_size=EPS / 2)(watched, clip, labels)
    assert result.forward_passes.tolist() == [watched.tally.forwards(name) for name in clip.ids]
    if mode == "iterative":  # 1 untouched + 1 saliency + 5 steps + 1 verdict or 2, + T - 1 pasted
        assert result.forward_passes.max() <= 1 + 1 + 5 + 2 + 3
        assert result.backward_passes.tolist() == [6] * len(clip)


@pytest.mark.parametrize("mode", ["iterative", "refresh"])
def test_a_clip_that_is_wrong_already_keeps_every_frame(mode: str) -> None:
    clip, model = clips(2), Linear(weights())
    wrong = 1 - model(clip).argmax(1)
    result = FrameSaliency(eps=EPS, mode=mode, steps=3)(model, clip, wrong)
    assert torch.equal(result.clip.video, clip.video)
    assert result.first_success_step.tolist() == [0, 0]
    assert result.forward_passes.tolist() == [1, 1]


def test_iterative_in_other_balls_stays_in_them() -> None:
    model, clip, labels = model_and_clips()
    result = FrameSaliency(L2(1.0, stored=False), steps=20)(model, clip, labels)
    assert ((result.clip.video - clip.video).flatten(1).norm(dim=1) <= 1.0 + 1e-5).all()
    assert frames_touched(result.clip.video, clip.video)[result.success].min() < 4


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'iterative'"):
        FrameSaliency(mode="iterativ")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="linf or flow"):
        FrameSaliency(norm="l2", eps=1.0, mode="refresh")
    with pytest.raises(InputError, match="on the video"):
        FrameSaliency(Linf(0.1, modality="audio"))


def test_refresh_does_not_depend_on_the_batch() -> None:
    """Clips of one batch need different frames, and different numbers of them."""
    clip, model = clips(5), ConvNet(seed=1).double().eval()
    labels = model(clip).argmax(1)
    attack = FrameSaliency(eps=24 / 255, mode="refresh", steps=4, step_size=8 / 255)
    together = attack(model, clip, labels)
    for row in range(5):
        alone = attack(model, clip.select([row]), labels[row : row + 1])
        assert torch.equal(alone.clip.video[0], together.clip.video[row])
        assert alone.forward_passes[0] == together.forward_passes[row]
        assert alone.first_success_step[0] == together.first_success_step[row]
