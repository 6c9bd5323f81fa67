"""Several studies by one command: each for itself, the shared trained once, the broken named at the end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from robustvideo.cli import app
from robustvideo.errors import InputError
from robustvideo.packaged import recipes
from robustvideo.reproduction.reproduce import Outcome
from robustvideo.reproduction.study import Study, studies_in

SHARED = {"name": "Shared", "recipe": {"training": "standard"}, "share": "plain"}
STUDY: dict[str, Any] = {
    "title": "Clean is <easy>",
    "source": {"paper": "Nobody 2020", "place": "table 7"},
    "base": {
        "model": "embedded:r3d",
        "data": {"train": "embedded:kinetic?clips=8", "val": "embedded:kinetic?split=val&clips=4"},
        "epochs": 1,
        "batch_size": 8,
        "lr": 0.001,
    },
    "evaluation": {"data": "embedded:kinetic?split=test&clips=4", "batch_size": 4},
    "rows": {"ours": {"name": "Ours", "model": "embedded:r3d"}, "shared": SHARED},
    "columns": [{"name": "clean"}, {"name": "attacked", "attacks": ["fgsm(eps=16/255)"]}],
    "claims": [
        {"text": "a", "better": "ours", "worse": "ours", "columns": ["clean"], "against": ["attacked"]},
        {"text": "b", "better": "ours", "worse": "ours", "columns": ["clean"]},
    ],
    "scales": {"smoke": {}},
}
ALTERED: dict[str, dict[str, Any]] = {
    "broken": {"rows": {"ours": {"name": "Ours", "model": "embedded:r4d"}}},
    "one": {},
    "two": {"title": "Another", "claims": STUDY["claims"][1:]},
}


def called(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two studies that share a training, one with a model that is not there, a torn file, and a recipe."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for name, changes in ALTERED.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))
    (folder / "torn.yaml").write_text("rows: [")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(STUDY["base"]))
    return folder


def test_a_study_that_fails_stops_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = called("tables", "--out", "out")
    assert result.exit_code == 1
    table = {
        cells[0].strip(): cells for line in result.stdout.splitlines() if len(cells := line[2:-2].split("| ")) == 6
    }
    assert {name: cells[1].partition(":")[0].strip() for name, cells in table.items() if "tables/" in name} == {
        "tables/broken.yaml": "failed",
        "tables/one.yaml": "done",
        "tables/torn.yaml": "failed",
        "tables/two.yaml": "done",
    }
    assert "'r3d'" in table["tables/broken.yaml"][1], "the sentence says what there is"
    counts = [[int(cell) for cell in table[f"tables/{name}.yaml"][3:]] for name in ("one", "two")]
    assert [sum(own) for own in counts] == [2, 1]

    page = (tmp_path / "out" / "index.html").read_text()
    assert re.findall(r'<a href="([^"]+report\.html)">([^<]+)<', page) == [
        ("tables-one-smoke/report.html", "Clean is &lt;easy&gt;"),
        ("tables-two-smoke/report.html", "Another"),
    ]
    assert all((tmp_path / "out" / f"tables-{name}-smoke" / "report.html").is_file() for name in ("one", "two"))
    assert "Nobody 2020, table 7" in page
    for place, verdict in enumerate(("reproduced", "contradicted", "undecided")):
        assert f"<strong>{sum(own[place] for own in counts)}</strong> {verdict}" in page

    (weights,) = tmp_path.rglob("model.safetensors")
    assert weights.is_relative_to(tmp_path / "out" / "trained")
    written = weights.stat().st_mtime_ns
    (tmp_path / "tables" / "torn.yaml").unlink()
    (tmp_path / "tables" / "broken.yaml").unlink()
    again = called("tables", "--out", "out")
    assert again.exit_code == 0, again.output
    assert weights.stat().st_mtime_ns == written
    alone = called("tables/one.yaml", "--out", "out/tables-one-smoke")
    assert alone.exit_code == 0, "one of several is the same as one alone"


def test_a_defect_of_ours_in_one_study_stops_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def defective(study: Study, out: Path, **_: object) -> Outcome:
        if study.title == "Another":
            return Outcome()
        raise ZeroDivisionError("division by zero\nand more")

    monkeypatch.setattr("robustvideo.reproduction.reproduce.reproduce", defective)
    result = called(folder, "--out", folder.parent / "out")
    assert result.exit_code == 1
    assert "one.yaml | failed: ZeroDivisionError: division by zero |" in result.stdout
    assert "two.yaml | done |" in result.stdout
    monkeypatch.setenv("ROBUSTVIDEO_DEBUG", "1")
    (folder / "broken.yaml").unlink()
    assert isinstance(called(folder, "--out", folder.parent / "out").exception, ZeroDivisionError)


def test_one_or_all() -> None:
    for arguments in ((), ("video_at/table1", "--all")):
        result = called(*arguments)
        assert result.exit_code == 2
        assert "or else say --all" in result.output


def test_what_is_packaged_is_found_by_its_folder(tmp_path: Path) -> None:
    everything = [name.as_posix() for name in studies_in(None)]
    assert everything == [name for name, file in recipes().items() if "rows" in yaml.safe_load(file.read_text())]
    assert [name.as_posix() for name in studies_in(Path("video_at"))] == [f"video_at/table{i}" for i in range(1, 5)]
    assert studies_in(Path("video_at/table1")) == []
    assert studies_in(Path("nothing")) == []
    with pytest.raises(InputError, match="has no study"):
        studies_in(tmp_path)
