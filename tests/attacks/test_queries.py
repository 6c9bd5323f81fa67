"""What black-box attacks ask, and the directions they search in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from toys import ConvNet, Linear, Smooth, alternating, clips, weights

from robustvideo.attacks.attack import Problem
from robustvideo.attacks.boundary import Boundary
from robustvideo.attacks.nes import NES
from robustvideo.attacks.pgd import PGD
from robustvideo.attacks.queries import ask, asks_on_grid, directions
from robustvideo.attacks.simba import SimBA
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.randomness import ClipRandom
from robustvideo.support import Frames
from robustvideo.threat import L2, Joint, Linf, ThreatModel


def problem(threat: ThreatModel, clip: Clip | None = None) -> Problem:
    """The problem that an attack under this threat model poses."""
    clip = clips(3) if clip is None else clip
    return PGD(threat).problem(Linear(weights()), clip, alternating(len(clip)), None, None)


def test_directions_of_every_space() -> None:
    like = torch.empty(4, 3, 9, 20, 24)
    drawn = {s: directions(like, s, ClipRandom(range(4))) for s in ("pixel", "frame", "flicker", "lowres")}  # type: ignore[arg-type]
    assert all(d.shape == like.shape for d in drawn.values())
    assert torch.equal(drawn["frame"], drawn["frame"][:, :, :1].expand_as(like))
    assert torch.equal(drawn["flicker"], drawn["flicker"][..., :1, :1].expand_as(like))
    coarse = ClipRandom(range(4)).normal(torch.empty(4, 3, 3, 3, 3))
    assert torch.equal(drawn["lowres"], F.interpolate(coarse, size=(9, 20, 24), mode="trilinear"))
    for d in drawn.values():
        assert not torch.equal(d[0], d[1])
    for name in ("pixel", "frame", "flicker"):
        assert abs(float(drawn[name].std()) - 1) < 0.25
    alone = directions(like[2:3], "lowres", ClipRandom([2]))
    assert torch.equal(alone[0], drawn["lowres"][2])
    assert directions(torch.empty(2, 1, 50), "lowres", ClipRandom(range(2))).shape == (2, 1, 50)


@pytest.mark.parametrize("threat", [Linf(2 / 255), L2(0.2)], ids=["linf", "l2"])
def test_questions_keep_to_grid_box_and_budget_as_told(threat: ThreatModel) -> None:
    clip = clips(3, low=0, high=256)
    here = problem(threat, clip)
    change = 0.3 * torch.randn(clip.video.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for on_grid in (True, False):
        far = ask(here, (change,), on_grid, bounded=False).clip.video
        assert far.min() >= 0
        assert far.max() <= 1
        rounding = 0.5 / 255 if on_grid else 0
        assert ((far - (clip.video + change).clamp(0, 1)).abs() <= rounding + 1e-9).all()
        assert bool((far * 255 - (far * 255).round()).abs().max() < 1e-9) == on_grid
    stored = ask(here, (change,), True)
    assert here.threat.verify(here.clip, stored.clip, here.masks, here.eps).all()
    assert torch.equal(stored.logits, here.verdict((change,)).logits)
    assert not stored.logits.requires_grad


def test_probes_leave_untouched_values_as_they_are() -> None:
    """Also where the clean clip is off the grid, and off the support."""
    clip = Clip(clips(2).video + 0.3 / 255)
    here = problem(Linf(8 / 255, support=Frames((1,))), clip)
    shown = ask(here, (torch.full_like(clip.video, 0.1),), True, bounded=False).clip.video
    assert torch.equal(shown[:, :, [0, 2, 3]], clip.video[:, :, [0, 2, 3]])
    assert (shown[:, :, 1] != clip.video[:, :, 1]).all()


def test_sound_is_asked_about_too() -> None:
    clip = clips(2, samples=40)
    threat = Joint((Linf(8 / 255), Linf(0.012, modality="audio")))
    here = PGD(threat).problem(Smooth(audio=(1, 40)), clip, alternating(2), None, None)
    assert clip.audio is not None
    changes = (torch.full_like(clip.video, 1.5), torch.full_like(clip.audio, 3.0))
    shown = ask(here, changes, True, bounded=False).clip
    assert shown.audio is not None
    assert float(shown.video.max()) == 1.0
    assert float(shown.audio.max()) == 1 - 1 / 32768


def test_queries_are_rounded_where_verdicts_are() -> None:
    joint = Joint((Linf(0.1), Linf(0.1, modality="audio", stored=False)))
    assert [asks_on_grid(t, None) for t in (Linf(0.1), Linf(0.1, stored=False), joint)] == [True, False, False]
    assert asks_on_grid(Linf(0.1), False) is False
    assert asks_on_grid(joint, True) is True


@pytest.mark.parametrize("attack", [NES, SimBA, Boundary])
def test_what_cannot_be_is_refused(attack: type[NES] | type[SimBA] | type[Boundary]) -> None:
    with pytest.raises(InputError, match="at least two queries"):
        attack(queries=1)
    if attack is not SimBA:
        with pytest.raises(InputError, match="did you mean 'lowres'"):
            attack(space="lowers")  # type: ignore[call-arg]


VARIANTS = [
    NES(eps=8 / 255, queries=60, space="pixel", query_grid=False),
    NES(eps=8 / 255, queries=60, samples=8, space="frame", early_stop=False),
    SimBA(eps=16 / 255, queries=25, basis="pixel", query_grid=False),
    SimBA(L2(2.0, stored=False), queries=25, early_stop=False),
    Boundary(eps=24 / 255, queries=70, space="pixel", query_grid=False),
    Boundary(L2(4.0, stored=False), queries=160, space="flicker", early_stop=False),
    Boundary(eps=24 / 255, queries=140),
]


@pytest.mark.parametrize("attack", VARIANTS, ids=lambda a: a.spec.replace(" ", ""))
def test_neither_batch_nor_order_matters(attack: NES | SimBA | Boundary) -> None:
    clip, model = clips(4), ConvNet(seed=1).double().eval()
    labels = model(clip).argmax(1)
    labels[1] = (labels[1] + 1) % 3  # one that is done at once
    together = attack(model, clip, labels)
    order = [2, 0, 3, 1]
    shuffled = attack(model, clip.select(order), labels[order])
    for row in range(4):
        alone = attack(model, clip.select([row]), labels[row : row + 1])
        for other, place in ((alone, 0), (shuffled, order.index(row))):
            assert torch.equal(other.clip.video[place], together.clip.video[row])
            assert other.forward_passes[place] == together.forward_passes[row]
            assert other.first_success_step[place] == together.first_success_step[row]
            width = other.loss_trace.shape[1]
            assert torch.allclose(other.loss_trace[place], together.loss_trace[row, :width], equal_nan=True)
