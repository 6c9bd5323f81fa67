"""The text of one page per registered attack, defence and training, read from the class itself."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from showcase import Example

from robustvideo.attacks.attack import attacks
from robustvideo.purification.purifier import defenses
from robustvideo.registry import Entry, Registry, describe, parameters
from robustvideo.spec import Call, format_call, format_value
from robustvideo.training.method import trainings


@dataclass(frozen=True)
class Kind:
    """One of the three registries as a chapter of the site.

    Attributes:
        folder: below ``methods/``.
        title: of its index page.
        introduction: the first paragraph of that page.
    """

    folder: str
    title: str
    registry: Registry[Any]
    introduction: str

    def page(self, name: str) -> str:
        """The source path of a method's page."""
        return f"methods/{self.folder}/{name}.md"


KINDS = (
    Kind(
        "attacks",
        "Attacks",
        attacks,
        "Passes are those of one clip through the model, forward + backward, counted while this site was built: of 10 "
        "steps (or 50 queries) without early stopping. How many clips each attack breaks is "
        "[another page](../../attacks.md).",
    ),
    Kind(
        "defences",
        "Defences",
        defenses,
        "What can stand in front of a model. The cost is that of purifying a clip of 16 frames of 48 x 48, in "
        "forward passes of `embedded:r3d`, measured while this site was built. Whether a defence helps is "
        "[a question with traps](../../notebooks/purifier.md).",
    ),
    Kind(
        "trainings",
        "Trainings",
        trainings,
        "What a recipe may train for; [how to train](../../tutorials/train.md). The cost is that of a batch, "
        "as a multiple of that of `standard`, measured while this site was built.",
    ),
)

_SECTION = re.compile(r"^(Attributes|Raises):\n", flags=re.MULTILINE)
_ITEM = re.compile(r"^    (\S[^:\n]*): ?(.*?)(?=^    \S|\Z)", flags=re.MULTILINE | re.DOTALL)
_SOURCES = (
    re.compile(r"\(([^()]*[A-Za-z][^()]*(?:\d{4}|et al)[^()]*|(?:VideoPure|video MoE|DeepSAVA|AV )[^()]*)\)"),
    re.compile(r"((?:[A-Z]\w+ (?:and|&) )?[A-Z]\w+(?: et al\.)? \(\d{4}\))"),
    re.compile(r"Source[^:.]*: ([^.]*)\."),
)
_OF_BASE = re.compile(r"^see the base", flags=re.IGNORECASE)
_OF_ANOTHER = re.compile(r"^see `(\w+)`\.?$")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method: ``text`` is Markdown, ``own`` whether the class declares or documents it itself."""

    name: str
    type: str
    default: str
    text: str
    own: bool


def source(entry: Entry, cls: type) -> str:
    """The publication that a summary names, or else the docstring or its module; a dash where none is named."""
    module = inspect.getmodule(cls)
    for text in (entry.summary, own_doc(cls), (module and module.__doc__) or ""):
        matches = (pattern.search(" ".join(text.split())) for pattern in _SOURCES)
        found = next((match[1] for match in matches if match), None)
        if found:
            return found
    return "-"


def own_doc(cls: type) -> str:
    """A class's docstring, not that of a parent."""
    return inspect.cleandoc(vars(cls).get("__doc__") or "")


def sections(cls: type) -> tuple[str, dict[str, str], dict[str, str]]:
    """A docstring's prose, its parameters' descriptions by name, and its errors by name."""
    prose, *rest = _SECTION.split(own_doc(cls))
    found: dict[str, dict[str, str]] = {"Attributes": {}, "Raises": {}}
    for heading, body in zip(rest[::2], rest[1::2], strict=True):
        for names, text in _ITEM.findall(body):  # "beta1, beta2: ..." describes two
            found[heading] |= {name.strip(): inspect.cleandoc(text) for name in names.split(",")}
    return prose.strip(), found["Attributes"], found["Raises"]


def parameters_of(cls: type) -> list[Parameter]:
    """Everything the constructor accepts: the class's own first."""
    described = [(parent, sections(parent)[1]) for parent in cls.__mro__ if dataclasses.is_dataclass(parent)]
    fields: dict[str, dataclasses.Field[Any]] = cls.__dataclass_fields__  # type: ignore[attr-defined]
    found = []
    for name, hint in parameters(cls).items():
        texts = [(parent, _followed(parent, name, d[name])) for parent, d in described if name in d]
        texts = [(parent, text) for parent, text in texts if not _OF_BASE.match(text)]
        own = name in vars(cls).get("__annotations__", {}) or bool(texts and texts[0][0] is cls)
        text = texts[0][1] if texts else ""
        found.append(Parameter(name, type_name(hint), default_of(fields[name]), text, own))
    return sorted(found, key=lambda parameter: not parameter.own)


def _followed(cls: type, name: str, text: str) -> str:
    """A description; where it only names another class, that class's."""
    other = _OF_ANOTHER.match(text)
    named = vars(inspect.getmodule(cls)).get(other[1]) if other else None
    return sections(named)[1].get(name, text) if isinstance(named, type) else text


