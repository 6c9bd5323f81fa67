"""Spec strings: how attacks, threat models, models and data are named on a command line and in YAML.

Two grammars, both parsed without running any code:

* a *call*, ``pgd(eps=8/255, steps=20, threat=l2(eps=1.5))``, for things built from parameters;
* a *source*, ``manifest:clips.csv?frames=16&size=64``, for things found somewhere.
"""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from robustvideo.errors import InputError

_CONSTANTS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Call:
    """A parsed ``name(key=value, ...)``; a value may itself be a `Call`."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Source:
    """A parsed ``scheme:name?key=value&...``; values stay text, the scheme's loader gives them their types."""

    scheme: str
    name: str
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def parse_call(text: str) -> Call:
    """Parse ``name`` or ``name(key=value, ...)``.

    Values are numbers, exact fractions (``8/255`` is computed as a fraction and rounded once), true / false /
    none, bare words and quoted text, lists in brackets, and nested calls.

    Raises:
        InputError: anything else, with the offending piece.
    """
    value = _parse(text)
    if isinstance(value, str):
        return Call(value)
    if not isinstance(value, Call):
        raise InputError(f"Cannot read the spec {text!r}: it must start with a name, like 'pgd(eps=8/255)'.")
    return value


def parse_value(text: str) -> Any:
    """Parse one value of the call grammar: ``8/255`` -> 0.0313..., ``true`` -> True, ``word`` -> 'word'.

    Raises:
        InputError: text outside the grammar.
    """
    return _parse(text)


def parse_source(text: str) -> Source:
    """Parse ``scheme:name?key=value&key=value``.

    The first colon ends the scheme and the last question mark starts the options, so names may hold colons.

    Raises:
        InputError: no scheme, or an option without a value or given twice.
    """
    scheme, colon, rest = text.strip().partition(":")
    if not colon or not scheme:
        raise InputError(f"Cannot read {text!r}: write it like 'embedded:r3d' or 'manifest:clips.csv?frames=16'.")
    name, mark, query = rest.rpartition("?")
    if not mark:
        name, query = rest, ""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise InputError(f"Cannot read the options of {text!r}: write them like '?frames=16&size=64'.") from error
    options = dict(pairs)
    if len(options) != len(pairs):
        raise InputError(f"An option is given twice in {text!r}.")
    return Source(scheme, name, MappingProxyType(options))


def format_value(value: Any) -> str:
    """The text that `parse_value` reads back to the same value; whole multiples of 1/255 are written as such."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _format_float(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(format_value(v) for v in value) + "]"
    if isinstance(value, Call):
        return format_call(value) if value.arguments else f"{value.name}()"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    bare = text.isascii() and text.isidentifier() and not keyword.iskeyword(text) and text.lower() not in _CONSTANTS
    return text if bare else repr(text)


def _format_float(value: float) -> str:
    if not math.isfinite(value):
        return repr(value)
    levels = Fraction(value).limit_denominator(10_000) * 255
    if abs(value) <= 1 and len(repr(value)) > 8 and levels.denominator == 1 and float(levels / 255) == value:
        return f"{levels}/255"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def format_call(call: Call) -> str:
    """The text that `parse_call` reads back to the same call."""
    inner = ", ".join(f"{key}={format_value(value)}" for key, value in call.arguments.items())
    return f"{call.name}({inner})" if inner else call.name


def _parse(text: str) -> Any:
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        raise InputError(f"Cannot read {shown!r}: write it like 'pgd(eps=8/255, steps=20)'.") from error


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    if isinstance(node, ast.Name):
        return _CONSTANTS.get(node.id.lower(), node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, text) for item in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.args:
            raise InputError(f"Parameters in {text!r} need their names, like 'pgd(eps=8/255)'.")
        names = [k.arg for k in node.keywords]
        if None in names or len(set(names)) != len(names):
            raise InputError(f"Cannot read {text!r}: every parameter is named, once.")
        return Call(node.func.id, MappingProxyType({str(k.arg): _value(k.value, text) for k in node.keywords}))
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant) and _number(node) is not None:
        return ast.literal_eval(node)  # a signed literal keeps its type
    number = _number(node)
    if number is None:
        raise InputError(f"Cannot read {ast.unparse(node)!r} in {text!r}: values are numbers, fractions or words.")
    return int(number) if number.denominator == 1 else float(number)


def _number(node: ast.expr) -> Fraction | None:
    """Exact value of a fraction or a signed number; None if the node is neither."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return Fraction(str(node.value))  # an infinite literal has no fraction: ValueError
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        top, bottom = _number(node.left), _number(node.right)
        return None if top is None or not bottom else top / bottom
    return None
