"""Bad input: one clear sentence, a non-zero exit, no traceback, and nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from robustvideo.cli import app
from robustvideo.data import load_data, write_lossless
from robustvideo.evaluation.records import read_records
from robustvideo.training import train
from robustvideo.training.recipe import make_recipe

MODEL = """
import torch
from torch import nn
import robustvideo as rv

class Strange(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.scale = nn.Parameter(torch.ones(1))
    def forward(self, video):
        logits = video.mean((2, 3, 4)) * self.scale
        if self.kind == "nan":
            return logits * torch.nan
        if self.kind == "meta":
            return logits.to("meta")
        if self.kind == "wrong_shape":
            return logits[0]
        if self.kind == "fails":
            raise ValueError("expected 5 frames")
        return logits

def build(kind="good"):
    return rv.wrap(Strange(kind), frames=None, size=None)

def bare():
    return nn.Linear(1, 1)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model file, three good clips, a corrupt one, and a manifest."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "model.py").write_text(MODEL)
    source = load_data("embedded:kinetic?split=test&clips=3")
    rows = ["path,label"]
    for i in range(3):
        write_lossless(folder / f"{i}.mkv", source.clip(i), fps=12)
        rows.append(f"{i}.mkv,class{i % 2}")
    (folder / "corrupt.mkv").write_bytes(b"not a video" * 100)
    (folder / "clips.csv").write_text("\n".join(rows))
    (folder / "with_corrupt.csv").write_text("\n".join([*rows, "corrupt.mkv,class0"]))
    return folder


def evaluate(
    place: Path, out: Path, *changes: str, model: str = "model.py:build", data: str = "clips.csv?frames=8&size=32"
):
    arguments = ["evaluate", "--model", f"file:{place}/{model}", "--data", f"manifest:{place}/{data}"]
    attack = () if "--attack" in changes else ("--attack", "pgd(eps=8/255, steps=2)")
    return CliRunner().invoke(app, [*arguments, *attack, "--device", "cpu", "--out", str(out), *changes])


def one_sentence(result, *words: str) -> str:
    text = result.output.strip()
    line = text.splitlines()[-1]
    assert result.exit_code == 2, text
    assert "Traceback" not in text
    assert line.startswith("Error: ")
    for word in words:
        assert word in line, line
    return line


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("pgd(eps=0)", ["positive"]),
        ("pgd(eps=-8/255)", ["positive"]),
        ("pgd(eps=8)", ["8/255"]),
        ("pgd(eps=1.5)", ["fraction"]),
        ("pgd(eps=0.1/255)", ["1/255"]),
        ("pdg(eps=8/255)", ["'pgd'"]),
        ("pgd(epz=8/255)", ["'eps'"]),
        ("pgd(steps=many)", ["steps", "integer"]),
        ("pgd(steps=0)", ["at least one step"]),
        ("pgd(eps=8/255", ["Cannot read"]),
        ("pgd(norm=l3)", ["l3", "'l2'"]),
    ],
)
def test_attacks(place: Path, tmp_path: Path, attack: str, words: list[str]) -> None:
    one_sentence(evaluate(place, tmp_path / "run", "--attack", attack), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", ["NaN"]),
        ("meta", ["meta"]),
        ("wrong_shape", ["shape"]),
        ("fails", ["expected 5 frames"]),
    ],
)
def test_models(place: Path, tmp_path: Path, kind: str, words: list[str]) -> None:
    one_sentence(evaluate(place, tmp_path / "run", model=f"model.py:build?kind={kind}"), *words)


def test_a_bare_module_is_refused(place: Path, tmp_path: Path) -> None:
    one_sentence(evaluate(place, tmp_path / "run", model="model.py:bare"), "wrap")


def test_too_few_classes(place: Path, tmp_path: Path) -> None:
    rows = "\n".join(["path,label", *(f"{i}.mkv,class{c}" for i, c in ((0, 0), (1, 1), (2, 4)))])
    (place / "many.csv").write_text(rows)
    labels = ",".join(f"class{i}" for i in range(5))
    result = evaluate(place, tmp_path / "run", data=f"many.csv?frames=8&size=32&labels={labels}")
    one_sentence(result, "3 classes", "label 4")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing_column.csv", "file,label\n0.mkv,a", ["path"]),
        ("unknown_label.csv?labels=x,y", "path,label\n0.mkv,z", ["z"]),
        ("outside.csv", "path,label\n../../etc/passwd,a", ["outside"]),
        ("twice.csv", "path,label,id\n0.mkv,a,one\n1.mkv,a,one", ["one"]),
        ("empty.csv", "path,label\n", []),
    ],
)
def test_manifests(place: Path, tmp_path: Path, name: str, content: str, words: list[str]) -> None:
    (place / name.partition("?")[0]).write_text(content)
    one_sentence(evaluate(place, tmp_path / "run", data=name), *words)


