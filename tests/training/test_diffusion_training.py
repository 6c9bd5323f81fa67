"""Training of video diffusion networks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from driving import a_step, network

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.video_diffusion import VideoDiffusion
from robustvideo.purification import load_defense
from robustvideo.training import load_recipe, load_training, train
from robustvideo.training.recipe import make_recipe


def behind(width: int = 8) -> Model:
    torch.manual_seed(0)
    return VideoDiffusion(width=width).apply(network()).train()


def test_it_learns_to_tell_noise_from_a_clip_and_leaves_the_classifier_alone() -> None:
    model = behind()
    before = copy.deepcopy(model.state_dict())
    random = torch.Generator().manual_seed(0)
    clip = Clip(torch.rand(8, 3, 1, 1, 1, generator=random).expand(-1, -1, 4, 8, 8).contiguous())
    method = load_training("diffusion(highest=400)")
    (part,) = method.parts(model, torch.nn.ModuleDict()).values()
    optimizer = torch.optim.Adam(part.parameters, 0.01)
    seen = []
    for seed in range(60):
        (loss,) = method.losses(a_step(model, clip=clip, labels=torch.zeros(8, dtype=torch.long), seed=seed))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        seen.append(loss.value.item())
    assert seen[0] > 0.9
    assert sum(seen[-10:]) / 10 < 0.65
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor) == name.startswith("undefended."), name


def test_a_clip_s_noise_is_its_own_whatever_its_batch() -> None:
    model, method = behind(), load_training("diffusion")
    clip = Clip(torch.rand(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    losses = []
    for part in (clip, clip.select([0]), clip.select([1])):
        (loss,) = method.losses(a_step(model, clip=part, labels=torch.zeros(len(part), dtype=torch.long)))
        losses.append(loss.value)
    assert torch.allclose(losses[0], (losses[1] + losses[2]) / 2, atol=1e-6)
    (other,) = method.losses(a_step(model, clip=clip, labels=torch.zeros(2, dtype=torch.long), seed=1))
    assert not torch.allclose(losses[0], other.value)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(InputError, match="video_diffusion"):
        list(load_training("diffusion").losses(a_step(network())))
    with pytest.raises(InputError, match="1 to 1000"):
        load_training("diffusion(highest=1001)")


def test_what_the_trainer_writes_is_what_a_purifier_takes(tmp_path: Path) -> None:
    recipe = load_recipe(Path("embedded/diffusion"))
    content = recipe.model_dump()
    content |= {"model": "r3d_small?with=video_diffusion(width=4)", "epochs": 1, "batch_size": 4}
    content["data"] = {part: f"embedded:kinetic?split={part}&clips=8" for part in ("train", "val")}
    outcome = train(make_recipe(content, "tiny"), tmp_path / "run", quiet=True)
    purifier = load_defense(f"diffpure_ddim(model={str(outcome.weights)!r})")
    clip = Clip(torch.rand(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0)))
    (answer,) = purifier.purify(clip, [0])
    assert answer.video.shape == clip.video.shape
