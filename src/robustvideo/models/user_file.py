"""A user's own model: a factory in a Python file. Running it is running that user's code, knowingly."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustvideo.errors import InputError, unknown
from robustvideo.model import Model
from robustvideo.spec import Source
from robustvideo.storage import slug

MODULE = "robustvideo_user_"
"""How the names of the modules begin that are made of users' files; no import finds them."""


def load_user_file(source: Source) -> Model:
    """Load ``file:<path.py>:<factory>?key=value``; the options go to the factory as text.

    The file may import its neighbours, as it could when run by itself. The model remembers a hash of their code as its
    ``code_digest``.

    Raises:
        InputError: no such file or factory, code that fails, or a result that is no `Model`.
    """
    file, _, factory = source.name.rpartition(":")
    if not file or not factory:
        raise InputError(f"Cannot read 'file:{source.name}': write it like 'file:my_model.py:build'.")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"There is no file {file}.")
    spec = importlib.util.spec_from_file_location(f"{MODULE}{slug(str(path)).replace('-', '_')}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pickling and dataclasses look a module up by name
    with _importable(path.parent):
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise InputError(f"{file} fails when it is loaded: {type(error).__name__}: {error}") from error
        build = getattr(module, factory, None)
        if not callable(build):
            functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
            raise unknown(f"factory of {path.name}:", factory, functions)
        try:
            model = build(**source.options)
        except Exception as error:
            raise InputError(f"{factory}() of {file} fails: {type(error).__name__}: {error}") from error
    if not isinstance(model, Model):
        raise InputError(
            f"{factory}() of {file} returned {type(model).__name__}, not a robustvideo model: "
            "return rv.wrap(network, frames=..., size=...)."
        )
    model.code_digest = digest_of_code(path)
    return model


def digest_of_code(file: Path) -> str:
    """A hash of a Python file and of those beside it that it imports, directly or not; where they lie is no matter."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(_with_neighbours(file)):
        digest.update(f"{path.relative_to(file.parent).as_posix()}\x1e".encode() + path.read_bytes() + b"\x1e")
    return digest.hexdigest()


def _with_neighbours(file: Path) -> set[Path]:
    found: set[Path] = set()
    left = [file]
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a neighbour that is imported on no way that was taken
            continue
        for base, names in _imported(tree, path, file.parent):
            places = [base.joinpath(*names[:depth]) for depth in range(1, len(names) + 1)]
            left += [p for place in places for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()]
    return found


def _imported(tree: ast.Module, path: Path, folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Where the search of every import of a file begins, and the names from there: packages, module, what is in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((folder, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else folder
            module = node.module.split(".") if node.module else []
            if base.is_relative_to(folder):
                yield from ((base, [*module, alias.name]) for alias in node.names)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