def test_a_missing_manifest(place: Path, tmp_path: Path) -> None:
    one_sentence(evaluate(place, tmp_path / "run", data="absent.csv"), "absent.csv")


def test_a_corrupt_clip_is_recorded_and_the_run_goes_on(place: Path, tmp_path: Path) -> None:
    result = evaluate(place, tmp_path / "run", data="with_corrupt.csv?frames=8&size=32")
    assert result.exit_code == 0, result.output
    records = read_records(tmp_path / "run")
    unusable = [r for r in records if r.status == "unusable"]
    assert [r.sample_id for r in unusable] == ["corrupt"]
    assert "1 of 4 clips could not be read" in result.stderr
    assert unusable[0].message.rstrip(".") in result.stderr
    assert "corrupt" in unusable[0].message
    assert len({r.sample_id for r in records if r.status == "ok"}) == 3


def test_a_sweep_leaves_a_corrupt_clip_out(place: Path, tmp_path: Path) -> None:
    for name in ("with_corrupt", "clips"):
        source = ["--model", f"file:{place}/model.py:build", "--data", f"manifest:{place}/{name}.csv?frames=8&size=32"]
        options = ["--eps", "8/255", "--steps", "1", "--device", "cpu", "--out", str(tmp_path / name)]
        result = CliRunner().invoke(app, ["sweep", *source, *options])
        assert result.exit_code == 0, result.output
        assert ("1 of 4 clips could not be read." in result.stdout) == (name == "with_corrupt")
    with_hole, without = (json.loads((tmp_path / n / "sweep.json").read_text())[0] for n in ("with_corrupt", "clips"))
    assert with_hole["clips"] == without["clips"] == 3
    assert with_hole["loss"] == without["loss"]


def test_training_goes_on_without_a_corrupt_clip(place: Path, tmp_path: Path) -> None:
    recipe = {
        "title": "holed",
        "model": "r2plus1d_small?frames=8&size=32",
        "data": dict.fromkeys(("train", "val"), f"manifest:{place}/with_corrupt.csv?frames=8&size=32"),
        "epochs": 2,
        "batch_size": 2,
        "lr": 0.01,
    }
    with pytest.warns(UserWarning, match="corrupt.*takes its place in training"):
        outcome = train(make_recipe(recipe, "holed"), tmp_path / "run", quiet=True)
    assert outcome.accuracies["val"].clips == 3


def test_no_usable_clip_is_an_error(place: Path, tmp_path: Path) -> None:
    (place / "lost.csv").write_text("path,label\ngone.mkv,class0\nlost.mkv,class1\n")
    line = one_sentence(evaluate(place, tmp_path / "run", "--json", data="lost.csv?frames=8&size=32"), "None of the 2")
    assert "gone.mkv" in line


def test_strict_stops_at_a_corrupt_clip(place: Path, tmp_path: Path) -> None:
    one_sentence(evaluate(place, tmp_path / "run", "--strict", data="with_corrupt.csv?frames=8&size=32"), "corrupt.mkv")


def test_an_out_directory_of_another_configuration(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert evaluate(place, out).exit_code == 0
    before = {p: p.read_bytes() for p in (out / "records").iterdir()}
    one_sentence(evaluate(place, out, "--attack", "fgsm(eps=8/255)"), "another configuration")
    assert {p: p.read_bytes() for p in (out / "records").iterdir()} == before


def test_an_out_directory_of_a_newer_version(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert evaluate(place, out).exit_code == 0
    manifest = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**manifest, "schema_version": 99, "from_the_future": 1}))
    one_sentence(evaluate(place, out), "99", "upgrade")


def test_an_out_directory_that_is_a_file(place: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    one_sentence(evaluate(place, tmp_path / "letter.txt"), "is a file", "name a folder")
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_where_a_model_of_one_s_own_failed_is_told(place: Path, tmp_path: Path) -> None:
    line = 1 + MODEL.splitlines().index('            raise ValueError("expected 5 frames")')
    result = evaluate(place, tmp_path / "run", model="model.py:build?kind=fails")
    one_sentence(result, "expected 5 frames (ValueError in model.py, line " + f"{line};", "ROBUSTVIDEO_DEBUG=1")
    assert "ROBUSTVIDEO_DEBUG=1" in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Memory ran out"),
        (PermissionError(13, "Permission denied", "secret"), "Cannot use secret: Permission denied"),
    ],
)
def test_what_the_machine_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("robustvideo.models.load_model", refuse)
    command = ["sweep", "--model", "embedded:r3d", "--data", "embedded:kinetic?clips=1", "--out", str(tmp_path / "run")]
    one_sentence(CliRunner().invoke(app, command), words)


