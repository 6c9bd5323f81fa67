"""Out of memory a batch is attacked in halves; clips crafted on a surrogate are crafted once."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import robustvideo as rv
from robustvideo.attacks import load_attack
from robustvideo.clip import Clip
from robustvideo.data import load_data
from robustvideo.data.dataset import collate
from robustvideo.errors import InputError
from robustvideo.evaluation.crafting import Surrogate, random_targets
from robustvideo.evaluation.records import comparable
from robustvideo.model import Model
from robustvideo.models import load_model

ATTACKS = ["noise(eps=8/255)", "pgd(eps=4/255, steps=3)"]


class Cramped(Model):
    """A model with memory for two clips at a time."""

    def __init__(self, inner: Model):
        super().__init__()
        self.inner = inner

    def forward(self, clip: Clip) -> torch.Tensor:
        if len(clip) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(clip)


def evaluate(model: Model, out: Path, **options: object) -> list[dict[str, object]]:
    data = load_data("embedded:kinetic?split=test&clips=10")
    attacks = [load_attack(spec) for spec in ATTACKS]
    run = rv.evaluate(model, data, attacks, out=out, batch_size=5, save_clips=0, quiet=True, **options)
    return comparable(run.records())


def test_out_of_memory_halves_the_batch(network_file: Path, tmp_path: Path) -> None:
    model = load_model(f"file:{network_file}:build").double()
    roomy, cramped = (evaluate(m, tmp_path / name) for m, name in ((model, "roomy"), (Cramped(model), "cramped")))
    for a, b in zip(roomy, cramped, strict=True):
        for name in ("sample_id", "attack", "success", "adversarial_prediction", "linf", "first_success_step"):
            assert a[name] == b[name]


def test_another_error_is_not_taken_for_out_of_memory(network_file: Path, tmp_path: Path) -> None:
    class Broken(Cramped):
        def forward(self, clip: Clip) -> torch.Tensor:
            raise RuntimeError("size mismatch")

    with pytest.raises(InputError, match="size mismatch"):
        evaluate(Broken(load_model(f"file:{network_file}:build")), tmp_path / "run")


def test_transfer_crafts_once_and_the_diagonal_is_the_white_box(network_file: Path, tmp_path: Path) -> None:
    model = load_model(f"file:{network_file}:build").double()
    surrogate = Surrogate("own", model, tmp_path / "crafted")
    direct = evaluate(model, tmp_path / "direct")
    for name in ("first", "again"):
        through = evaluate(model, tmp_path / name, surrogates=[surrogate])
        for a, b in zip(direct, through, strict=True):
            assert (a["sample_id"], a["success"]) == (b["sample_id"], b["success"])
            assert b["surrogate"] == ("" if b["attack"] == "clean" else "own")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "crafted").iterdir()}
    assert 0 < len(kept) <= 2 * 2  # two batches, two attacks; nothing is crafted where nothing is recognised
    evaluate(model, tmp_path / "third", surrogates=[Surrogate("own", model, tmp_path / "crafted")])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "crafted").iterdir()} == kept
    edited = copy.deepcopy(model)
    with torch.no_grad():
        next(edited.parameters()).mul_(0.5)
    evaluate(model, tmp_path / "fourth", surrogates=[Surrogate("own", edited, tmp_path / "crafted")])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "crafted").iterdir()}.keys() > kept.keys()


@pytest.fixture
def shelf(network_file: Path, tmp_path: Path) -> tuple[Surrogate, Clip, torch.Tensor]:
    """A surrogate that keeps what it crafts, and a batch for it."""
    data = load_data("embedded:kinetic?split=test&clips=3")
    return Surrogate("own", load_model(f"file:{network_file}:build"), tmp_path), *collate([data[i] for i in range(3)])


def test_other_clips_of_the_same_ids_are_crafted_anew(shelf: tuple[Surrogate, Clip, torch.Tensor]) -> None:
    """Two data sets may both number their clips from 0."""
    surrogate, clip, labels = shelf
    clip = replace(clip, audio=torch.zeros(3, 1, 800), sample_rate=8000)
    attack = load_attack("pgd(eps=4/255, steps=2)")
    surrogate.craft(attack, clip, labels)
    other = clip.with_signal("video", clip.video.flip(-1).contiguous())
    found = surrogate.craft(attack, other, labels).clip
    assert (found.video - other.video).abs().max() <= 4 / 255 + 1e-6
    louder = clip.with_signal("audio", torch.full((3, 1, 800), 0.5))
    assert (surrogate.craft(attack, louder, labels).clip.audio == 0.5).all()
    assert len(list(surrogate.folder.iterdir())) == 3


@pytest.mark.parametrize("damage", ["beyond the budget", "another shape", "no logits", "no tensors", "soundless"])
def test_a_kept_batch_that_cannot_be_the_attack_s_is_crafted_anew(
    shelf: tuple[Surrogate, Clip, torch.Tensor], damage: str
) -> None:
    surrogate, clip, labels = shelf
    if damage == "soundless":
        clip = replace(clip, audio=torch.zeros(3, 1, 800), sample_rate=8000)
    attack = load_attack("masked_pgd(eps=1, steps=2)")  # its own region is verified, too
    crafted = surrogate.craft(attack, clip, labels).clip
    (path,) = surrogate.folder.iterdir()
    tensors = load_file(path)
    if damage == "beyond the budget":
        tensors["video"] = 1 - tensors["video"]
    elif damage == "another shape":
        tensors["video"] = tensors["video"][:, :, :1].contiguous()
    elif damage == "no logits":
        del tensors["logits"]
    elif damage == "soundless":
        del tensors["audio"]
    save_file(tensors, path)
    if damage == "no tensors":
        path.write_bytes(b"nothing")
    again = surrogate.craft(attack, clip, labels).clip
    assert torch.equal(again.video, crafted.video)
    assert (again.audio is None) == (damage != "soundless")
    assert torch.equal(load_file(path)["video"], crafted.video), "and kept in its place"


def test_clips_for_another_model_go_on_where_the_surrogate_has_failed(network_file: Path, tmp_path: Path) -> None:
    model = load_model(f"file:{network_file}:build").double()
    data = load_data("embedded:kinetic?split=test&clips=10")
    clip, labels = collate([data[i] for i in range(10)])
    stopped = load_attack("pgd(eps=8/255, steps=6)")
    own, crafted = stopped(model, clip, labels), Surrogate("own", model, tmp_path).craft(stopped, clip, labels)
    assert own.loss_trace.isnan().any(), "some clip is fooled on the way"
    assert not crafted.loss_trace.isnan().any()
    assert crafted.margin.mean() > own.margin.mean()


def test_codecs_are_recorded_beside_the_clean_baseline(network_file: Path, tmp_path: Path) -> None:
    rows = evaluate(load_model(f"file:{network_file}:build"), tmp_path / "run", codecs=["h264:18", "h264:45"])
    for row in rows:
        if row["attack"] == "clean" or row["forward_passes"]:
            assert row["codecs"] == ["h264:18", "h264:45"]
            assert len(row["codec_success"]) == 2


def test_random_targets_are_other_classes_and_the_clip_s_own() -> None:
    labels = torch.tensor([0, 1, 2, 3] * 50)
    ids = [str(i) for i in range(200)]
    targets = random_targets(labels, 4, seed=1, ids=ids)
    assert (targets != labels).all()
    assert set(targets.tolist()) == {0, 1, 2, 3}
    assert random_targets(labels[7:8], 4, seed=1, ids=ids[7:8]).tolist() == [int(targets[7])]
