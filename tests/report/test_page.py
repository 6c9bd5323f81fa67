from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from synthetic_run import CLASSES, FOES, HOSTILE

from robustvideo.errors import InputError
from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.records import CLEAN, Record
from robustvideo.evaluation.run import open_run
from robustvideo.report import build_report
from robustvideo.report.page import render, reproduction
from robustvideo.report.series import load_series

VOID = {"meta", "img", "input", "br", "link", "hr", "path", "circle"}


class Outline(HTMLParser):
    """The page's text, links and ids; complains about tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [found["href"] or ""] if "href" in found else []
        self.sources += [found["src"] or ""] if "src" in found else []
        self.ids += [found["id"] or ""] if "id" in found else []
        self.scripts += tag == "script" and "type" not in found
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def outline(page: Path | str) -> Outline:
    parser = Outline()
    parser.feed(page if isinstance(page, str) else page.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []
    return parser


def words(page: Path) -> str:
    return words_of(page.read_text(encoding="utf-8"))


def words_of(content: str) -> str:
    return re.sub(r"\s+", " ", " ".join(outline(content).text).replace("\u202f", " "))


def test_the_page_says_what_was_found(page: Path, run_dir: Path) -> None:
    assert page == run_dir / "report.html"
    text = words(page)
    assert re.search(r"With changes of at most 8/255 per pixel, the strongest attack leaves \d+ % \[", text)
    for expected in ("embedded:r3d", "robustvideo evaluate --model", "Worst case per clip", "apgd_dlr(steps=20)"):
        assert expected in text
    assert "2 more could not be used" in text
    assert "the file ends in the middle of a frame" in text


def test_the_page_needs_nothing_but_itself(page: Path) -> None:
    found = outline(page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in found.sources)
    assert not [link for link in found.links if "//" in link]
    assert found.scripts == 1
    content = page.read_text(encoding="utf-8")
    assert "@import" not in content
    assert not re.search(r"url\((?!data:)", content)


def test_ids_are_unique_and_anchors_lead_somewhere(page: Path) -> None:
    found = outline(page)
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)


def test_links_to_the_raw_data_resolve_from_wherever_the_page_lies(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run("a run & more", clips=3, saved=0)
    for out in (None, tmp_path / "deep" / "page.html", tmp_path):
        page = build_report([run], out)
        links = [link for link in outline(page).links if not link.startswith("#")]
        assert len(links) == 2
        assert all((page.parent / unquote(link)).exists() for link in links)


def test_the_page_without_previews_is_small(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    assert len(re.sub(r"[A-Za-z0-9+/=]{200,}", "", content)) < 300_000


def test_hostile_names_are_text(new_run: Callable[..., Path]) -> None:
    run = new_run(classes=[HOSTILE, *CLASSES[1:]], model=HOSTILE, saved=2, levels=(8,))
    page = build_report([run])
    found = outline(page)
    assert found.scripts == 1
    assert "x" not in found.sources
    assert HOSTILE in "".join(found.text)


def test_several_runs_are_compared(new_run: Callable[..., Path]) -> None:
    runs = [new_run("first", saved=1), new_run("second", saved=1, model="embedded:r3d_at", toughness=3.0)]
    page = build_report(runs)
    assert page == runs[0].parent / "comparison.html"
    text = words(page)
    assert "embedded:r3d keeps" in text
    assert "embedded:r3d_at differs from embedded:r3d by +" in text
    assert {f"{run.name}/run.json" for run in runs} <= set(outline(page).links)


def test_transferred_clips_name_where_they_were_crafted(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    rows = [replace(r, clip_file="") for r in series.rows.records() if r.attack in (CLEAN, "pgd(steps=20)")]
    moved = [replace(r, surrogate="embedded:frame2d") for r in rows if r.attack != CLEAN]
    other = replace(series, rows=Columns.of([r for r in rows if r.attack == CLEAN] + moved))
    text = render([other], run_dir)
    assert "pgd(steps=20) from embedded:frame2d" in text
    assert "Only transferred clips" in text
    both = replace(series, rows=Columns.of(rows + moved))
    assert len(both.attacked) == 2 * len(other.attacked)
    assert "Only transferred clips" not in render([both], run_dir)


def test_re_encoding_has_its_table(run_dir: Path) -> None:
    (series,) = load_series([run_dir])

    def recode(record: Record) -> Record:
        known = record.status == "ok" and (record.attack == CLEAN or record.clean_prediction == record.label)
        success = record.attack == CLEAN and record.sample_id < "set1/010"
        return replace(record, codecs=["h264:23"], codec_success=[success], clip_file="") if known else record

    text = words_of(render([replace(series, rows=Columns.of(recode(r) for r in series.rows.records()))], run_dir))
    section = text[text.index("Does the attack outlive") :]
    assert re.search(r"no attack 5 % \[\d+, \d+\] 25 % \[14, 40\]", section)
    assert re.search(r"pgd\(steps=20\) \d+ % \[\d+, \d+\] 0 % \[0, 9\]", section)


def test_many_runs_name_the_most_and_the_least_robust(new_run: Callable[..., Path]) -> None:
    runs = [new_run(n, clips=20, saved=0, toughness=t) for n, t in (("a", 2.0), ("b", 1.0), ("c", 4.0), ("d", 3.0))]
    assert re.search(r"the most robust of 4, c , keeps \d+ % .* the least, b , \d+ %", words(build_report(runs)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"clips": 0, "foes": ()}, "No clip has been evaluated yet."),
        ({"clips": 0, "foes": (), "unusable": 2}, "No clip has been evaluated yet."),
        ({"foes": (), "saved": 0}, "No attack has been run yet."),
        ({"clips": 1, "saved": 1}, "Few clips"),
        ({"clips": 7, "status": "running"}, "Unfinished run."),
        ({"levels": (8,), "foes": FOES[:1]}, "A single budget"),
        ({"classes": ()}, "class 0"),
    ],
    ids=["empty", "unusable only", "clean only", "one clip", "unfinished", "one attack", "nameless classes"],
)
def test_whatever_a_run_holds_there_is_a_page(
    new_run: Callable[..., Path], options: dict[str, object], expected: str
) -> None:
    run = new_run(**{"saved": 1, **options})
    assert expected in words(build_report([run]))


def test_a_comparison_with_an_empty_run_is_a_page(new_run: Callable[..., Path]) -> None:
    runs = [new_run("full", saved=0), new_run("empty", clips=0, foes=(), model="embedded:r3d_at")]
    assert "embedded:r3d_at: no results" in words(build_report(runs))
    assert "not run" in words(build_report(runs))


def test_missing_and_damaged_clips_are_said_in_their_place(new_run: Callable[..., Path]) -> None:
    run = new_run(saved=2, levels=(8,))
    broken = next(f for f in (run / "clips" / "clip-000").iterdir() if f.stem != "clean")
    broken.write_bytes(b"not a video")
    for path in (run / "clips" / "clip-001").iterdir():
        path.unlink()
    text = words(build_report([run]))
    assert "cannot be read" in text
    assert "clips/clip-001/clean.mkv is missing" in text


def test_no_run_and_no_run_directory_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one run"):
        build_report([])
    with pytest.raises(InputError, match=r"no run\.json"):
        build_report([tmp_path])


def test_a_command_is_put_together_where_none_was_recorded(run_dir: Path) -> None:
    run = open_run(run_dir)
    run.manifest.command = ""
    command = reproduction(run)
    assert command.startswith("robustvideo evaluate --model embedded:r3d --data manifest:clips.csv")
    assert "--attack 'pgd(steps=20)'" in command
    run.manifest.configuration["model"] = "my.module.Net"
    assert reproduction(run) == ""
