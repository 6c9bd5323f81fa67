"""A clip's record does not depend on its batch: alone, in batches of 2 and 8, shuffled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import robustvideo as rv
from robustvideo.attacks import load_attack
from robustvideo.clip import Clip
from robustvideo.data import load_data
from robustvideo.data.dataset import VideoDataset
from robustvideo.evaluation.records import Record
from robustvideo.model import Model
from robustvideo.models import load_model

ATTACKS = ["noise(eps=8/255)", "fgsm(eps=2/255)", "pgd(eps=2/255, steps=5)", "pgd(eps=4/255, steps=5, restarts=2)"]
FLOATS = ("linf", "l2", "l21", "ssim", "psnr", "clean_confidence", "adversarial_confidence", "margin")


class Doubled(Model):
    """A model that computes in float64, whatever clip it is given."""

    def __init__(self, inner: Model):
        super().__init__()
        self.inner = inner.double()

    def forward(self, clip: Clip) -> torch.Tensor:
        return self.inner(clip.to(dtype=torch.float64))


@pytest.fixture(scope="module")
def clips() -> VideoDataset:
    return load_data("embedded:kinetic?split=test&clips=24")


def run(model: Model, data: VideoDataset, out: Path, batch_size: int) -> dict[tuple[str, str, float], Record]:
    attacks = [load_attack(spec) for spec in ATTACKS]
    result = rv.evaluate(model, data, attacks, out=out, batch_size=batch_size, save_clips=0, quiet=True)
    return {(r.sample_id, r.attack, r.eps): r for r in result.records()}


def arrangements(data: VideoDataset) -> dict[str, tuple[VideoDataset, int]]:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(3)).tolist()
    return {"alone": (data, 1), "twos": (data, 2), "eights": (data, 8), "shuffled": (data.subset(order), 8)}


def test_float64_records_are_identical(network_file: Path, clips: VideoDataset, tmp_path: Path) -> None:
    model = Doubled(load_model(f"file:{network_file}:build"))
    runs = {name: run(model, d, tmp_path / name, size) for name, (d, size) in arrangements(clips).items()}
    for name, records in runs.items():
        assert records.keys() == runs["alone"].keys()
        for key, record in records.items():
            assert essence(record) == essence(runs["alone"][key]), name


def test_float32_verdicts_agree(network_file: Path, clips: VideoDataset, tmp_path: Path) -> None:
    model = load_model(f"file:{network_file}:build")
    runs = {name: run(model, d, tmp_path / name, size) for name, (d, size) in arrangements(clips).items()}
    total = apart = 0
    for records in runs.values():
        for key, record in records.items():
            total += 1
            apart += record.success != runs["alone"][key].success
            if key[1] == "noise":  # no gradient involved: the draws themselves must agree
                assert record.l2 == runs["alone"][key].l2
    assert apart <= total / 100


def essence(record: Record) -> dict[str, object]:
    """What must agree exactly; floating sums may round differently in kernels, so they agree to 12 digits."""
    values = {k: v for k, v in vars(record).items() if k not in ("seconds", "item", "loss_trace", "frame_rms")}
    for name in FLOATS:
        values[name] = float(f"{values[name]:.6g}")
    values["trace"] = [float(f"{v:.6g}") for v in record.loss_trace]
    return values