def type_name(hint: Any) -> str:
    """A type in words: ``float | none``, ``"adam" | "sign"``, ``list of Attack``."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "none"
    if origin is typing.Literal:
        return " | ".join(f'"{member}"' for member in members)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_name(member) for member in members)
    if origin in (tuple, list) and members:
        return f"list of {type_name(members[0])}"
    if origin is typing.Annotated:
        return type_name(members[0])
    return getattr(hint, "__name__", str(hint))


def default_of(field: dataclasses.Field[Any]) -> str:
    """A default as it would be written in a spec; empty where a value must be given."""
    if field.default_factory is not dataclasses.MISSING:
        return _written(field.default_factory())
    return "" if field.default is dataclasses.MISSING else _written(field.default)


def _written(value: Any) -> str:
    return format_value(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return describe(value) if dataclasses.is_dataclass(value) else value


def spelt_out(kind: Kind, name: str, example: Example) -> str:
    """A spec that says what the defaults are: the budget, the steps, and the method's own plain numbers and words."""
    cls = kind.registry.get(name)
    given = dict(example.needs)
    known = parameters(cls)
    instance = cls(**given)
    threat = getattr(instance, "threat", None)
    if "eps" in known and getattr(threat, "eps", None):
        given["eps"] = threat.eps
    own = [p.name for p in parameters_of(cls) if p.own and p.name not in ("gradient", "surrogate")]
    for key in ("steps", "queries", *own):
        value = getattr(instance, key, None) if key in known else None
        if isinstance(value, int | float | str) and key not in given and len(given) < 4:
            given[key] = value
    for key in [k for k in reversed(given) if k not in example.needs]:
        if kind.registry.build(Call(name, given)) == instance:
            break
        del given[key]
    return format_call(Call(name, given))


def text(kind: Kind, name: str, example: Example, shown: str) -> str:
    """A method's page.

    Args:
        kind: the chapter.
        name: the registered name.
        example: what it can be called on.
        shown: Markdown of what was measured and drawn; may be empty.
    """
    entry, cls = kind.registry.entries()[name], kind.registry.get(name)
    prose, _, raised = sections(cls)
    summary, _, rest = prose.partition("\n\n")
    spec = spelt_out(kind, name, example)
    parts = [
        f"# `{name}`",
        f"**{' '.join(summary.split())}**",
        f"Source: {source(entry, cls)}. Code: `{entry.module}.{entry.cls}`.",
        rest,
        "## Call it",
        example.needed,
        *_blocks(kind, name, spec, cls, example),
        shown,
        *_definitions("## Parameters", [p for p in parameters_of(cls) if p.own]),
        *_definitions("## Parameters shared with others", [p for p in parameters_of(cls) if not p.own]),
        *(["## Errors", *(f"* `{error}`: {' '.join(why.split())}" for error, why in raised.items())] if raised else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _definitions(heading: str, found: list[Parameter]) -> Iterator[str]:
    if found:
        yield heading
    for p in found:
        default = f", default `{p.default}`" if p.default else ", must be given"
        indented = "\n".join(f"    {line}".rstrip() for line in p.text.splitlines()).strip()
        yield f"`{p.name}`: {p.type}{default}\n:   {indented or 'as its name says.'}"


def _blocks(kind: Kind, name: str, spec: str, cls: type, example: Example) -> Iterator[str]:
    quoted = '"' + spec.replace('"', "'") + '"'
    if kind.folder == "trainings":
        yield _code("bash", f"robustvideo train {name}.yaml --out runs/{name}")
        yield _code("yaml", f"# {name}.yaml\n{example.recipe(spec)}")
        yield _code("python", f"from robustvideo.training import load_training\n\nmethod = load_training({quoted})")
        return
    attacks, defenses = [spec], [example.defense] if example.defense else []
    if kind.folder == "defences":
        attacks, defenses = ["pgd(eps=8/255, steps=10)"], ["none", spec]
    options = [("--model", example.model), ("--data", example.data)]
    options += [("--defense", d) for d in defenses] + [("--attack", a) for a in attacks]
    lines = [f'{option} "{value}"' if "'" in value else f"{option} {shlex.quote(value)}" for option, value in options]
    yield _code("bash", " \\\n    ".join(["robustvideo evaluate", *lines, f"--out runs/{name}"]))
    suite: dict[str, Any] = {"models": [example.model], "data": example.data}
    suite |= {"defenses": defenses} if defenses else {}
    yield _code("yaml", yaml.safe_dump(suite | {"attacks": attacks}, sort_keys=False, width=1000).strip())
    yield _code("python", "\n".join(_python(attacks[0], defenses[-1:], cls, example)))


def _python(attack: str, defenses: list[str], cls: type, example: Example) -> Iterator[str]:
    yield "import robustvideo as rv"
    yield "import torch"
    yield f"from {cls.__module__} import {cls.__name__}  # or by its name, as here"
    yield ""
    yield f'model = rv.load_model("{example.model}")'
    yield from (f'model = rv.Defended(model, rv.load_defense("{defense}"))' for defense in defenses)
    yield f'clip, label = rv.load_data("{example.data}")[0]'
    yield f'attack = rv.load_attack("{attack}")'
    yield "result = attack(model, clip, torch.tensor([label]))"
    yield "print(result.success, result.forward_passes, result.backward_passes)"


def _code(language: str, content: str) -> str:
    return f"```{language}\n{content}\n```"


def index(kind: Kind, costs: dict[str, str]) -> str:
    """The index page of a chapter: name, summary, source and, where it was measured, the cost."""
    heading = "| name | what it is | source |" + (" cost |" if costs else "")
    lines = [f"# {kind.title}", "", kind.introduction, "", heading, "|---" * (heading.count("|") - 1) + "|"]
    for name, entry in kind.registry.entries().items():
        cited = source(entry, kind.registry.get(name))
        summary = entry.summary.replace(f" ({cited})", "").replace("|", "\\|")
        cost = f" {costs.get(name, '')} |" if costs else ""
        lines.append(f"| [`{name}`]({name}.md) | {summary} | {cited} |{cost}")
    return "\n".join(lines) + "\n"
