"""Attacks of every kind on models behind a diffusion purifier, by its exact gradient and by BPDA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusing import Tiny, a_video, networks
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from toys import ConvNet

from robustvideo.attacks import load_attack
from robustvideo.attacks.attack import AttackResult
from robustvideo.attacks.autoattack import AutoAttackResult
from robustvideo.attacks.flow_attack import end_point_error
from robustvideo.flow.horn_schunck import horn_schunck_flow
from robustvideo.model import classify
from robustvideo.purification import Defended
from robustvideo.purification.diffpure import DiffPureDDIM
from robustvideo.purification.purifier import Gradient
from robustvideo.purification.videopure import VideoPure

ATTACKS = {
    "temporal_translation": "temporal_translation(eps=8/255, steps=3, reach=1, early_stop=false)",
    "apgd_ce": "apgd_ce(eps=8/255, steps=30, early_stop=false)",
    "autoattack": "autoattack(eps=8/255, version=custom, members=[pgd(steps=2), apgd_ce(steps=30), square(queries=5)])",
}


class Drawing(DiffPureDDIM):
    def network(self) -> nn.Module:
        return networks(Tiny())


class Voting(VideoPure):
    def network(self) -> nn.Module:
        return networks(Tiny())


def defended(purifier: type[DiffPureDDIM | VideoPure], gradient: Gradient, **options: Any) -> Defended:
    return Defended(ConvNet().double(), purifier(steps=2, gradient=gradient, **options)).eval()


def labels(model: Defended) -> Tensor:
    """What the model says, so that an attack has everything to win."""
    return classify(model, a_video()).argmax(1)


def attacked(attack: str, model: Defended) -> AttackResult:
    return load_attack(attack)(model, a_video(), labels(model))


@pytest.mark.parametrize("gradient", ["bpda", "exact"])
@pytest.mark.parametrize(
    ("purifier", "options"), [(Drawing, {}), (Voting, {"flow": None})], ids=["diffpure_ddim", "videopure"]
)
@pytest.mark.parametrize("attack", ATTACKS)
def test_it_climbs_and_its_verdict_is_the_defended_model_s(
    attack: str, purifier: Any, options: dict[str, Any], gradient: Gradient
) -> None:
    model = defended(purifier, gradient, aggregate="mean", **options)
    clip, true = a_video(), labels(model)
    result = attacked(ATTACKS[attack], model)
    before, after = classify(model, clip), classify(model, result.clip)
    assert torch.allclose(result.logits.to(after), after)
    assert torch.equal(result.success, after.argmax(1) != true)
    assert (cross_entropy(after, true, reduction="none") > cross_entropy(before, true, reduction="none")).all()
    if isinstance(result, AutoAttackResult):
        assert len(result.members) == 3
        assert (result.member_backward_passes[:, 0] > 0).all()


@pytest.mark.parametrize("attack", ["temporal_translation", "apgd_ce"])
def test_bpda_is_another_gradient(attack: str) -> None:
    clips = [attacked(ATTACKS[attack], defended(Voting, mode, flow=None)).clip.video for mode in ("bpda", "exact")]
    assert not torch.equal(*clips)


def test_the_flow_that_guides_videopure_is_turned() -> None:
    """The flow is estimated on the clip as it is given: by its own gradient it goes further astray than by PGD's."""
    options = "eps=8/255, steps=4, early_stop=false"
    model = defended(Voting, "exact", flow="horn_schunck")
    pgd = attacked(f"pgd({options})", model).clip.video
    assert torch.equal(attacked(f"flow_pgd({options}, share=0)", model).clip.video, pgd)
    result = attacked(f"flow_pgd({options}, share=10)", model)
    truth = horn_schunck_flow(a_video().video)
    strayed = [end_point_error(horn_schunck_flow(video), truth) for video in (pgd, result.clip.video)]
    assert (strayed[1] > strayed[0]).all()
    assert torch.allclose(result.logits.to(result.clip.video), classify(model, result.clip))
    still = Defended(model.undefended, Voting(steps=2, flow=None)).eval()
    assert not torch.allclose(classify(still, result.clip), classify(model, result.clip)), "the flow guides"
