"""YAML files: the user's own by their path, the package's by their name."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from robustvideo.errors import InputError, unknown

MAX_VALUES = 100_000
"""Values that a YAML file may stand for, those that aliases repeat counted as often as they stand there."""


def recipes() -> dict[str, Traversable]:
    """Name -> file of every recipe and suite that comes with the package, e.g. ``demo`` and ``embedded/r3d``."""
    found: dict[str, Traversable] = {}

    def collect(folder: Traversable, prefix: str) -> None:
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if entry.is_dir():
                collect(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".yaml"):
                found[prefix + entry.name.removesuffix(".yaml")] = entry

    collect(files("robustvideo") / "recipes", "")
    return found


def read_yaml(path: Path, kind: str) -> Any:
    """The content of a YAML file, or of a packaged one by its name.

    Args:
        path: the file, or a name of `recipes`.
        kind: what it is called in a message, e.g. "suite".

    Raises:
        InputError: no such file, not YAML, or a bomb: nested too deeply, or of more than `MAX_VALUES` values.
    """
    file: Path | Traversable = path
    if not path.is_file():
        if path.suffix in (".yaml", ".yml"):
            raise InputError(f"There is no {kind} {path}.")
        packaged = recipes()
        if path.as_posix() not in packaged:
            raise unknown(kind, path.as_posix(), packaged)
        file = packaged[path.as_posix()]
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        content = loader.get_single_node()
        if _values(content, {}) > MAX_VALUES:
            raise InputError(f"{path} stands for more than {MAX_VALUES} values: its aliases multiply or have no end.")
        return None if content is None else loader.construct_document(content)
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be read.") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}," if mark else str(path)
        raise InputError(f"{place} is not readable as YAML: {str(error).splitlines()[0]}.") from error


def _values(node: yaml.Node | None, counted: dict[int, int]) -> int:
    """How many values a node stands for when every alias is written out; one that holds itself has no end."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = MAX_VALUES + 1  # as long as it is open: whoever meets it again is inside of it
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counted[id(node)] = 1 + sum(_values(child, counted) for child in children)
    return counted[id(node)]
