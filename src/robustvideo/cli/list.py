"""``robustvideo list``: everything that can be named in a spec."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from robustvideo.packaged import recipes as packaged_recipes


class Kind(StrEnum):
    """What can be listed."""

    attacks = "attacks"
    defenses = "defenses"
    threats = "threats"
    trainings = "trainings"
    models = "models"
    alterations = "alterations"
    datasets = "datasets"
    recipes = "recipes"


def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON: name -> summary.")] = False,
) -> None:
    """List what exists, each with a one-line summary.

    **Examples**

    `robustvideo list attacks`

    `robustvideo list models --json`
    """
    names = _names(kind)
    if as_json:
        print(json.dumps(names, indent=2))
        return
    width = max((len(name) for name in names), default=0)
    for name, summary in names.items():
        print(f"{name:<{width}}  {summary}")


def _names(kind: Kind) -> dict[str, str]:
    if kind is Kind.models:
        from robustvideo.models.catalog import catalog

        return catalog()
    if kind is Kind.datasets:
        from robustvideo.data.catalog import schemes

        return schemes()
    if kind is Kind.recipes:
        return _recipes()
    from robustvideo.registry import Registry

    package = {
        Kind.threats: "robustvideo.threat",
        Kind.defenses: "robustvideo.purification",
        Kind.trainings: "robustvideo.training",
        Kind.alterations: "robustvideo.models",
    }
    registry: Registry[object] = Registry(kind.value, kind.value, package.get(kind, f"robustvideo.{kind.value}"))
    return {name: entry.summary for name, entry in registry.entries().items()}


def _recipes() -> dict[str, str]:
    import yaml

    contents = {name: yaml.safe_load(file.read_text(encoding="utf-8")) for name, file in packaged_recipes().items()}
    # without a title it is what several studies have in common, and cannot be run
    return {name: str(content["title"]) for name, content in contents.items() if "title" in content}
