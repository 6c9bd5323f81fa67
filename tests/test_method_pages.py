"""Every attack, defence and training has a page that tells the truth about its class."""

from __future__ import annotations

import ast
import re
import shlex

import demonstrations
import method_pages
import pytest
import torch
import training_costs
import typer
import yaml
from method_pages import KINDS, Kind
from showcase import example_for

from robustvideo.cli import app
from robustvideo.evaluation.suite import make_suite
from robustvideo.registry import parameters
from robustvideo.training.recipe import make_recipe

PAGES = [(kind, name) for kind in KINDS for name in kind.registry.entries()]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
every = pytest.mark.parametrize(("kind", "name"), PAGES, ids=[f"{kind.folder}/{name}" for kind, name in PAGES])


@every
def test_every_parameter_is_described_with_its_default(kind: Kind, name: str) -> None:
    cls = kind.registry.get(name)
    found = method_pages.parameters_of(cls)
    assert {p.name for p in found} == parameters(cls).keys()
    assert [p.name for p in found if not p.text] == []
    example = example_for(kind.folder, name)
    page = method_pages.text(kind, name, example, "")
    for p in found:
        assert f"\n`{p.name}`: {p.type}" in page


@every
def test_the_ways_to_call_it_are_valid_and_mean_the_defaults(kind: Kind, name: str) -> None:
    example = example_for(kind.folder, name)
    spec = method_pages.spelt_out(kind, name, example)
    built = kind.registry.build(spec)
    assert built == kind.registry.get(name)(**example.needs)
    page = method_pages.text(kind, name, example, "")
    blocks = dict(BLOCK.findall(page))
    assert blocks.keys() == {"bash", "yaml", "python"}
    content = yaml.safe_load(blocks["yaml"])
    ast.parse(blocks["python"])
    words = shlex.split(blocks["bash"].replace("\\\n", " "))
    assert words[0] == "robustvideo"
    group = typer.main.get_command(app)
    context = group.commands[words[1]].make_context(words[1], words[2:])  # type: ignore[attr-defined]
    if kind.folder == "trainings":
        assert kind.registry.build(make_recipe(content, name).training) == built
    else:
        suite = make_suite(content, name)
        key, specs = ("attack", suite.attacks) if kind.folder == "attacks" else ("defense", suite.defenses)
        assert kind.registry.build(specs[-1]) == built
        assert kind.registry.build(context.params[key][-1]) == built


@pytest.mark.parametrize(("number", "name"), [(0, "pgd"), (0, "tla_r"), (0, "mma"), (1, "jpeg")])
def test_the_python_of_a_page_runs(number: int, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = method_pages.text(KINDS[number], name, example_for(KINDS[number].folder, name), "")
    exec(dict(BLOCK.findall(page))["python"], {})  # our own page
    assert re.match(r"tensor\(\[(True|False)\]\) tensor\(\[\d+\]\) tensor\(\[\d+\]\)", capsys.readouterr().out)


def test_prose_parameters_and_errors_of_a_docstring() -> None:
    class Something:
        """Do something (Somebody et al. 2020).

        It says ``x: y`` on the way.

        Attributes:
            one, two: of both,
                in two lines: here.
            three: alone.

        Raises:
            InputError: a wrong number.
        """

    prose, described, raised = method_pages.sections(Something)
    assert prose == "Do something (Somebody et al. 2020).\n\nIt says ``x: y`` on the way."
    assert described == {
        "one": "of both,\nin two lines: here.",
        "two": "of both,\nin two lines: here.",
        "three": "alone.",
    }
    assert raised == {"InputError": "a wrong number."}


@pytest.mark.parametrize(
    ("kind", "name", "source"),
    [
        (0, "pgd", "Madry et al. 2018"),
        (0, "masked_pgd", "Kinfu and Vidal (2022)"),
        (0, "tla_e", "video MoE, equation 13"),
        (0, "noise", "-"),
        (1, "wavelet", "Mustafa et al. 2020"),
        (2, "gat", "GAT; Kinfu & Vidal 2022, eq. 14"),
    ],
)
def test_sources(kind: int, name: str, source: str) -> None:
    entries = KINDS[kind].registry
    assert method_pages.source(entries.entries()[name], entries.get(name)) == source
    index = method_pages.index(KINDS[kind], {name: "7"})
    row = next(line for line in index.splitlines() if line.startswith(f"| [`{name}`]({name}.md) |"))
    assert row.endswith(f"| {source} | 7 |")
    assert row.count("|") == 5


def test_a_demonstration_counts_passes_and_draws_a_small_picture() -> None:
    attacks = KINDS[0].registry
    for name, cost in (("pgd", "11 + 10"), ("fgsm", "2 + 1"), ("mig", "202 + 200")):
        shown = demonstrations.of_attack(attacks.get(name), name, example_for("attacks", name))
        assert shown.cost == cost
        assert shown.picture.startswith(b"\x89PNG")
        assert 1000 < len(shown.picture) < 40_000
        assert "{picture}" in shown.text
    routed = demonstrations.of_attack(attacks.get("pgd_r"), "pgd_r", example_for("attacks", "pgd_r"))
    assert routed.cost == "12 + 10"
    assert not routed.picture, "the network is untrained: there is nothing to see"


def test_a_purifier_is_shown_where_its_weights_are_there() -> None:
    shown = demonstrations.of_defense("jpeg(quality=50)", example_for("defences", "jpeg"))
    assert shown.picture
    assert "zoom_in" in shown.text
    without = demonstrations.of_defense(
        method_pages.spelt_out(KINDS[1], "ape_gan", example_for("defences", "ape_gan")),
        example_for("defences", "ape_gan"),
    )
    assert float(without.cost) > 0
    assert not without.picture


def test_a_training_costs_what_its_attack_costs() -> None:
    shown = training_costs.of_training(
        "at", "at(attack=pgd(eps=4/255, steps=9, early_stop=false))", example_for("trainings", "at")
    )
    assert 5 < float(shown.cost) < 20
    assert training_costs.of_training("aat", "aat", example_for("trainings", "aat")) is demonstrations.NOTHING


def test_panels_stand_side_by_side() -> None:
    import io

    from PIL import Image

    panels = [torch.zeros(3, 4, 5), torch.ones(3, 4, 5), torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 4, 5)]
    picture = Image.open(io.BytesIO(demonstrations.strip(panels)))
    assert picture.size == (3 * 5 * 3 + 2 * 6, 4 * 3)
    assert [picture.getpixel((x, 5)) for x in (1, 17, 22, 44)] == [(0, 0, 0), (255,) * 3, (255,) * 3, (255, 0, 0)]
