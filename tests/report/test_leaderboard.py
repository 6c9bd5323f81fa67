"""The leaderboard: what it ranks, what it refuses, and how it behaves in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM, on_phone_and_desktop
from typer.testing import CliRunner

from robustvideo.attacks import FGSM, PGD, Noise
from robustvideo.attacks.attack import Attack
from robustvideo.cli import app
from robustvideo.errors import InputError, RunConflict
from robustvideo.evaluation import evaluate, open_run
from robustvideo.evaluation.records import read_records, shard, write_shard
from robustvideo.evaluation.trust.check import GRADIENTS, Check, save_checks
from robustvideo.purification import load_defense
from robustvideo.report.leaderboard import build_leaderboard

PASS = Check(GRADIENTS, "pass", 0.0, 0.01, "No gradient is zero.")
FAIL = Check(GRADIENTS, "fail", 1.0, 0.01, "Every gradient is zero.", "Look why.")


def run(out: Path, model: str, attacks: list[Attack], **options: Any) -> Path:
    data = options.pop("data", "embedded:kinetic?split=test&clips=16")
    settings: dict[str, Any] = {"save_clips": 0, "quiet": True, **options}
    return evaluate(model, data, attacks, out=out, **settings).path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    weak: list[Attack] = [Noise(eps=2 / 255), FGSM(eps=2 / 255), FGSM(eps=4 / 255)]
    found = {
        "plain": run(folder / "plain", "embedded:r3d", weak),
        "stronger": run(folder / "stronger", "embedded:r3d", [PGD(eps=4 / 255, steps=4)]),
        "hardened": run(folder / "hardened", "embedded:r3d_at", weak, defenses=[None, load_defense("bit_depth")]),
        "elsewhere": run(folder / "elsewhere", "embedded:r3d", weak[:2], data="embedded:kinetic?split=val&clips=4"),
    }
    save_checks(found["plain"], {"none": [PASS]})
    save_checks(found["hardened"], {"none": [PASS], "bit_depth": [PASS, FAIL]})
    return found


@pytest.fixture(scope="module")
def site(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_leaderboard(list(runs.values()), tmp_path_factory.mktemp("site"))


@pytest.fixture
def copy(runs: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs["plain"], tmp_path / "copy"))


def test_entries_are_ranked_by_the_worst_case_over_all_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    from robustvideo.evaluation.columns import Columns
    from robustvideo.evaluation.metrics import worst_case
    from robustvideo.report.leaderboard import _series, _table

    known = [one for name in ("plain", "stronger", "hardened") for one in _series(runs[name])]
    pages = {str(one.run.path.resolve()): "page" for one in known}
    table = _table("data", known, pages)
    assert [entry.series.name for entry in table.entries][-1] == "embedded:r3d"
    assert table.threats == ("L∞ 2/255", "L∞ 4/255")
    assert table.chosen == 1
    assert [entry.verdict for entry in table.entries] != []
    merged = table.entries[-1]
    assert merged.verdict == "not examined", "one of its runs is not"
    assert len(merged.pages) == 2
    rows = [r for name in ("plain", "stronger") for r in read_records(runs[name]) if r.eps == 4 / 255]
    stood = worst_case(Columns.of(rows))
    assert merged.cells[1] is not None
    assert merged.cells[1].estimate == sum(stood.values()) / 16
    alone = worst_case(Columns.of(r for r in read_records(runs["plain"]) if r.eps == 4 / 255))
    assert sum(stood.values()) < sum(alone.values())
    verdicts = {entry.series.defense: entry.verdict for entry in table.entries[:2]}
    assert verdicts == {"none": "pass", "bit_depth": "fail"}


def test_a_purifier_under_two_gradients_is_one_entry_at_its_worst(tmp_path: Path) -> None:
    from robustvideo.evaluation.columns import Columns
    from robustvideo.evaluation.metrics import worst_case
    from robustvideo.report.leaderboard import _series, _table

    attack: list[Attack] = [PGD(eps=4 / 255, steps=2)]
    specs = {"seen": "wavelet", "blind": "wavelet(gradient=bpda)"}
    found = [run(tmp_path / n, "embedded:r3d", attack, defenses=[load_defense(s)]) for n, s in specs.items()]
    known = [one for path in found for one in _series(path)]
    table = _table("data", known, {str(one.run.path.resolve()): "page" for one in known})
    (entry,) = table.entries
    assert entry.series.defense == "wavelet"
    assert len(entry.pages) == 2
    assert len(entry.attacks) == 2
    assert all(spec in " ".join(entry.attacks) for spec in {one.defense for one in known})
    stood = [worst_case(Columns.of(r for r in read_records(path) if r.attack != "clean")) for path in found]
    assert entry.cells[0] is not None
    assert entry.cells[0].estimate == sum(all(own[clip] for own in stood) for clip in stood[0]) / 16


def test_a_run_with_both_gradients_is_linked_once(tmp_path: Path) -> None:
    from robustvideo.report.leaderboard import _series, _table

    both = [load_defense("wavelet"), load_defense("wavelet(gradient=bpda)")]
    known = _series(run(tmp_path / "both", "embedded:r3d", [FGSM(eps=4 / 255)], defenses=both))
    (entry,) = _table("data", known, {str(known[0].run.path.resolve()): "page"}).entries
    assert entry.pages == (("both", "page"),)
    assert len(entry.attacks) == 2


def test_the_site_holds_the_reports_it_links(site: Path) -> None:
    text = site.read_text()
    linked = {part.partition('"')[0] for part in text.split('href="')[1:] if part.startswith("runs/")}
    assert len(linked) == 4
    assert all((site.parent / name).is_file() for name in linked)
    assert text.count("<h2>embedded:kinetic") == 2, "different clips, different tables"


def unfinished(path: Path) -> None:
    changed = open_run(path)
    changed.manifest.status = "running"
    changed.save()


def unsigned(path: Path) -> None:
    changed = open_run(path)
    changed.manifest.signature = ""
    (path / "run.json").write_text(changed.manifest.model_dump_json())


def rewritten(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        rows = read_records(path)
        own = [row for row in rows if row.item == "0000000-002"]
        write_shard(shard(path, "0000000-002"), [replace(own[0], **changes), *own[1:]])

    return change


def without_one(path: Path) -> None:
    shard(path, "0000001-002").unlink()


def scratched(path: Path) -> None:
    file = shard(path, "0000000-001")
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


def edited(path: Path) -> None:
    (path / "run.json").write_text((path / "run.json").read_text().replace('"clips": 16', '"clips": 61'))


def believed(path: Path) -> None:
    (path / "trust.json").write_text((path / "trust.json").read_text().replace("0.01", "0.91"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (unfinished, "is not finished"),
        (unsigned, "did not sign"),
        (without_one, "work items"),
        (scratched, "damaged"),
        (edited, "not what was written"),
        (believed, "damaged"),
        (rewritten(linf=5 / 255), "more than its budget"),
        (rewritten(success=True, adversarial_prediction=0, label=0, clean_prediction=0), "another label|success and a"),
        (rewritten(label=7, clean_prediction=7), "another label"),
        (lambda path: (path / "run.json").unlink(), "not a run directory"),
    ],
)
def test_what_is_not_whole_is_refused_with_a_sentence(copy: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(copy)
    with pytest.raises(InputError, match=words) as raised:
        build_leaderboard([copy], copy.parent / "site")
    assert "\n" not in str(raised.value)
    assert not (copy.parent / "site").exists()


def test_the_command(runs: dict[str, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["leaderboard", str(runs["plain"]), "--out", str(tmp_path / "site")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "site" / "index.html").is_file()
    twice = CliRunner().invoke(app, ["leaderboard", *[str(runs["plain"])] * 2, "--out", str(tmp_path / "two")])
    assert twice.exit_code == 2
    assert twice.output.startswith("Error: A run is given twice")


def test_a_directory_of_several_runs_stands_for_them(runs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("plain", "hardened"):
        shutil.copytree(runs[name], tmp_path / "both" / name)
    (tmp_path / "both" / "crafted").mkdir()
    (tmp_path / "both" / "report.html").write_text("of both")
    command = ["leaderboard", str(tmp_path / "both"), "--out", str(tmp_path / "site")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "site" / "runs").iterdir())) == 2
    twice = CliRunner().invoke(app, [*command, str(tmp_path / "both" / "plain")])
    assert "given twice" in twice.output


def test_a_training_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "training.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds a training run.* --model trained:.*/training/model\.safetensors"):
        build_leaderboard([tmp_path / "training"], tmp_path / "site")


def test_a_folder_of_other_files_is_left_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<title>My videos</title>")
    (tmp_path / "letter.txt").write_text("dear")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunConflict, match="is not empty and is not a leaderboard"):
        build_leaderboard([runs["plain"]], tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "index.html").read_text() == "<title>My videos</title>"
    with pytest.raises(InputError, match="is a file"):
        build_leaderboard([runs["plain"]], tmp_path / "letter.txt")


def test_a_leaderboard_is_replaced_and_what_was_put_beside_it_stays(runs: dict[str, Path], tmp_path: Path) -> None:
    build_leaderboard([runs["plain"]], tmp_path)
    (tmp_path / "CNAME").write_text("robust.example")
    index = build_leaderboard([runs["hardened"]], tmp_path)
    assert "embedded:r3d_at" in index.read_text()
    assert (tmp_path / "CNAME").is_file()


def test_a_leaderboard_that_was_left_half_way_is_finished(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("robustvideo.report.leaderboard.build_report", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_leaderboard([runs["plain"]], tmp_path)
    assert build_leaderboard([runs["plain"]], tmp_path).is_file()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser(site: Path) -> None:
    for page in on_phone_and_desktop(site):
        table = page.locator("#table-1")

        def column(number: int, table: Any = table) -> list[str]:
            cells = table.locator(f"tbody tr > :nth-child({number + 1})")
            return [str(value) for value in cells.evaluate_all("cells => cells.map(c => c.dataset.value)")]

        def check(heading: str, number: int, first: bool, table: Any = table) -> None:
            table.get_by_role("button", name=heading).click()
            values = [float(value) for value in column(number, table)]
            assert values == sorted(values, reverse=first)
            order = "descending" if first else "ascending"
            assert table.get_by_role("columnheader", name=heading).get_attribute("aria-sort") == order

        values = [float(value) for value in column(5)]
        assert values == sorted(values, reverse=True), "as it comes"
        check("No attack", 3, True)
        check("No attack", 3, False)
        check("Trust", 6, True)
        table.get_by_role("button", name="Model").click()
        assert column(1) == sorted(column(1))
        assert table.locator("tbody .rank").all_inner_texts() == ["1", "2", "3"]
        page.locator("tbody a").first.click()
        page.wait_for_url("**/runs/*.html")
