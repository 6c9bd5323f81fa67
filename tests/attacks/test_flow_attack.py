"""PGD on the class and the flow: what is added to what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import ConvNet, clips

from robustvideo.attacks import PGD, flow_attack
from robustvideo.attacks.flow_attack import FlowPGD, end_point_error
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.flow.horn_schunck import horn_schunck_flow
from robustvideo.purification import Defended, load_defense

LABELS = torch.tensor([0, 1])


def textured(batch: int = 2) -> Clip:
    return clips(batch, shape=(3, 4, 16, 16))


def test_without_the_flow_it_is_pgd() -> None:
    model, clip = ConvNet().double(), textured()
    kept = {"eps": 8 / 255, "steps": 3, "early_stop": False}
    found = FlowPGD(share=0, **kept)(model, clip, LABELS)
    assert torch.equal(found.clip.video, PGD(**kept)(model, clip, LABELS).clip.video)


def test_the_flow_goes_further_astray_the_more_it_counts() -> None:
    model, clip = ConvNet().double(), textured()
    truth = horn_schunck_flow(clip.video)
    strayed = []
    for share in (0.0, 1.0, 100.0):
        attack = FlowPGD(eps=8 / 255, steps=5, share=share, early_stop=False)
        strayed.append(end_point_error(horn_schunck_flow(attack(model, clip, LABELS).clip.video), truth).mean())
    assert strayed[0] < strayed[1] < strayed[2]


def test_a_purifier_that_does_not_look_at_the_flow_is_attacked_as_well() -> None:
    model = Defended(ConvNet().double(), load_defense("bit_depth(bits=5)"))
    assert FlowPGD(eps=8 / 255, steps=2)(model, textured(), LABELS).clip.video.shape == textured().video.shape


def test_the_error_of_a_flow_is_the_mean_distance() -> None:
    flow = torch.zeros(1, 2, 2, 4, 4)
    flow[:, 0], flow[:, 1] = 3, 4
    assert end_point_error(flow, torch.zeros_like(flow)).tolist() == pytest.approx([5.0])


class Difference(nn.Module):
    """Stands for RAFT: a flow that is the difference of the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
        return [self.weight * (second - first)[:, :2]] * num_flow_updates


def test_raft_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(flow_attack, "load_raft", lambda: loaded.append(Difference()) or loaded[-1])
    attack = FlowPGD(eps=8 / 255, steps=2, restarts=2, flow="raft", early_stop=False)
    for _ in range(2):
        found = attack(ConvNet().double(), textured(), LABELS)
    assert len(loaded) == 1
    plain = replace(attack, share=0.0)(ConvNet().double(), textured(), LABELS)
    assert not torch.equal(found.clip.video, plain.clip.video)
    assert attack == FlowPGD(eps=8 / 255, steps=2, restarts=2, flow="raft", early_stop=False)


def test_one_frame_has_no_flow() -> None:
    clip = textured()
    still = replace(clip, video=clip.video[:, :, :1])
    with pytest.raises(InputError, match="at least two"):
        FlowPGD(eps=8 / 255)(ConvNet().double(), still, LABELS)


@pytest.mark.parametrize("options", [{"share": -1.0}, {"flow": "dis"}])
def test_what_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="flow"):
        FlowPGD(eps=8 / 255, **options)  # type: ignore[arg-type]
