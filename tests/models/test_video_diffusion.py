"""The small video diffusion network, and a classifier behind one pass of it."""

from __future__ import annotations

import copy
from math import sqrt
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toys import ConvNet, clips

from robustvideo.attacks import load_attack
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Purified, classify
from robustvideo.models import load_model
from robustvideo.models.noise_schedule import NoiseSchedule
from robustvideo.models.video_diffusion import BehindDenoiser, VideoDenoiser, VideoDiffusion, reflected


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def denoiser() -> VideoDenoiser:
    torch.manual_seed(0)
    return VideoDenoiser(8).eval()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 24), (5, 8, 40)])
def test_it_takes_any_number_of_frames_and_any_size(denoiser: VideoDenoiser, shape: tuple[int, ...]) -> None:
    assert denoiser(draw(2, 3, *shape), torch.tensor([1, 900])).shape == (2, 3, *shape)


def test_clips_and_their_timesteps_are_apart(denoiser: VideoDenoiser) -> None:
    state, timesteps = draw(3, 3, 4, 16, 16), torch.tensor([5, 500, 90])
    together = denoiser(state, timesteps)
    for i in range(3):
        assert torch.allclose(together[i : i + 1], denoiser(state[i : i + 1], timesteps[i : i + 1]), atol=1e-5)
    assert not torch.allclose(together[1], denoiser(state, torch.tensor([5, 501, 90]))[1], atol=1e-5)


def test_what_one_frame_shows_is_heard_of_in_the_others(denoiser: VideoDenoiser) -> None:
    state = draw(1, 3, 4, 16, 16)
    other = state.clone()
    other[:, :, 0] += 1
    change = (denoiser(state, torch.tensor([50])) - denoiser(other, torch.tensor([50]))).abs()
    assert (change.amax((0, 1, 3, 4)) > 1e-4).all()


def test_framewise_every_frame_is_alone() -> None:
    torch.manual_seed(0)
    denoiser, state = VideoDenoiser(8, framewise=True).eval(), draw(2, 3, 4, 16, 16)
    timesteps = torch.tensor([50, 300])
    whole = denoiser(state, timesteps)
    assert whole.shape == state.shape
    for frame in range(4):
        alone = denoiser(state[:, :, frame : frame + 1], timesteps)
        assert torch.allclose(whole[:, :, frame : frame + 1], alone, atol=1e-5)


@pytest.mark.parametrize("framewise", [False, True])
def test_a_trained_denoiser_is_what_another_training_goes_on_from(framewise: bool, tmp_path: Path) -> None:
    first = VideoDiffusion(width=8, framewise=framewise).apply(ConvNet())
    state = {name: tensor.contiguous() for name, tensor in first.state_dict().items()}
    save_file(state, str(tmp_path / "model.safetensors"))
    again = VideoDiffusion(start=f"trained:{tmp_path}/model.safetensors").apply(ConvNet())
    assert isinstance(again, BehindDenoiser)
    assert again.denoiser.framewise is framewise
    state = first.denoiser.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.denoiser.state_dict().items())


def test_the_timestep_scales_what_is_found() -> None:
    """Without noise in the state, how much is found may depend on the timestep alone."""
    torch.manual_seed(0)
    denoiser = VideoDenoiser(8).eval()
    state = draw(1, 3, 2, 16, 16)
    found = [denoiser(state, torch.tensor([t])) for t in (1, 399)]
    assert (found[0] - found[1]).norm() > 0.02 * found[0].norm()


def test_mirrored_edges() -> None:
    video = torch.arange(5.0).view(1, 1, 1, 1, 5).expand(1, 1, 1, 8, 5)
    assert reflected(video, 8)[0, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert reflected(video[..., :1], 8).shape == (1, 1, 1, 8, 8)
    short = reflected(video[..., :2], 8)
    assert short[0, 0, 0, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    whole = draw(1, 3, 2, 16, 24)
    assert torch.equal(reflected(whole, 8), whole)


class Oracle(nn.Module):
    """Knows the clean video, hence the noise."""

    factor = 8

    def __init__(self, clean: Tensor, level: float):
        super().__init__()
        self.enter = nn.Linear(1, 1)
        self.clean, self.level = clean, level

    def forward(self, state: Tensor, timesteps: Tensor) -> Tensor:
        assert timesteps.tolist() == [301] * len(state)
        return (state - sqrt(self.level) * reflected(self.clean, 8)) / sqrt(1 - self.level)


def test_behind_a_perfect_denoiser_the_model_sees_the_clip() -> None:
    clip = clips(2, shape=(3, 4, 12, 9), dtype=torch.float32)
    oracle = Oracle(2 * clip.video - 1, NoiseSchedule().levels()[301])
    model = BehindDenoiser(oracle, ConvNet(), 301).eval()  # type: ignore[arg-type]
    assert torch.allclose(model.purify(clip).video, clip.video, atol=1e-5)
    assert torch.allclose(classify(model, clip), classify(model.undefended, clip), atol=1e-3)
    assert isinstance(model, Purified)


def test_the_noise_is_that_of_the_clip_s_name() -> None:
    torch.manual_seed(0)
    model = VideoDiffusion(width=4).apply(ConvNet()).eval()
    assert isinstance(model, BehindDenoiser)
    clip = clips(3, shape=(3, 4, 16, 16), dtype=torch.float32)
    together = model.purify(clip)
    alone = model.purify(clip.select([2]))
    assert torch.allclose(together.video[2:], alone.video, atol=1e-5)
    renamed = Clip(alone.video, ids=("other",))
    assert not torch.allclose(model.purify(renamed).video, model.purify(alone).video)


def test_attacks_pass_through_it() -> None:
    torch.manual_seed(0)
    model = VideoDiffusion(width=4, timestep=20).apply(ConvNet()).eval()
    before = copy.deepcopy(model.state_dict())
    clip = clips(2, shape=(3, 4, 16, 16), dtype=torch.float32)
    adversarial = load_attack("pgd(eps=8/255, steps=2)")(model, clip, torch.tensor([0, 1])).clip
    assert (adversarial.video - clip.video).abs().max() > 1 / 255
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_spec_puts_it_in_front() -> None:
    model = load_model("r3d_small?with=video_diffusion(width=4, timestep=101)")
    assert isinstance(model, BehindDenoiser)
    assert (model.timestep, model.denoiser.width) == (101, 4)
    assert model.separate == {"undefended": model.undefended}


@pytest.mark.parametrize("options", [{"width": 0}, {"width": 6}, {"timestep": 1000}, {"timestep": -1}])
def test_what_cannot_be_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="video_diffusion"):
        VideoDiffusion(**options)
