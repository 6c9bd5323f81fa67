"""The names of the data sources, readable without loading torch."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from robustvideo.registry import Registry

if TYPE_CHECKING:
    from robustvideo.data.listing import Collection

collections: Registry[Collection] = Registry("data source", "collections", "robustvideo.data")
"""Ways of finding video files: the scheme of a data spec -> the class that lists the files."""

EMBEDDED = {"kinetic": "Kinetic", "moving_digits": "MovingDigits"}
"""Data sets that need no files: the name after ``embedded:`` -> its class, in the module of that name."""


def schemes() -> dict[str, str]:
    """Every data source a spec may name -> one line about it."""
    found = {name: entry.summary for name, entry in collections.entries().items()}
    return dict(sorted({**found, **{f"embedded:{name}": _summary(name) for name in EMBEDDED}}.items()))


def _summary(module: str) -> str:
    source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
    classes = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == EMBEDDED[module]]
    return (ast.get_docstring(classes[0]) or "").partition("\n")[0]
