"""The purify command, and --defense of evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from robustvideo.cli import app
from robustvideo.clip import Clip
from robustvideo.data import load_data, read_lossless, write_lossless
from robustvideo.models import load_model
from robustvideo.purification import Defended, load_defense
from robustvideo.purification.windows import purify_video


@pytest.fixture
def film(tmp_path: Path) -> Path:
    clip = load_data("embedded:kinetic?split=test&clips=1").clip(0)
    write_lossless(tmp_path / "in.mkv", clip, fps=12)
    return tmp_path / "in.mkv"


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return result.output


def test_it_writes_what_the_purifier_makes_of_the_video(film: Path, tmp_path: Path) -> None:
    said = invoke("purify", str(film), "--defense", "jpeg(quality=30)", "--out", str(tmp_path / "out.mkv"))
    assert "jpeg(quality=30) on" in said
    expected = purify_video(load_defense("jpeg(quality=30)"), read_lossless(film))
    assert torch.equal(read_lossless(tmp_path / "out.mkv").video, expected.video)


def test_it_has_help_with_examples() -> None:
    result = CliRunner().invoke(app, ["purify", "--help"])
    assert "Examples" in result.output


def test_windows_are_the_user_s_choice(film: Path, tmp_path: Path) -> None:
    outs = []
    for name, extra in (("whole", []), ("windows", ["--window", "6", "--overlap", "2"])):
        invoke("purify", str(film), "--defense", "median", "--out", str(tmp_path / f"{name}.mkv"), *extra)
        outs.append(read_lossless(tmp_path / f"{name}.mkv").video)
    assert torch.equal(*outs)


def test_the_sound_stays(film: Path, tmp_path: Path) -> None:
    silent = read_lossless(film)
    random = torch.Generator().manual_seed(0)
    sound = torch.randint(-32768, 32768, (1, 2, silent.frames * 1000), generator=random).float() / 32768
    heard = Clip(silent.video, sound, 12_000)
    write_lossless(tmp_path / "heard.mkv", heard, fps=12)
    for window in ("0", "6"):
        out = tmp_path / f"{window}.mkv"
        invoke("purify", str(tmp_path / "heard.mkv"), "--defense", "median", "--window", window, "--out", str(out))
        written = read_lossless(out)
        assert written.sample_rate == 12_000
        kept = written.signal("audio")
        assert 0 <= sound.shape[2] - kept.shape[2] <= 24  # a container's clock is in milliseconds
        assert torch.equal(kept, sound[..., : kept.shape[2]])
    invoke("purify", str(film), "--defense", "median", "--out", str(tmp_path / "silent.mkv"))
    assert read_lossless(tmp_path / "silent.mkv").audio is None


def test_a_purifier_that_votes_says_which_vote_is_written(film: Path, tmp_path: Path) -> None:
    defense = "videopure(steps=2, flow=none)"
    said = invoke("purify", str(film), "--defense", defense, "--out", str(tmp_path / "out.mkv"))
    assert "candidate=1" in said
    expected = purify_video(load_defense("videopure(steps=2, flow=none, candidate=1)"), read_lossless(film))
    assert torch.equal(read_lossless(tmp_path / "out.mkv").video, expected.video)


def test_bad_input_is_one_sentence(film: Path, tmp_path: Path) -> None:
    for arguments in (["--defense", "jpgg"], ["--defense", "median", "--window", "4", "--overlap", "9"]):
        command = ["purify", str(film), *arguments, "--out", str(tmp_path / "o.mkv"), "--device", "cpu"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2
        assert not (tmp_path / "o.mkv").exists()


def test_evaluate_takes_defences(tmp_path: Path) -> None:
    said = invoke(
        *("evaluate", "--model", "embedded:r3d", "--data", "embedded:kinetic?split=test&clips=3"),
        *("--attack", "noise", "--defense", "none", "--defense", "bit_depth(bits=3)", "--out", str(tmp_path / "run")),
        "--json",
    )
    rows = json.loads(said[said.index("[") : said.rindex("]") + 1])
    assert [(row["defense"], row["attack"]) for row in rows] == [
        *(("none", "clean"), ("none", "noise")),
        *(("bit_depth(bits=3)", "clean"), ("bit_depth(bits=3)", "noise")),
    ]


def test_attack_takes_a_defence(film: Path, tmp_path: Path) -> None:
    """Behind a defence that blackens all but the brightest, the model answers what it answers to that."""
    defense = "bit_depth(bits=1)"
    options = ("--model", "embedded:r3d", "--attack", "fgsm(eps=2/255)", "--out", str(tmp_path / "out.mkv"))
    plain, defended = (invoke("attack", str(film), *options, *more) for more in ((), ("--defense", defense)))
    model = Defended(load_model("embedded:r3d"), load_defense(defense)).eval()
    with torch.no_grad():
        logits = model(read_lossless(film))[0]
    assert model.labels is not None
    answer = f"before  {model.labels[int(logits.argmax())]} ({float(logits.double().softmax(0).max()):.1%})"
    assert answer in defended
    assert answer not in plain


def test_defenses_are_listed() -> None:
    result = CliRunner().invoke(app, ["list", "defenses", "--json"])
    assert {"jpeg", "wavelet", "temporal_shuffle", "video_compression", "bit_depth", "median"} <= set(
        json.loads(result.stdout)
    )
