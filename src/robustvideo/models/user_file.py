"""A user's own model: a factory in a Python file. Running it is running that user's code, knowingly."""

from __future__ import annotations

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

    The file may import its neighbours, as it could when run by itself.

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
    return model


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
