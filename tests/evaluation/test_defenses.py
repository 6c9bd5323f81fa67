"""Evaluations with defences: what a work item is, what a record says, what resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import robustvideo as rv
from robustvideo.attacks import load_attack
from robustvideo.data import load_data
from robustvideo.errors import InputError, RunConflict
from robustvideo.evaluation.evaluation import evaluate_suite
from robustvideo.evaluation.records import CLEAN, Record, comparable
from robustvideo.evaluation.suite import make_suite
from robustvideo.model import classify
from robustvideo.models import load_model
from robustvideo.purification import Defended, load_defense

DATA = "embedded:kinetic?split=test&clips=5"
ATTACKS = ["noise(eps=8/255)", "pgd(eps=4/255, steps=3)"]
DEFENSES = ["jpeg(quality=40)", "temporal_shuffle(votes=3, frames=4)"]


@pytest.fixture(scope="module")
def model(network_file: Path) -> Any:
    return load_model(f"file:{network_file}:build")


def run(model: Any, out: Path, defenses: list[str], attacks: list[str] = ATTACKS, **options: Any) -> list[Record]:
    chosen = [None if spec == "none" else load_defense(spec) for spec in defenses]
    built = [load_attack(spec) for spec in attacks]
    options = {"batch_size": 2, "save_clips": 1, "quiet": True, **options}
    return rv.evaluate(model, DATA, built, defenses=chosen, out=out, **options).records()


def of(records: list[Record], defense: str) -> list[dict[str, Any]]:
    hidden = ("item", "clip_file")
    rows = [row for row in comparable(records) if row["defense"] == defense]
    return [{k: str(v) for k, v in row.items() if k not in hidden} for row in rows]


def test_several_defences_give_the_records_of_each_alone(model: Any, tmp_path: Path) -> None:
    together = run(model, tmp_path / "all", ["none", *DEFENSES])
    assert list(dict.fromkeys(r.defense for r in together)) == ["none", *DEFENSES]
    assert len(together) == 3 * 5 * 3
    for number, spec in enumerate(["none", *DEFENSES]):
        assert of(run(model, tmp_path / str(number), [spec]), spec) == of(together, spec)
    plain = rv.evaluate(
        model, DATA, [load_attack(a) for a in ATTACKS], out=tmp_path / "plain", batch_size=2, save_clips=1, quiet=True
    )
    assert of(plain.records(), "none") == of(together, "none")


def test_a_record_s_verdict_is_the_defended_model_s(model: Any, tmp_path: Path) -> None:
    data = load_data(DATA)
    records = run(model, tmp_path / "run", ["none", *DEFENSES])
    for spec in DEFENSES:
        defended = Defended(model, load_defense(spec)).eval()
        found = {r.sample_id: r.clean_prediction for r in records if r.defense == spec and r.attack == CLEAN}
        for index in range(5):
            clip = data.clip(index)
            assert int(classify(defended, clip).argmax()) == found[clip.ids[0]]


def test_every_defence_saves_its_own_clips(model: Any, tmp_path: Path) -> None:
    records = run(model, tmp_path / "run", ["none", *DEFENSES], ["noise(eps=8/255)"], save_clips=5)
    files = [r.clip_file for r in records if r.clip_file]
    assert len(files) == len(set(files))
    assert all((tmp_path / "run" / file).is_file() for file in files)
    kept = {r.defense for r in records if r.clip_file}
    assert "none" in kept
    assert len(kept) > 1


def test_an_interrupted_run_continues_to_the_same_records(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(model, tmp_path / "whole", ["none", *DEFENSES])
    from robustvideo.evaluation import runner

    written = 0
    real = runner.write_shard

    def failing(path: Path, records: list[Record]) -> None:
        nonlocal written
        written += 1
        if written % 6 == 0:
            raise KeyboardInterrupt
        real(path, records)

    monkeypatch.setattr(runner, "write_shard", failing)
    for _ in range(20):
        try:
            continued = run(model, tmp_path / "broken", ["none", *DEFENSES])
            break
        except KeyboardInterrupt:
            continue
    assert written > 6
    assert comparable(continued) == comparable(whole)


def test_a_run_belongs_to_its_defences_in_their_order(model: Any, tmp_path: Path) -> None:
    run(model, tmp_path / "run", ["none", "jpeg"], ["noise"])
    for other in (["none"], ["jpeg", "none"], ["none", "jpeg(quality=50)"]):
        with pytest.raises(RunConflict, match="defenses was"):
            run(model, tmp_path / "run", other, ["noise"])
    with pytest.raises(InputError, match="none of them twice"):
        run(model, tmp_path / "twice", ["jpeg", "jpeg"])


def test_crafting_without_the_defence_and_testing_behind_it(network_file: Path, tmp_path: Path) -> None:
    """The gray-box protocol: the same crafted clips, judged behind each defence."""
    spec = f"file:{network_file}:build"
    suite = make_suite(
        {
            "models": [spec],
            "transfer_from": [spec],
            "defenses": ["none", "jpeg(gradient=none, quality=40)"],
            "data": DATA,
            "attacks": ["pgd(eps=4/255, steps=3)"],
            "save_clips": 0,
        },
        "suite",
    )
    (run,) = evaluate_suite(suite, tmp_path / "run", quiet=True)
    rows = [r for r in run.records() if r.attack != CLEAN]
    assert {r.surrogate for r in rows} == {spec}
    by_defense: dict[str, dict[str, float]] = {}
    for record in rows:
        if record.linf > 0:
            by_defense.setdefault(record.defense, {})[record.sample_id] = record.l2
    assert set(by_defense) == set(suite.defenses)
    assert len(list((tmp_path / "run" / "crafted").glob("*.safetensors"))) == 1
    both = set(by_defense["none"]) & set.intersection(*map(set, by_defense.values()))
    assert both
    assert all(len({distances[name] for distances in by_defense.values()}) == 1 for name in both)


def test_a_suite_hands_its_seed_to_its_defences() -> None:
    base = {"models": ["m"], "data": "d", "attacks": ["pgd"]}
    suite = make_suite({**base, "seed": 7, "defenses": ["none", "jpeg", "temporal_shuffle(seed=1)"]}, "suite")
    built = suite.build_defenses()
    assert built[0] is None
    assert [purifier.seed for purifier in built if purifier] == [7, 1]
    assert make_suite(base, "suite").build_defenses() == [None]
    for wrong, message in (
        (["jpeg", "jpeg(quality=75)"], "twice"),
        (["jpgg"], "did you mean 'jpeg'"),
        (["jpeg(qualty=3)"], "did you mean 'quality'"),
        (["none", "none"], "twice"),
    ):
        with pytest.raises(InputError, match=message):
            make_suite({**base, "defenses": wrong}, "suite").build_defenses()


def test_defences_by_one_diffusion_model_hold_it_once(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustvideo.purification import diffusion_purifier

    loaded = []
    load = diffusion_purifier.load_diffusion
    monkeypatch.setattr(diffusion_purifier, "load_diffusion", lambda *given: loaded.append(given) or load(*given))
    defenses = ["diffpure_ddim(steps=2)", "videopure(steps=1, flow=none)", "ddim_inversion(steps=1, precision=bf16)"]
    together = run(model, tmp_path / "all", defenses, ["noise"])
    assert loaded == [("embedded:kinetic", "fp32"), ("embedded:kinetic", "bf16")]
    assert of(run(model, tmp_path / "one", defenses[1:2], ["noise"]), defenses[1]) == of(together, defenses[1])


def test_nothing_of_a_defence_stays_on_the_model(model: Any, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(model, tmp_path / "run", DEFENSES, ["pgd(eps=4/255, steps=2)"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.for_gradients() is model
