"""The page about routing, from a real tiny mixture: what it says, and that a browser shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from browsing import CHROMIUM, on_phone_and_desktop
from typer.testing import CliRunner

from robustvideo.cli import app
from robustvideo.data import load_data
from robustvideo.evaluation.routing import Answer, Measured, Routes, summarise
from robustvideo.models import load_model
from robustvideo.report.routing import build_routing_page

MODEL = "video_moe?expert=r3d_small&experts=3"
DATA = "embedded:kinetic?split=test&clips=3"


def run(out: Path, *arguments: str, model: str = MODEL) -> str:
    command = ["routing", model, "--data", DATA, "--out", str(out), "--device", "cpu", *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("routing")
    torch.manual_seed(0)
    said = run(out, "--attack", "pgd_r(steps=2)", "--attack", "tlga_r(steps=2)", "--show", "2", "--batch-size", "2")
    assert "experts get" in said
    return out


def test_the_numbers_lie_beside_the_page_and_are_the_model_s(written: Path) -> None:
    content = json.loads((written / "routing.json").read_text())
    (model,) = content["models"]
    assert [s["attack"].partition("(")[0] for s in model["summaries"]] == ["clean", "pgd_r", "tlga_r"]
    data = load_data(DATA)
    first = data.clip(0)
    probabilities = load_model(MODEL).router(first).softmax(1)[0].tolist()
    clip = model["clips"][0]
    assert clip["sample_id"] == first.ids[0]
    assert clip["answers"]["clean"]["probabilities"] == pytest.approx(probabilities, abs=1e-5)
    steps = next(a["steps"] for name, a in clip["answers"].items() if name.startswith("tlga_r"))
    assert len(steps) == first.frames
    assert all(0 < step <= 1.25 * 8 / 255 + 1e-9 for step in steps)
    assert sorted(p.name for p in written.iterdir()) == ["routing.html", "routing.json"]


def answer(probabilities: tuple[float, ...], prediction: int, steps: tuple[float, ...] = ()) -> Answer:
    return Answer(probabilities, prediction, 0.9, 12.5, 250.0, 0.8, 0.7, steps)


def measured(name: str, clip: str = "a") -> Measured:
    attack = "tlga_r(eps=8/255)"
    routes = [Routes(clip, 0, {"clean": answer((0.7, 0.2, 0.1), 0), attack: answer((0.2, 0.1, 0.7), 1, (0.01, 0.005))})]
    return Measured(name, 1.5, (summarise(routes), summarise(routes, attack)), tuple(routes))


def test_who_was_chosen_before_and_after_how_surely_and_in_which_steps(tmp_path: Path) -> None:
    page = build_routing_page(
        [measured("moe")], tmp_path / "p.html", data="d", labels=("up", "down"), pictures={"a": b"jpeg"}
    ).read_text(encoding="utf-8")
    assert "the weakest expert" in page
    assert "sends 100\u202f% of the clips to another expert" in page
    assert "Lips-R 12.5" in page
    assert "frame 1: 2.55/255" in page
    assert "frame 2: 1.27/255" in page or "frame 2: 1.28/255" in page
    assert 'height="24.0"' in page
    assert 'height="12.0"' in page


def test_several_mixtures_and_hostile_names(tmp_path: Path) -> None:
    hostile = "<script>window.hacked = 1</script>"
    both = [measured("one", hostile), measured(hostile, hostile)]
    build_routing_page(both, tmp_path / "p.html", data=hostile, pictures={hostile: b""})
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "2 mixtures of experts" in page
    assert hostile not in page


def test_what_cannot_be_measured_is_one_sentence(tmp_path: Path) -> None:
    for arguments in (["r3d_small"], [MODEL, "--attack", "tlga"], [MODEL, "--eps", "x"]):
        result = CliRunner().invoke(app, ["routing", *arguments, "--data", DATA, "--out", str(tmp_path / "o")])
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "o").exists()


def test_it_has_help_with_examples() -> None:
    assert "Examples" in CliRunner().invoke(app, ["routing", "--help"]).output


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_without_complaint_on_desktop_and_phone(written: Path) -> None:
    for page in on_phone_and_desktop(written / "routing.html"):
        assert page.locator("article.passage").count() == 2
        assert page.locator("svg.steps").count() == 2
        boxes = [box.bounding_box() for box in page.locator("svg.steps").all()]
        assert all(box is not None and box["width"] > 20 and box["height"] > 10 for box in boxes)
        broken = "[...document.images].filter(i => !i.naturalWidth).length"
        assert page.evaluate(broken) == 0
