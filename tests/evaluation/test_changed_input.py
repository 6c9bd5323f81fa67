"""A run is continued with what it was started with: code that changed is refused, clips that appeared are read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toys import ConvNet

from robustvideo.attacks import FGSM, Noise
from robustvideo.clip import Clip
from robustvideo.data import load_data, write_lossless
from robustvideo.errors import InputError, RunConflict
from robustvideo.evaluation import evaluate
from robustvideo.evaluation import evaluation as module
from robustvideo.evaluation.records import comparable
from robustvideo.evaluation.run import Run, open_run
from robustvideo.model import wrap
from robustvideo.report.series import class_names

CLIPS = "embedded:kinetic?split=test&clips=2"
ATTACKS = [Noise(eps=8 / 255), FGSM(eps=8 / 255)]


def test_a_model_file_that_changed_is_another_model(network_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "network.py"
    file.write_text(network_file.read_text())

    def run(out: Path) -> Run:
        return evaluate(f"file:{file}:build", CLIPS, ATTACKS[:1], out=out, save_clips=0, quiet=True)

    first = run(tmp_path / "run")
    assert run(tmp_path / "run").manifest == first.manifest
    file.write_text(file.read_text().replace("frames=16", "frames=16, channel_order='bgr'"))
    with pytest.raises(RunConflict, match=r"code of its file have changed.*choose another --out"):
        run(tmp_path / "run")
    assert comparable(run(tmp_path / "again").records()) != comparable(first.records())


@pytest.mark.parametrize("change", [{"channel_order": "bgr"}, {"size": 24}, {"frames": 8}])
def test_settings_in_front_of_a_network_are_part_of_it(change: dict, tmp_path: Path) -> None:
    def run(**settings: object) -> Run:
        network = Pixels()
        model = wrap(network, **{"frames": 16, "size": 48, **settings})
        return evaluate(model, CLIPS, ATTACKS[:1], out=tmp_path / "run", save_clips=0, quiet=True)

    run()
    run()
    with pytest.raises(RunConflict, match=f"model_settings was .*{next(iter(change))}"):
        run(**change)


def test_a_run_of_a_registered_model_is_told_by_its_weights_alone(tmp_path: Path) -> None:
    known = evaluate("embedded:r3d", CLIPS, [], out=tmp_path, save_clips=0, quiet=True).manifest.configuration
    assert "model_settings" not in known
    assert known["model_digest"] == "b2c11a9781966bcebc7b76a2b7c09118"


@pytest.mark.parametrize("merged_from", [2, 99])
def test_a_clip_that_appears_is_read_after_all(
    network_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merged_from: int
) -> None:
    monkeypatch.setattr(module, "MERGED_FROM", merged_from)
    source = load_data("embedded:kinetic?split=test&clips=6")
    for i in range(6):
        write_lossless(tmp_path / f"{i}.mkv", source.clip(i), fps=12)
    rows = ["path,label", *(f"{i}.mkv,{source.labels[source.samples[i].label]}" for i in range(6))]
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    data = f"manifest:{tmp_path}/clips.csv?frames=16&size=48&labels={','.join(source.labels)}"

    def run(name: str, strict: bool = False) -> Run:
        arguments = {"batch_size": 2, "save_clips": 6, "quiet": True, "strict": strict}
        return evaluate(f"file:{network_file}:build", data, ATTACKS, out=tmp_path / name, **arguments)

    whole = run("whole")
    for i in (2, 4, 5):
        (tmp_path / f"{i}.mkv").rename(tmp_path / f"{i}.hidden")
    run("run")
    files = records_of(tmp_path / "run")
    assert sum(r.status != "ok" for r in run("run").records()) == 3
    assert records_of(tmp_path / "run") == files, "nothing to do is done anew"
    with pytest.raises(InputError, match=r"2\.mkv"):
        run("run", strict=True)
    assert records_of(tmp_path / "run") == files
    for i in (2, 4):
        (tmp_path / f"{i}.hidden").rename(tmp_path / f"{i}.mkv")
    shutil.copytree(tmp_path / "run", tmp_path / "killed")
    assert [r.sample_id for r in run("run").records() if r.status != "ok"] == ["5"]
    (tmp_path / "5.hidden").rename(tmp_path / "5.mkv")
    assert comparable(run("run").records()) == comparable(whole.records())
    assert open_run(tmp_path / "run").manifest.status == "finished"

    with monkeypatch.context() as broken:  # it ends before anything is made anew
        broken.setattr(module, "track", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    assert open_run(tmp_path / "killed").manifest.status == "running"
    assert comparable(run("killed").records()) == comparable(whole.records())


def test_a_model_without_class_names_borrows_those_of_the_data(network_file: Path, tmp_path: Path) -> None:
    run = evaluate(f"file:{network_file}:build", CLIPS, [], out=tmp_path, save_clips=0, quiet=True)
    assert run.manifest.model["labels"] is None
    assert class_names(run) == load_data(CLIPS).labels


class Pixels(ConvNet):
    """A network on plain tensors."""

    def __init__(self) -> None:
        super().__init__(classes=8)

    def forward(self, video: object) -> object:
        return super().forward(Clip(video))


def records_of(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run / "records").iterdir()}


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
