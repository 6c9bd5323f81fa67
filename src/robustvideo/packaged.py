"""YAML files: the user's own by their path, the package's by their name."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from robustvideo.errors import InputError, unknown


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
        InputError: no such file, or not YAML.
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
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}," if mark else str(path)
        raise InputError(f"{place} is not readable as YAML: {str(error).splitlines()[0]}.") from error
