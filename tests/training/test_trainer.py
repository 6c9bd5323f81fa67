"""The trainer: exact resumption after a kill, accumulation, and what it does when things go wrong."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional as F

from robustvideo.errors import InputError, RobustVideoError, RunConflict
from robustvideo.training import Recipe, train
from robustvideo.training.method import Loss, Method, Step, trainings
from robustvideo.training.recipe import make_recipe
from robustvideo.training.trainer import Trainer

TINY = Path(__file__).with_name("tiny.py")


def recipe(**changes: Any) -> Recipe:
    content = {
        "title": "tiny",
        "model": f"file:{TINY}:build",
        "data": {"train": "embedded:kinetic?clips=48", "val": "embedded:kinetic?split=val&clips=16"},
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.05,
        **changes,
    }
    return make_recipe(content, "tiny")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def epochs(path: Path) -> list[dict[str, float]]:
    """What was logged of every epoch, but for the time it took."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: number for name, number in line.items() if name != "seconds"} for line in lines]


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_the_last_epoch_is_kept_where_the_recipe_says_so(tmp_path: Path) -> None:
    """A rate that destroys the network after its first epoch: the best is the first, the last is another."""
    for keep in ("best", "last"):
        train(recipe(epochs=3, lr=5.0, validation={"keep": keep}), tmp_path / keep, quiet=True)
    logged = [line["val_accuracy"] for line in epochs(tmp_path / "last")]
    assert max(logged) > logged[-1], "the test needs a run that gets worse"
    assert largest_difference(weights(tmp_path / "best"), weights(tmp_path / "last")) > 0
    train(recipe(epochs=3, lr=5.0), tmp_path / "default", quiet=True)
    assert largest_difference(weights(tmp_path / "best"), weights(tmp_path / "default")) == 0


def test_training_under_attack_keeps_the_last_epoch_unless_it_is_validated_under_attack(tmp_path: Path) -> None:
    attacked = "at(attack=pgd(eps=2/255, steps=1, early_stop=false))"
    kept = {}
    for name, validation in (
        ("best", {"keep": "best"}),
        ("default", {}),
        ("under attack", {"attack": "pgd(eps=2/255, steps=1)"}),
    ):
        train(recipe(epochs=3, lr=5.0, training=attacked, validation=validation), tmp_path / name, quiet=True)
        kept[name] = weights(tmp_path / name)
    best = max(epochs(tmp_path / "best"), key=lambda line: line["val_accuracy"])
    assert best["epoch"] < 3, "the test needs a run that gets worse"
    assert largest_difference(kept["best"], kept["default"]) > 0
    robust = [line["val_robust_accuracy"] for line in epochs(tmp_path / "under attack")]
    assert robust.index(max(robust)) < len(robust) - 1, "the test needs a best epoch before the last"
    assert largest_difference(kept["under attack"], kept["default"]) > 0


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path, kills: int) -> None:
    """Real processes, killed at random moments, with a checkpoint after every batch."""
    wanted = recipe(
        epochs=6,
        optimizer="adamw",
        lr=0.01,
        schedule="onecycle",
        training="at(attack=pgd(eps=2/255, steps=1, early_stop=false))",
    )
    train(wanted, tmp_path / "whole", quiet=True)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(wanted.model_dump(mode="json")))
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "robustvideo", "train", str(file), "--out", str(out), "--checkpoint-every", "0"]
    last = out / "checkpoints" / "last.pt"
    for _ in range(kills):
        before = last.stat().st_mtime_ns if last.exists() else None
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
        started = time.monotonic()
        while not last.exists() or last.stat().st_mtime_ns == before:  # it has gone on
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() - started < 200
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.05 if kills > 1 else 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "summary.json").exists(), "it was too fast to be killed"
    train(wanted, out, quiet=True)
    assert largest_difference(weights(out), weights(tmp_path / "whole")) == 0
    assert (out / "summary.json").read_text() == (tmp_path / "whole" / "summary.json").read_text()
    assert epochs(out) == epochs(tmp_path / "whole")


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = train(recipe(epochs=1), tmp_path / "run", quiet=True)
    stamp = first.weights.stat().st_mtime_ns
    assert train(recipe(epochs=1), tmp_path / "run", quiet=True) == first
    assert first.weights.stat().st_mtime_ns == stamp


