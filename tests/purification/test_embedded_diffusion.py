"""The diffusion model that comes with the package: small, and good for what it was trained for."""

from __future__ import annotations

from importlib.resources import files

import pytest
import torch

import robustvideo as rv
from robustvideo.data.dataset import collate
from robustvideo.model import classify

CLIPS = 12


def test_it_is_small() -> None:
    file = files("robustvideo") / "models" / "weights" / "diffusion" / "kinetic.safetensors"
    assert len(file.read_bytes()) < 8_000_000


@pytest.mark.slow
def test_videopure_brings_back_what_pgd_took() -> None:
    """Validation clips, the paper's budget. The attack knows nothing of the purifier."""
    model, data = rv.load_model("embedded:r3d"), rv.load_data(f"embedded:kinetic?split=val&clips={CLIPS}")
    clip, labels = collate([data[i] for i in range(CLIPS)])
    attacked = rv.attacks.PGD(rv.Linf(4 / 255), early_stop=False)(model, clip, labels).clip
    purified = rv.Defended(model, rv.load_defense("videopure(precision=bf16)")).eval()
    right = {
        name: int((classify(judge, shown).argmax(1) == labels).sum())
        for name, judge, shown in (
            ("alone", model, attacked),
            ("clean", purified, clip),
            ("purified", purified, attacked),
        )
    }
    assert right["alone"] <= 1
    assert right["clean"] >= CLIPS - 2
    assert right["purified"] >= right["alone"] + CLIPS // 4
    assert not torch.equal(purified.purified(clip)[0].video, clip.video)
