"""Attacks on mixtures that run each expert only on its own clips: batches, gradient twins and precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toys import clips, mixture

from robustvideo.attacks import load_attack
from robustvideo.clip import Clip
from robustvideo.model import classify
from robustvideo.models import load_model
from robustvideo.models.moe import MixtureOfExperts

SPECS = [
    "pgd",
    "pgd_r",
    "tla_r",
    "tlga_r",
    "pgd_e",
    "tla_e",
    "tla_e(experts=all)",
    "tla_m",
    "tla_m(routing=soft)",
    "tla_m(routing=straight_through, momentum=steps)",
    "j_tla",
    "j_tlga",
    "j_tlga(routing=straight_through)",
]


def small_network() -> tuple[MixtureOfExperts, Clip]:
    """Convolutional experts, and clips that go to several of them."""
    model = load_model("video_moe?experts=3&frames=4&size=16", num_classes=4)
    assert isinstance(model, MixtureOfExperts)
    random = torch.Generator().manual_seed(0)
    clip = Clip(torch.randint(0, 256, (6, 3, 4, 16, 16), generator=random).float() / 255)
    last = model.router.module[-1]
    with torch.no_grad():
        logits = model.router(clip)
        last.weight.div_(logits.std(0)[:, None])
        last.bias.copy_((last.bias - logits.mean(0)) / logits.std(0))
    return model, clip


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("spec", SPECS)
def test_a_clip_s_result_is_its_own(spec: str, early_stop: bool) -> None:
    model, clip = mixture(3, top=1), clips(6, low=100, high=156)
    labels = model(clip).argmax(1)
    attack = replace(load_attack(spec), steps=4, early_stop=early_stop).with_seed(1)  # type: ignore[call-arg]
    together = attack(model, clip, labels)
    assert len(set(model.route(clip).router_logits.argmax(1).tolist())) > 1
    order = [4, 1, 5, 0, 3, 2]
    permuted = attack(model, clip.select(order), labels[order])
    for name in ("success", "first_success_step", "forward_passes", "backward_passes"):
        assert torch.equal(getattr(permuted, name), getattr(together, name)[order]), name
    assert torch.equal(permuted.clip.video, together.clip.video[order])
    for i in (0, 3):
        alone = attack(model, clip.select([i]), labels[i : i + 1])
        assert torch.equal(alone.clip.video[0], together.clip.video[i])
        assert torch.allclose(alone.loss_trace[0], together.loss_trace[i], equal_nan=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("spec", SPECS)
def test_networks_are_attacked_through_their_gradient_twin(spec: str, precision: str) -> None:
    model, clip = small_network()
    labels = torch.arange(6) % 4
    attack = replace(load_attack(spec), steps=2, precision=precision, early_stop=False)  # type: ignore[call-arg]
    result = attack(model, clip, labels)
    assert (result.backward_passes == 2).all()
    assert result.loss_trace.isfinite().all()
    assert torch.allclose(result.logits, classify(model, result.clip), atol=1e-6)
    assert not torch.equal(result.clip.video, clip.video)


@pytest.mark.parametrize("spec", SPECS)
def test_a_clip_without_a_budget_is_left_alone(spec: str) -> None:
    model, clip = mixture(3), clips(2)
    labels = model(clip).argmax(1)
    result = load_attack(spec)(model, clip, labels, eps=[torch.tensor([0.0, 8 / 255], dtype=torch.float64)])
    assert torch.equal(result.clip.video[0], clip.video[0])
    assert not torch.equal(result.clip.video[1], clip.video[1])
    assert result.loss_trace[0].isfinite().any()
