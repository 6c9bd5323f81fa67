"""A run directory on another file system, and one whose shards are merged, hold what a plain one holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from robustvideo.attacks import FGSM, Noise
from robustvideo.cli import app
from robustvideo.errors import InputError
from robustvideo.evaluation import evaluate, open_run
from robustvideo.evaluation.records import comparable, finished_items, merge_shards, read_records, shard, write_shard
from robustvideo.evaluation.trust import load_checks
from robustvideo.report import build_report
from robustvideo.storage import local_copy, place, write_text

DATA = "embedded:kinetic?split=test&clips=6"


def run(out: Path | str, **options: Any) -> Path:
    attacks = [Noise(eps=8 / 255), FGSM(eps=8 / 255)]
    settings: dict[str, Any] = {"batch_size": 2, "save_clips": 2, "quiet": True, **options}
    return evaluate("embedded:r3d", DATA, attacks, out=out, **settings).path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture
def address() -> str:
    pytest.importorskip("upath")
    return f"memory://{uuid4().hex}/run"


def test_a_run_on_another_file_system_is_continued_examined_and_reported(plain: Path, address: str) -> None:
    out = place(address)
    run(address)
    shard(out, "0000001-001").unlink()
    cut_short = open_run(out)
    cut_short.manifest.status = "running"
    cut_short.save()
    run(address, trust=True)
    assert comparable(read_records(out)) == comparable(read_records(plain))
    assert open_run(out).manifest.status == "finished"
    assert load_checks(out)["none"]
    videos = {p.name: p.read_bytes() for p in (plain / "clips").rglob("*.mkv")}
    assert {p.name: p.read_bytes() for p in (out / "clips").rglob("*.mkv")} == videos
    page = build_report([out]).read_text()
    assert page.count("data:video") == build_report([plain], plain.parent / "page.html").read_text().count("data:video")
    assert f'href="{address}/run.json"' in page
    assert not [p for p in out.rglob("*") if ".tmp" in p.name]


def test_the_command_line_takes_addresses(address: str, tmp_path: Path) -> None:
    options = ["--model", "embedded:r3d", "--data", DATA, "--attack", "fgsm", "--save-clips", "0", "--device", "cpu"]
    done = CliRunner().invoke(app, ["evaluate", *options, "--out", address])
    assert done.exit_code == 0, done.output
    assert f"Report: {address}/report.html" in done.output
    done = CliRunner().invoke(app, ["report", address, "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output


def test_places(tmp_path: Path, address: str) -> None:
    assert place(str(tmp_path)) == tmp_path == place(f"file://{tmp_path}") == place(tmp_path)
    text = place(address) / "a.txt"
    assert place(text) is text  # type: ignore[arg-type, comparison-overlap]
    write_text(text, "one")
    write_text(text, "two")
    with local_copy(text) as copy:
        assert copy.read_text() == "two"
    assert [p.name for p in text.parent.iterdir()] == ["a.txt"]
    with pytest.raises(InputError, match="no place to write to"):
        place("nowhere://x")


def test_merged_shards_hold_the_same(plain: Path, tmp_path: Path) -> None:
    for path in (plain / "records").iterdir():
        target = tmp_path / "records" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    write_shard(shard(tmp_path, "0000009-001"), [])  # an item without rows is done all the same
    items, rows = finished_items(tmp_path), read_records(tmp_path)
    merge_shards(tmp_path, least=99)
    assert len(list((tmp_path / "records").iterdir())) == 10
    merge_shards(tmp_path)
    (merged,) = (tmp_path / "records").iterdir()
    assert finished_items(tmp_path) == items
    assert comparable(read_records(tmp_path)) == comparable(rows) == comparable(read_records(plain))
    write_shard(shard(tmp_path, rows[0].item), [row for row in rows if row.item == rows[0].item])
    assert comparable(read_records(tmp_path)) == comparable(rows), "what a kill left twice is read once"
    merged.write_bytes(merged.read_bytes()[:-40])
    for read in (finished_items, read_records):
        with pytest.raises(InputError, match="damaged"):
            read(tmp_path)


def test_merging_on_the_way_and_going_on_with_merged_shards(plain: Path, tmp_path: Path) -> None:
    from robustvideo.evaluation import engine, evaluation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "MERGED_AT", 4)
        patch.setattr(evaluation, "MERGED_FROM", 2)
        out = run(tmp_path / "run")
        assert len(list((out / "records").iterdir())) == 2
        lost = sorted((out / "records").iterdir())[0]
        lost.unlink()
        assert len(finished_items(out)) < 9
        run(out)
    assert comparable(read_records(out)) == comparable(read_records(plain))