def test_accumulated_parts_make_the_same_update(tmp_path: Path) -> None:
    plain = f"file:{TINY}:build?dropout=0&norm=false"
    for parts in (1, 4):
        train(recipe(model=plain, accumulation=parts), tmp_path / str(parts), quiet=True)
    assert largest_difference(weights(tmp_path / "1"), weights(tmp_path / "4")) < 1e-4


@pytest.mark.slow
def test_two_processes_make_the_same_updates_as_one(tmp_path: Path) -> None:
    wanted = recipe(model=f"file:{TINY}:build?dropout=0&norm=false")
    train(wanted, tmp_path / "one", quiet=True)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(wanted.model_dump(mode="json")))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["-m", "robustvideo", "train", str(file), "--out", str(tmp_path / "two")]
    subprocess.run(launch, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=250)
    assert largest_difference(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-4
    assert (tmp_path / "two" / "summary.json").read_text() == (tmp_path / "one" / "summary.json").read_text()
    one, two = (loss_trace(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 12
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4


def loss_trace(path: Path) -> list[float]:
    """The loss of every batch, as TensorBoard has it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((path / "tensorboard").rglob("events*")).parent))
    events.Reload()
    return [event.value for event in events.Scalars("batch/loss")]


def test_a_loss_that_is_not_finite_stops_with_one_sentence_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    wild = recipe(model=f"file:{TINY}:exploding", lr=3.0, epochs=30, schedule="constant")
    with pytest.raises(RobustVideoError, match=r"Training stopped in epoch \d+, batch \d+: .*not finite") as caught:
        train(wild, tmp_path, quiet=True, checkpoint_seconds=0)
    assert "\n" not in str(caught.value)
    last = tmp_path / "checkpoints" / "last.pt"
    assert ("nothing was saved yet" in str(caught.value)) != last.exists()
    if last.exists():
        states = torch.load(last, weights_only=True)["network"]
        assert all(tensor.isfinite().all() for tensor in states.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": f"file:{TINY}:build?classes=5"}, "The model has 5 classes, but embedded:kinetic.* has 8"),
        ({"batch_size": 64}, "batch_size=64 is more than the 48 clips"),
        ({"training": "at(attack=pdg)"}, "Unknown attack 'pdg'"),
        ({"training": "at(attack=pgd(eps=8))"}, "write eps=8/255"),
        ({"training": "gat"}, "add with=ape_gan"),
        ({"model": "embedded:r4d?weights=none"}, "Unknown embedded model 'r4d'"),
    ],
)
def test_what_does_not_fit_is_said_before_training(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(recipe(**change), tmp_path, quiet=True)


def test_a_directory_of_another_recipe_is_left_alone(tmp_path: Path) -> None:
    train(recipe(epochs=1), tmp_path / "run", quiet=True)
    with pytest.raises(RunConflict, match=r"lr was 0\.05, now 0\.1"):
        train(recipe(epochs=1, lr=0.1), tmp_path / "run", quiet=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunConflict, match="not empty"):
        train(recipe(), tmp_path / "other", quiet=True)


@pytest.mark.parametrize(
    "mistake",
    [
        {"training": "att"},
        {"model": "embedded:r4d?weights=none"},
        {"model": f"file:{TINY}:bild"},
        {"validation": {"attack": "pdg"}},
        {"data": {"train": "embedded:kinetik", "val": "embedded:kinetic?split=val&clips=16"}},
        {"data": {**recipe().data.model_dump(), "test": "embedded:kinetik"}},
    ],
    ids=str,
)
def test_what_cannot_be_had_claims_no_directory(tmp_path: Path, mistake: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        train(recipe(**mistake), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_directory_without_a_checkpoint_is_left_to_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(trainer: Trainer, parts: Any) -> None:
        raise Enough

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_batch", stop)
        with pytest.raises(Enough):
            train(recipe(lr=0.5), tmp_path, quiet=True)
    assert (tmp_path / "training.json").exists()
    assert not (tmp_path / "checkpoints").exists()
    somebody = tmp_path / f".00000000-{os.getpid()}-12345678.tmp"
    somebody.touch()
    with pytest.raises(RunConflict, match=r"epochs was 2, now 1.*or delete"):
        train(recipe(epochs=1), tmp_path, quiet=True)
    somebody.unlink()
    train(recipe(epochs=1), tmp_path, quiet=True)
    assert json.loads((tmp_path / "training.json").read_text())["recipe"]["epochs"] == 1
    assert not list(tmp_path.glob(".*"))


def test_half_precision_weights_are_measured_as_they_are_stored(tmp_path: Path) -> None:
    half = train(recipe(epochs=1, export={"precision": "fp16", "path": "half.safetensors"}), tmp_path, quiet=True)
    stored = load_file(half.weights)
    assert {t.dtype for t in stored.values()} == {torch.float16, torch.int64}
    best = load_file(tmp_path / "checkpoints" / "best.safetensors")
    assert all(torch.equal(best[name].to(stored[name].dtype), stored[name]) for name in stored)


def test_the_best_epoch_is_exported_and_every_epoch_logged(tmp_path: Path) -> None:
    outcome = train(
        recipe(
            epochs=3,
            data={
                "train": "embedded:kinetic?clips=32",
                "val": "embedded:kinetic?split=val&clips=24",
                "test": "embedded:kinetic?split=test&clips=8",
            },
            validation={"attack": "pgd(eps=1/255, steps=2)", "clips": 16},
        ),
        tmp_path,
        quiet=True,
    )
    lines = epochs(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    attacked = next(name for name in outcome.accuracies if name.startswith("val under pgd"))
    assert outcome.accuracies[attacked].share == max(line["val_robust_accuracy"] for line in lines)
    assert outcome.accuracies["val"].clips == 16
    assert outcome.accuracies["test"].clips == 8
    assert list((tmp_path / "tensorboard").glob("events*"))


@dataclass(frozen=True)
class Thrice(Method):
    """Three updates per batch; the second loss must see what the first update did."""

    def losses(self, step: Step) -> Iterator[Loss]:
        before = None
        for _ in range(3):
            now = next(step.network.parameters()).detach().clone()
            assert before is None or not torch.equal(before, now)
            before = now
            yield Loss(F.cross_entropy(step.forward(step.clip), step.labels))


def test_a_method_may_update_several_times_per_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings.register("thrice")(Thrice)
    monkeypatch.setitem(trainings._added, "thrice", replace(trainings._added["thrice"]))
    train(recipe(training="thrice", epochs=1, accumulation=2), tmp_path, quiet=True)
    assert weights(tmp_path)


def test_training_in_bf16_and_then_in_fp32_in_one_process(tmp_path: Path) -> None:
    for precision in ("bf16", "fp32"):
        outcome = train(recipe(precision=precision, epochs=1), tmp_path / precision, quiet=True)
        assert all(t.dtype in (torch.float32, torch.int64) for t in load_file(outcome.weights).values())


def test_a_full_disk_during_a_checkpoint_leaves_the_old_one(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the full disk: the write fails half way, as it does there."""
    wanted = recipe(epochs=4, model=f"file:{TINY}:build")
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(wanted.model_dump(mode="json")))
    out = tmp_path / "run"
    short = recipe(epochs=4, model=f"file:{TINY}:build")
    train_some_batches(short, out)
    last = out / "checkpoints" / "last.pt"
    before = last.read_bytes()
    script = (
        "import resource, sys; from robustvideo.cli import main; import torch, accelerate\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, resource.RLIM_INFINITY))\n"
        f"sys.argv = ['robustvideo', 'train', {str(file)!r}, '--out', {str(out)!r}, '--checkpoint-every', '0']; main()"
    )
    import_signal = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    done = subprocess.run(
        [sys.executable, "-c", import_signal + script],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert last.read_bytes() == before
    train(wanted, out, quiet=True)
    train(wanted, tmp_path / "whole", quiet=True)
    assert largest_difference(weights(out), weights(tmp_path / "whole")) == 0


class Enough(Exception):
    """Ends a training from within."""


def train_some_batches(wanted: Recipe, out: Path) -> None:
    """Leave a run that has stopped in its second epoch."""

    class Stopping(Trainer):
        def _batch(self, parts: Any) -> None:
            if self.position.epoch == 1 and self.position.batch == 2:
                raise Enough
            super()._batch(parts)

    from accelerate import Accelerator

    from robustvideo.training import trainer as module
    from robustvideo.training.checkpoint import Folder

    folder = Folder(out)
    folder.claim(wanted)
    accelerator: Accelerator = module._accelerator(wanted, folder)
    with pytest.raises(Enough):
        Stopping(wanted, folder, accelerator, workers=0, checkpoint_seconds=0, quiet=True).run()


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    trained = train(recipe(epochs=1), tmp_path / "run", quiet=True).weights
    with pytest.raises(InputError, match="is of another network: it lacks"):
        train(recipe(model=f"embedded:r3d?checkpoint={trained}"), tmp_path / "other", quiet=True)
