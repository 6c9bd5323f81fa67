"""The evaluate command: what a script reads, and what a person sees."""

from __future__ import annotations

import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robustvideo.cli import app
from robustvideo.evaluation.run import open_run

ARGUMENTS = ["evaluate", "--model", "embedded:r3d", "--data", "embedded:kinetic?split=test&clips=4", "--device", "cpu"]


def test_json_is_json_and_the_run_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(app, [*ARGUMENTS, "--attack", "noise", "--eps", "4/255", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert [row["attack"] for row in rows] == ["clean", "noise"]
    assert {row["clips"] for row in rows} == {4}
    assert {caution["title"] for row in rows for caution in row["cautions"]} >= {"Few clips", "A single budget"}
    assert {"title", "text", "serious", "details"} == set(rows[0]["cautions"][0])
    assert open_run(out).manifest.status == "finished"
    assert (out / "report.html").is_file()


COMMANDS = {command.name: command.callback for command in app.registered_commands}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_with_examples_that_a_shell_takes(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Examples" in result.output
    examples = re.findall(r"`([^`]+)`", str(COMMANDS[command].__doc__).partition("**Examples**")[2])
    assert examples
    for example in examples:
        line = " ".join(example.split())
        assert "robustvideo" in shlex.split(line)
        assert not set("&?*()<>|;$[]{}") & set(re.sub("'[^']*'", "", line)), line
        done = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_what_puts_a_number_in_doubt_is_a_warning(tmp_path: Path) -> None:
    blind = [*ARGUMENTS, "--attack", "square(eps=1/255, queries=2)", "--attack", "noise(eps=1/255)"]
    result = CliRunner().invoke(app, [*blind, "--out", str(tmp_path / "c"), "--json"])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    assert "is no stronger than random noise. At L∞ 1/255" in line
    serious = {
        caution["title"] for row in json.loads(result.stdout) for caution in row["cautions"] if caution["serious"]
    }
    assert [title in line for title in serious] == [True]


def test_budgets_that_no_attack_takes_are_a_warning(tmp_path: Path) -> None:
    told = "Warning: --eps 4/255, 8/255 changes nothing: every attack names its own budget"
    budgets = ["--eps", "4/255", "--eps", "8/255", "--attack", "noise(eps=1/255)"]
    result = CliRunner().invoke(app, [*ARGUMENTS, *budgets, "--out", str(tmp_path / "own")])
    assert told in result.stderr
    result = CliRunner().invoke(app, [*ARGUMENTS, *budgets, "--attack", "noise", "--out", str(tmp_path / "both")])
    assert result.exit_code == 0, result.output
    assert "changes nothing" not in result.stderr


def test_a_report_of_the_directory_of_several_models(tmp_path: Path) -> None:
    models = [*ARGUMENTS, "--model", "embedded:r3d_at", "--attack", "noise(eps=4/255)", "--save-clips", "0"]
    assert CliRunner().invoke(app, [*models, "--out", str(tmp_path / "two")]).exit_code == 0
    (tmp_path / "two" / "report.html").unlink()
    result = CliRunner().invoke(app, ["report", str(tmp_path / "two")])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "two" / "report.html")
    page = (tmp_path / "two" / "report.html").read_text()
    assert page.index("embedded:r3d<") < page.index("embedded:r3d_at<")


def test_a_warning_of_this_package_is_its_sentence() -> None:
    script = (
        "import warnings\nfrom robustvideo.cli.sentence import warn_in_one_sentence\n"
        "from robustvideo.errors import RobustVideoWarning\nwarn_in_one_sentence()\n"
        "warnings.warn('It is left out.', RobustVideoWarning)\nwarnings.warn('of a library')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, *others = done.stderr.splitlines()
    assert first == "Warning: It is left out."
    assert "UserWarning: of a library" in others[0]


def test_plain_output_when_not_on_a_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "robustvideo", *ARGUMENTS, "--attack", "noise", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert not set("┃│━─") & set(done.stdout)
    assert "robust accuracy" in done.stdout


def test_models_whose_long_specs_begin_alike_can_be_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from robustvideo.cli.evaluate import print_summary
    from robustvideo.report.series import load_series

    done = CliRunner().invoke(app, [*ARGUMENTS, "--attack", "noise", "--out", str(tmp_path / "one")])
    assert done.exit_code == 0, done.output
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    specs = [f"trained:{'a-long-folder/' * 15}{name}/model.safetensors" for name in ("one", "two")]
    for name, spec in zip(("one", "two"), specs, strict=True):
        run = open_run(tmp_path / name)
        run.manifest.model["spec"] = spec
        run.save()
    capsys.readouterr()
    print_summary(load_series([tmp_path / "one", tmp_path / "two"]), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in specs] == specs
    assert len([line for line in lines if "robust accuracy" in line]) == 2


def test_a_suite_of_two_models_makes_two_runs_and_a_comparison(tmp_path: Path) -> None:
    suite = tmp_path / "two.yaml"
    suite.write_text(
        "models: [embedded:r3d, embedded:r3d_at]\ndata: embedded:kinetic?split=test&clips=3\n"
        "attacks: [fgsm]\neps: [2/255, 8/255]\nsave_clips: 1\n"
    )
    result = CliRunner().invoke(app, ["evaluate", str(suite), "--out", str(tmp_path / "runs"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    runs = [path for path in (tmp_path / "runs").iterdir() if (path / "run.json").exists()]
    assert len(runs) == 2
    page = (tmp_path / "runs" / "report.html").read_text()
    assert "embedded:r3d_at" in page


def test_attack_writes_what_it_verified(tmp_path: Path) -> None:
    from robustvideo.data import load_data, read_lossless, write_lossless
    from robustvideo.models import load_model

    source = load_data("embedded:kinetic?split=test&clips=1").clip(0)
    write_lossless(tmp_path / "in.mkv", source, fps=12)
    command = ["attack", str(tmp_path / "in.mkv"), "--model", "embedded:r3d", "--attack", "pgd(eps=8/255, steps=10)"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out.mkv"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    adversarial = read_lossless(tmp_path / "out.mkv")
    assert (adversarial.video - source.video).abs().max() <= 8 / 255 + 1e-6
    model = load_model("embedded:r3d")
    said = model.labels[int(model(adversarial).argmax())]
    assert f"after   {said}" in result.output


def test_attack_on_a_model_that_was_wrong_before(tmp_path: Path) -> None:
    from robustvideo.data import load_data, write_lossless
    from robustvideo.models import load_model

    source = load_data("embedded:kinetic?split=test&clips=1").clip(0)
    write_lossless(tmp_path / "in.mkv", source, fps=12)
    model = load_model("embedded:r3d")
    other = (int(model(source).argmax()) + 1) % 8
    command = ["attack", str(tmp_path / "in.mkv"), "--model", "embedded:r3d", "--attack", "fgsm(eps=1/255)"]
    command += ["--device", "cpu", "--out", str(tmp_path / "out.mkv")]
    result = CliRunner().invoke(app, [*command, "--label", str(other)])
    assert "was already wrong before fgsm" in result.output
    assert "fooled" not in result.output
    assert "has no weights" not in result.stderr
    assert "already wrong" not in CliRunner().invoke(app, command).output


def test_an_untrained_network_is_said(tmp_path: Path) -> None:
    network = ["--model", "r3d_small?classes=8&frames=16&size=48"]
    data = ["--data", "embedded:kinetic?split=test&clips=1", "--attack", "noise(eps=1/255)"]
    result = CliRunner().invoke(app, ["evaluate", *network, *data, "--device", "cpu", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "Warning: r3d_small?classes=8&frames=16&size=48 has no weights" in result.stderr
    result = CliRunner().invoke(app, ["attack", str(tmp_path / "none.mkv"), *network, "--out", str(tmp_path / "o.mkv")])
    assert result.exit_code == 2
    assert "has no weights" in result.stderr


def test_a_run_is_named_by_its_budgets_as_they_are_written() -> None:
    from robustvideo.cli.evaluate import _default_name
    from robustvideo.evaluation.suite import make_suite

    content = {"models": ["embedded:r3d"], "data": "embedded:kinetic", "attacks": ["pgd"]}
    names = [_default_name(None, make_suite({**content, "eps": eps}, "")) for eps in (["8/255"], [0.05], ["4/255"])]
    assert "8-255" in names[0]
    assert "0-05" in names[1]
    assert len(set(names)) == 3


def test_what_is_listed_as_a_recipe_can_be_run() -> None:
    listed = json.loads(CliRunner().invoke(app, ["list", "recipes", "--json"]).stdout)
    assert "videopure/table1" in listed
    assert "videopure/common" not in listed  # what the tables share


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_kept_for_the_next_tensor() -> None:
    """Without it each of these blocks of 64 MiB is fetched from the system again, page by page."""
    code = textwrap.dedent(
        """
        import resource, sys
        from robustvideo.cli.memory import keep_freed_memory
        keep_freed_memory()
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(10):
                b"1" * 2**26
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        faults()
        print(faults())
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000
