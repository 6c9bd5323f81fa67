"""A budget per modality, either of which may be nothing."""

from __future__ import annotations

import pytest
import torch
from toys import Linear, clips, weights

from robustvideo.attacks import FGSM, PGD, load_attack
from robustvideo.errors import InputError
from robustvideo.threat import AudioVisual, Linf


def test_parts_of_budget_0_are_left_out() -> None:
    assert AudioVisual().parts == (Linf(8 / 255), Linf(0.012, modality="audio"))
    assert AudioVisual(audio=0).parts == (Linf(8 / 255),)
    assert AudioVisual(0, 0.006).parts == (Linf(0.006, modality="audio"),)
    with pytest.raises(InputError, match="both 0"):
        AudioVisual(0, 0)
    with pytest.raises(InputError, match="smallest change"):
        AudioVisual(1e-4)
    with pytest.raises(InputError, match="must be positive"):
        AudioVisual(-0.1)


def test_eps_is_the_picture_s_and_the_sound_s_follows() -> None:
    attack = load_attack("fgsm(threat=audio_visual(eps=8/255, audio=0.012), eps=4/255)")
    assert attack.threat == AudioVisual(4 / 255, 0.006)
    assert load_attack(attack.spec) == attack
    with pytest.raises(InputError, match="leaves the pixels alone"):
        FGSM(AudioVisual(0, 0.012), eps=4 / 255)


def test_the_label_is_that_of_all_budgets_in_one_proportion() -> None:
    assert FGSM(AudioVisual(4 / 255, 0.006)).label == FGSM(AudioVisual(2 / 255, 0.003)).label
    assert FGSM(AudioVisual(4 / 255)).label != FGSM(AudioVisual(2 / 255)).label


@pytest.mark.parametrize(("eps", "audio"), [(8 / 255, 0.012), (8 / 255, 0), (0, 0.012)])
def test_both_optima_are_reached_and_what_has_no_budget_stays(eps: float, audio: float) -> None:
    clip = clips(2, samples=50)
    model = Linear(weights(), audio=weights((1, 50), seed=5))
    assert model.audio is not None
    labels = torch.zeros(2, dtype=torch.long)
    before = model.value(clip).detach()
    for attack in (FGSM(AudioVisual(eps, audio), early_stop=False), PGD(AudioVisual(eps, audio), early_stop=False)):
        result = attack(model, clip, labels)
        best = eps * model.weight.abs().sum() + int(audio * 32768) / 32768 * model.audio.abs().sum()
        torch.testing.assert_close(result.margin.double() - before, best.detach().expand(2), rtol=1e-5, atol=0)
        assert torch.equal(result.clip.video, clip.video) == (eps == 0)
        assert torch.equal(result.clip.signal("audio"), clip.signal("audio")) == (audio == 0)
