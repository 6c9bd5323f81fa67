"""Options of a data spec: text in, typed values out, with the nearest name for a misspelt one."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robustvideo.errors import InputError, unknown
from robustvideo.registry import parameters
from robustvideo.spec import Source


def build_all(source: Source, *classes: type) -> list[Any]:
    """One instance of each dataclass from the options of a source; together they must know every option.

    Raises:
        InputError: a misspelt option, or a value that has the wrong type or that a class refuses.
    """
    hints = [parameters(cls) for cls in classes]
    values = typed(source, {name: hint for known in hints for name, hint in known.items()})
    return [
        cls(**{name: value for name, value in values.items() if name in known})
        for cls, known in zip(classes, hints, strict=True)
    ]


def typed(source: Source, hints: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a source as the types in ``hints``.

    Lists are written with commas; "none" is None where None is allowed.

    Raises:
        InputError: a misspelt option or a value of the wrong type.
    """
    values = {}
    for name, text in source.options.items():
        if name not in hints:
            raise unknown(f"option of {source.scheme}:", name, hints)
        values[name] = _value(hints[name], text, f"{source.scheme}:...?{name}=")
    return values


def _value(hint: Any, text: str, where: str) -> Any:
    members = typing.get_args(hint) if typing.get_origin(hint) is not tuple else (hint,)
    if type(None) in members and text.lower() == "none":
        return None
    if any(typing.get_origin(member) is tuple for member in members):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return TypeAdapter(hint).validate_python(text)
    except ValidationError as error:
        raise InputError(f"{where}{text}: {error.errors()[0]['msg'].lower()}.") from error
