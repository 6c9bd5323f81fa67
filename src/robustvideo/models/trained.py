"""Files that training wrote: which network the weights in them belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from robustvideo.errors import InputError, unknown
from robustvideo.model import Model
from robustvideo.models.alteration import load_alterations
from robustvideo.models.checkpoint import read_metadata
from robustvideo.registry import describe
from robustvideo.spec import format_value, parse_source, parse_value

_PLAIN = "/:,.()[]'= "  # characters that the options of a spec may hold as they are


@dataclass(frozen=True)
class Options:
    """Options of a spec ``trained:<file.safetensors>``.

    Attributes:
        part: name of a part of the model: ``undefended`` is the one behind a generator or another front, for
            gray-box evaluation, ``branch0``, ``branch1``, ... are those of ``multi_bn``. Default: the whole.
        run_code: the network comes from a Python file of your own (``file:``), which is run. A file of weights alone
            never makes anything run.
    """

    part: str | None = None
    run_code: bool = False


@dataclass(frozen=True)
class Origin:
    """What a file says of the network whose weights it holds.

    Attributes:
        model: spec of the network; weights that it names are those it had before it was trained.
        labels: class names by index.
    """

    model: str
    labels: tuple[str, ...]


def read_origin(path: Path) -> Origin:
    """Which network a trained file is of.

    Raises:
        InputError: no such file, or one that `robustvideo train` did not write.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    metadata = read_metadata(path)
    try:
        model = json.loads(metadata.get("network", "null")) or json.loads(metadata["recipe"])["model"]
        return Origin(str(model), tuple(map(str, json.loads(metadata["labels"]))))
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} does not say which network it is of, as files of 'robustvideo train' do: name the network, and "
            "the file with checkpoint=."
        ) from error


def self_contained(spec: str) -> str:
    """The spec of a network without trained files: that of the network they are of, with all its alterations.

    So are those of the experts of a mixture, whose weights are among the mixture's own. A part of a trained model has
    no such spec, it stays what it is. Options that only say where weights come from stay too; they change nothing in
    the network.

    Raises:
        InputError: a trained file that is not there, or not one.
    """
    if not spec.strip().startswith("trained:"):
        return _with_experts(spec)
    source = parse_source(spec)
    if "part" in source.options:
        return spec
    network = self_contained(read_origin(Path(source.name).expanduser()).model)
    if "with" not in source.options:
        return network
    name, options = _options(network)
    alterations = [a for text in (options.get("with", "[]"), source.options["with"]) for a in load_alterations(text)]
    return _spec(name, {**options, "with": format_value([describe(alteration) for alteration in alterations])})


def runs_code(spec: str) -> bool:
    """Whether a network is a user's own code, or has experts that are, or that are trained files told to run it."""
    spec = spec.strip()
    if spec.startswith("file:") or (spec.startswith("trained:") and "run_code" in parse_source(spec).options):
        return True
    return any(runs_code(expert) for text in _experts(spec).values() for expert in _named(parse_value(text)))


def _with_experts(spec: str) -> str:
    """The spec of a mixture with experts that need no file; any other spec as it is."""
    experts = {key: parse_value(text) for key, text in _experts(spec).items()}
    contained = {key: _contained(value) for key, value in experts.items()}
    if contained == experts:
        return spec
    name, options = _options(spec)
    return _spec(name, options | {key: format_value(value) for key, value in contained.items()})


def _contained(value: Any) -> Any:
    """What names experts, without trained files. A spec without options gets its ``?``: it is no short name."""
    if isinstance(value, list):
        return [_contained(each) for each in value]
    if not isinstance(value, str):
        return value
    spec = self_contained(value)
    return spec if spec == value or ":" in spec or "?" in spec else f"{spec}?"


def _experts(spec: str) -> dict[str, str]:
    """The options of a mixture (`robustvideo.models.moe`) that name other networks."""
    name, options = _options(spec)
    return {key: options[key] for key in ("expert", "experts") if key in options} if name == "video_moe" else {}


def _named(value: Any) -> list[str]:
    """The full specs in what names experts."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def _options(spec: str) -> tuple[str, dict[str, str]]:
    name, mark, query = spec.strip().rpartition("?")
    return (name, dict(parse_qsl(query, keep_blank_values=True))) if mark else (spec.strip(), {})


def _spec(name: str, options: Mapping[str, str]) -> str:
    return f"{name}?{urlencode(options, safe=_PLAIN, quote_via=quote)}"


def part_of(model: Model, name: str) -> Model:
    """A part of a model that can be evaluated by itself.

    Raises:
        InputError: it has no such part.
    """
    parts: dict[str, Model] = getattr(model, "separate", {})
    if name not in parts:
        raise (
            unknown("part of this model:", name, parts)
            if parts
            else InputError(
                f"part={name}: this model has no parts; only what stands behind a front or has branches has."
            )
        )
    parts[name].labels = model.labels
    return parts[name]