@pytest.mark.parametrize("eps", ["foo", "true", "0", "-1/255", "[1, 2]"])
def test_a_budget_that_is_none(tmp_path: Path, eps: str) -> None:
    command = ["sweep", "--model", "embedded:r3d", "--data", "embedded:kinetic?clips=1", "--eps", eps]
    one_sentence(CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")]), "is no budget")


@pytest.mark.parametrize(("command", "words"), [("sweep", "again to continue"), ("attack", "again to start over")])
def test_an_interrupted_command_says_what_the_same_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustvideo.models.load_model", interrupt)
    arguments = {
        "sweep": ["--data", "embedded:kinetic?clips=1", "--out", str(tmp_path / "run")],
        "attack": ["absent.mkv", "--out", str(tmp_path / "out.mkv")],
    }
    result = CliRunner().invoke(app, [command, "--model", "embedded:r3d", *arguments[command]])
    assert result.exit_code == 130
    assert words in result.output


def test_an_out_directory_with_other_files(place: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    one_sentence(evaluate(place, tmp_path), "not a run directory")
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_a_damaged_manifest(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert evaluate(place, out).exit_code == 0
    (out / "run.json").write_text("{")
    one_sentence(evaluate(place, out), "damaged")


def test_a_pickle_is_not_executed(place: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"weights": Evil()}, tmp_path / "evil.pt")
    arguments = ["evaluate", "--model", f"torchvision:r3d_18?checkpoint={tmp_path}/evil.pt"]
    result = CliRunner().invoke(app, [*arguments, "--data", "embedded:kinetic?clips=1", "--out", str(tmp_path / "run")])
    one_sentence(result, "safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "embeded:r3d", "--data", "embedded:kinetic"], ["'embedded'"]),
        (["--model", "embedded:r4d", "--data", "embedded:kinetic"], ["r4d", "'r3d'"]),
        (["--model", "embedded:r3d", "--data", "embedded:kinetik"], ["kinetic"]),
        (["--model", "embedded:r3d", "--data", "embedded:kinetic?clip=3"], ["'clips'"]),
        (["--model", "my_model.py:build?depth=18", "--data", "x"], ["did you mean 'file:my_model.py:build?depth=18'"]),
        (["--model", "my_model.py", "--data", "x"], ["name its factory", "'file:my_model.py:build'"]),
        (["--model", "file:absent.py:build", "--data", "embedded:kinetic"], ["absent.py"]),
        (["--model", "embedded:r3d"], ["name the clips", "--data SPEC"]),
        (["--data", "embedded:kinetic"], ["name the model", "--model SPEC"]),
        (["--model", "embedded:r3d", "--data", "embedded:kinetic", "--data", "folder:x"], ["--data is given twice"]),
        (["--model", "embedded:r3d", "--data", "embedded:kinetic", "--codec", "h265:20"], ["codec", "'h264'"]),
        (["absent.yaml"], ["absent.yaml"]),
    ],
)
def test_specs(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    result = CliRunner().invoke(app, ["evaluate", *arguments, "--out", str(tmp_path / "run")])
    one_sentence(result, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [embedded:r3d]\ndata: embedded:kinetic\natacks: [pgd]", ["'attacks'"]),
        ("models: [embedded:r3d]\ndata: embedded:kinetic\nattacks: [pgd]\nbatch_size: none", ["batch_size"]),
        ("models: [embedded:r3d]\ndata: embedded:kinetic\nattacks: [pgd, pgd]", ["twice"]),
        ("[1, 2]", ["mapping"]),
        ("a: [", ["YAML"]),
    ],
)
def test_suites(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "suite.yaml"), "--out", str(tmp_path / "run")])
    one_sentence(result, *words)


@pytest.mark.slow
def test_a_full_disk(place: Path, tmp_path: Path) -> None:
    """A file system with no room: one sentence, what was written stays, and with room again the run continues."""
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        result = evaluate(place, disk / "run", "--batch-size", "1", "--save-clips", "3")
        one_sentence(result, "No space left")
        assert not [p for p in disk.rglob("*") if ".tmp" in p.name]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert evaluate(place, disk / "run", "--batch-size", "1", "--save-clips", "3").exit_code == 0
        whole = evaluate(place, tmp_path / "whole", "--batch-size", "1", "--save-clips", "3")
        assert whole.exit_code == 0
        assert len(read_records(disk / "run")) == len(read_records(tmp_path / "whole"))
    finally:
        subprocess.run(["umount", str(disk)], check=False)
        shutil.rmtree(disk, ignore_errors=True)
