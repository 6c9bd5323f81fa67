"""DiffAttack on toy diffusion purifiers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusing import Tiny, a_video, networks
from torch import Tensor, nn
from toys import ConvNet

from robustvideo.attacks import load_attack
from robustvideo.attacks.diffattack import DiffAttack
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Reconstructing
from robustvideo.purification import Defended, load_defense
from robustvideo.purification.ddim_inversion import DDIMInversion
from robustvideo.purification.diffpure import DiffPureDDIM, DiffPureDDPM
from robustvideo.purification.videopure import VideoPure

LABELS = torch.tensor([0, 1])


class _Toy:
    def network(self) -> nn.Module:
        return networks(Tiny())


class Inversion(_Toy, DDIMInversion):
    pass


class Ddim(_Toy, DiffPureDDIM):
    pass


class Ddpm(_Toy, DiffPureDDPM):
    pass


class Video(_Toy, VideoPure):
    pass


EVERY = [
    Inversion(steps=3),
    Ddim(steps=3),
    Ddpm(steps=3),
    Ddim(steps=3, votes=2),
    Video(steps=3, flow=None, temporal=0),
]
everyone = pytest.mark.parametrize("purifier", EVERY, ids=lambda purifier: type(purifier).__name__)


def defended(purifier: Any) -> Defended:
    return Defended(ConvNet().double(), purifier).eval()


def attacked(attack: str, model: Defended) -> Clip:
    return load_attack(attack)(model, a_video(), LABELS).clip


@everyone
def test_without_the_term_it_is_pgd_on_the_exact_gradient(purifier: Any) -> None:
    options = "eps=8/255, steps=3, early_stop=false"
    model = defended(purifier)
    plain, same = attacked(f"pgd({options})", model), attacked(f"diffattack({options}, deviation=0)", model)
    assert torch.equal(plain.video, same.video)
    assert not torch.equal(plain.video, attacked(f"diffattack({options}, deviation=10)", model).video)


@everyone
def test_the_deviation_s_gradient_is_that_of_the_states_alone(purifier: Any) -> None:
    """The way out is a reference, not a variable: with it held where it was, finite differences agree."""
    model = defended(purifier)
    clip = a_video()
    video = clip.video.requires_grad_()
    (found,) = torch.autograd.grad(model.reconstruct(Clip(video, ids=clip.ids))[1].sum(), video)
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(video.shape, generator=random, dtype=torch.float64)
    seeds = purifier.seeds(clip)

    def passages(point: Tensor) -> list[Any]:
        view = clip.with_signal("video", point)
        return [purifier.traced(view, own, model.network)[1] for own in purifier.seeds_of_votes(seeds)]

    with torch.no_grad():
        fixed = [passage.references for passage in passages(video)]

        def deviation(point: Tensor) -> Tensor:
            states = [passage.states for passage in passages(point)]
            terms = [
                (z - r).square().flatten(1).mean(1)
                for own, others in zip(states, fixed, strict=True)
                for z, r in zip(own, others, strict=True)
            ]
            return torch.stack(terms).mean(0).sum()

        slope = (deviation(video + 1e-6 * direction) - deviation(video - 1e-6 * direction)) / 2e-6
    assert torch.allclose((found * direction).sum(), slope, rtol=1e-5, atol=1e-9)


def test_its_votes_are_the_model_s() -> None:
    model = defended(EVERY[4])
    assert isinstance(model, Reconstructing)
    with torch.no_grad():
        votes, deviation = model.reconstruct(a_video())
        assert torch.equal(votes, model.votes(a_video()))
    assert deviation.shape == (2,)
    assert (deviation > 0).all()


def test_it_drives_the_way_back_further_off() -> None:
    model = defended(EVERY[0])
    adversarial = attacked("diffattack(eps=16/255, steps=5, deviation=10000, early_stop=false)", model)
    with torch.no_grad():
        assert (model.reconstruct(adversarial)[1] > model.reconstruct(a_video())[1]).all()


def test_a_surrogate_is_attacked_in_its_place() -> None:
    model = defended(Video(steps=6, flow=None, gradient="surrogate"))
    assert (attacked("diffattack(steps=2)", model).video - a_video().video).abs().max() > 1 / 255


@pytest.mark.parametrize("purifier", [Video(gradient="bpda"), Video(gradient=None), load_defense("wavelet")])
def test_what_has_no_exact_way_back_is_refused(purifier: Any) -> None:
    with pytest.raises(InputError, match="way back"):
        attacked("diffattack(steps=2)", defended(purifier))
    with pytest.raises(InputError, match="deviation of diffattack"):
        DiffAttack(deviation=-1.0)
