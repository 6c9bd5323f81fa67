"""The documentation does what it says: commands parse, specs build, what is cheap runs, the site builds."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from robustvideo.attacks import load_attack
from robustvideo.attacks.attack import attacks
from robustvideo.cli import app
from robustvideo.data.video_file import write_preview
from robustvideo.evaluation.suite import make_suite
from robustvideo.purification import load_defense
from robustvideo.purification.purifier import defenses
from robustvideo.training.method import trainings
from robustvideo.training.recipe import make_recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^(<!-- run -->\n)?```(\w*)[^\n]*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LAUNCHER = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:(?:srun )?(?:torchrun|accelerate launch) .*?-m )?(?=robustvideo )")


def blocks(page: Path, *kinds: str) -> list[tuple[bool, str]]:
    """The code blocks of a page in some languages, and whether each is marked to be run."""
    return [(bool(mark), code) for mark, kind, code in BLOCK.findall(page.read_text("utf-8")) if kind in kinds]


def commands(code: str) -> list[list[str]]:
    """The arguments of every ``robustvideo`` command in a block of shell."""
    lines = code.replace("\\\n", " ").splitlines()
    found = [LAUNCHER.sub("", line.strip()) for line in lines]
    return [shlex.split(line, comments=True)[1:] for line in found if line.startswith("robustvideo ")]


ALL = [(page, words) for page in PAGES for _, code in blocks(page, "bash", "") for words in commands(code)]


def test_there_is_something_to_check() -> None:
    assert len(PAGES) >= 15
    assert len(ALL) >= 30
    assert {words[0] for _, words in ALL} >= {"evaluate", "report", "attack", "purify", "train", "reproduce", "list"}


@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page.stem}: {' '.join(w)[:60]}" for page, w in ALL])
def test_every_command_is_one(page: Path, words: list[str]) -> None:
    group = typer.main.get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    context = command.make_context(words[0], words[1:])
    given = context.params
    for spec in given.get("attack") or () if isinstance(given.get("attack"), list | tuple) else [given.get("attack")]:
        if spec:
            load_attack(spec)
    for spec in given["defense"] if isinstance(given.get("defense"), list | tuple) else [given.get("defense")]:
        if spec and spec != "none":
            load_defense(spec)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_in_yaml_are_valid(page: Path) -> None:
    import yaml

    for _, code in blocks(page, "yaml"):
        content = yaml.safe_load(code)
        make_recipe(content, page.stem) if "training" in content else make_suite(content, page.stem)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """What the tutorials have at hand: a video and a list of videos."""
    write_preview(tmp_path / "in.mp4", torch.rand(3, 16, 48, 64), fps=10)
    rows = ["path,label"]
    for number, label in enumerate(("walk", "run", "walk")):
        write_preview(tmp_path / f"{number}.mp4", torch.rand(3, 10, 40, 40), fps=10)
        rows.append(f"{number}.mp4,{label}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    return tmp_path


RUNNABLE = [page for page in PAGES if any(run for run, _ in blocks(page, "bash")) or blocks(page, "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in RUNNABLE if page.parent != ROOT], ids=lambda page: page.stem)
def test_what_can_be_run_runs(page: Path, place: Path) -> None:
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    script: list[str] = []
    for _, code in blocks(page, "python"):
        named = re.match(r"# (\w+\.py)\n", code)
        if named:
            (place / named[1]).write_text(code)
        else:
            script.append(code)
    for run, code in blocks(page, "bash"):
        for words in commands(code) if run else []:
            command = [sys.executable, "-m", "robustvideo", *words]
            done = subprocess.run(command, cwd=place, env=settings, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    if script:
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(script)],
            cwd=place,
            env=settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)  # it runs every attack, defence and training once, and the notebooks
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "trust" / "index.html").is_file()
    assert "Record" in (tmp_path / "site" / "records" / "index.html").read_text()
    assert not (tmp_path / "site" / "hooks").exists()
    methods = tmp_path / "site" / "methods"
    for folder, registry in (("attacks", attacks), ("defences", defenses), ("trainings", trainings)):
        listed = (methods / folder / "index.html").read_text()
        for name in registry.entries():
            assert f"<code>{name}</code></a>" in listed
            assert (methods / folder / name / "index.html").is_file()
    assert "PGD at 4/255" in (tmp_path / "site" / "notebooks" / "harden" / "index.html").read_text()
    pictures = list(methods.rglob("*.png"))
    assert len(pictures) >= 35
    assert max(picture.stat().st_size for picture in pictures) < 40_000
    shutil.rmtree(tmp_path / "site")
