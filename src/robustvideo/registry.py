"""One registry per kind of thing: a name -> a frozen configuration class.

Built-in classes are found by reading the source of a package, without importing it, so that ``robustvideo list``
answers without loading torch. A class is listed, documented and tested because it exists::

    @attacks.register("pgd")
    @dataclass(frozen=True)
    class PGD(AscentAttack):
        '''Projected gradient descent (Madry et al. 2018).'''
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from robustvideo.errors import InputError, unknown
from robustvideo.spec import Call, format_call, parse_call

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Entry:
    """One registered name: where its class lives and the first line of its docstring."""

    name: str
    module: str
    cls: str
    summary: str


class Registry(Generic[T]):
    """Names of one kind of configurable thing.

    Args:
        kind: the noun for messages, e.g. "attack".
        variable: the name under which modules use this registry as a decorator, e.g. "attacks" in
            ``@attacks.register("pgd")``.
        package: dotted package or module whose source is searched for such decorators.
    """

    def __init__(self, kind: str, variable: str, package: str):
        self.kind = kind
        self._variable = variable
        self._package = package
        self._added: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator that gives a class its public name."""

        def add(cls: C) -> C:
            known = self.entries().get(name)
            if known is not None and (known.module, known.cls) != (cls.__module__, cls.__qualname__):
                raise InputError(f"The {self.kind} {name!r} exists already, as {known.cls} in {known.module}.")
            cls.registered_name = name  # type: ignore[attr-defined]
            summary = (cls.__doc__ or "").strip().partition("\n")[0]
            self._added[name] = Entry(name, cls.__module__, cls.__qualname__, summary)
            return cls

        return add

    @cached_property
    def _found(self) -> dict[str, Entry]:
        spec = importlib.util.find_spec(self._package)
        assert spec is not None
        if spec.submodule_search_locations is None:
            modules = {self._package: Path(str(spec.origin))}
        else:
            folder = Path(spec.submodule_search_locations[0])
            modules = {f"{self._package}.{path.stem}": path for path in sorted(folder.glob("*.py"))}
        return {e.name: e for module, path in modules.items() for e in _decorated(path, module, self._variable)}

    def entries(self) -> dict[str, Entry]:
        """All names, sorted, without importing their modules."""
        return dict(sorted({**self._found, **self._added}.items()))

    def get(self, name: str) -> type[T]:
        """The class of a name.

        Raises:
            InputError: no such name, with the nearest ones.
        """
        entry = self.entries().get(name)
        if entry is None:
            raise unknown(self.kind, name, self.entries())
        return typing.cast("type[T]", getattr(importlib.import_module(entry.module), entry.cls))

    def build(self, spec: str | Call) -> T:
        """Build an instance from a spec such as ``pgd(eps=8/255, steps=20)``.

        Raises:
            InputError: an unknown name, a misspelt parameter or a value of the wrong type.
        """
        call = parse_call(spec) if isinstance(spec, str) else spec
        return construct(self.get(call.name), call)


def construct(cls: type[T], call: Call) -> T:
    """Instantiate a dataclass from a call, checking parameter names and types and building nested calls.

    Raises:
        InputError: a misspelt parameter, a value of the wrong type, or a value that the class refuses.
    """
    hints = parameters(cls)
    arguments: dict[str, Any] = {}
    for key, value in call.arguments.items():
        if key not in hints:
            raise unknown(f"parameter of {call.name}:", key, hints)
        arguments[key] = _coerce(hints[key], value, f"{call.name}({key}=...)")
    try:
        return cls(**arguments)
    except TypeError as error:
        missing = str(error).partition("argument")[2].partition(":")[2].strip() or str(error)
        raise InputError(f"{call.name} needs a value for {missing}.") from error


def parameters(cls: type) -> Mapping[str, Any]:
    """Name -> type of everything the constructor of a dataclass accepts, init-only parameters included."""
    hints = typing.get_type_hints(cls)
    fields: dict[str, dataclasses.Field[Any]] = cls.__dataclass_fields__  # type: ignore[attr-defined]
    accepted = {}
    for name, field in fields.items():
        hint = hints[name]
        if field.init and hint is not typing.ClassVar and typing.get_origin(hint) is not typing.ClassVar:
            accepted[name] = hint.type if isinstance(hint, dataclasses.InitVar) else hint
    return accepted


def describe(instance: Any) -> Call:
    """The call that builds an equal instance; parameters at their defaults are left out."""
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if not field.init or not field.repr or value == _default(field):
            continue
        arguments[field.name] = _plain(value)
    return Call(name_of(type(instance)), arguments)


def name_of(cls: type) -> str:
    """The name a class was registered under.

    Raises:
        InputError: it was not (a parent's name is not its own).
    """
    name: str | None = vars(cls).get("registered_name")
    if name is None:
        raise InputError(f"{cls.__name__} has no name of its own: give it one with the @...register decorator.")
    return name


def spec_of(instance: Any) -> str:
    """The spec string that builds an equal instance."""
    return format_call(describe(instance))


def _plain(value: Any) -> Any:
    """A parameter's value in the terms of the spec grammar."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return describe(value)
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _coerce(hint: Any, value: Any, where: str) -> Any:
    nested = next((n for n in _nested if n.accepts(hint)), None)
    if nested is not None:
        return nested.coerce(hint, value, where)
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        raise InputError(f"{where}: {error.errors()[0]['msg'].lower()}, got {value!r}.") from error


@dataclass(frozen=True)
class _Nested:
    base: type
    registry: Registry[Any]

    def accepts(self, hint: Any) -> bool:
        """Whether a parameter of this type takes nested specs: ``base``, ``base | None`` or ``tuple[base, ...]``."""
        return self._member(hint) is not None

    def coerce(self, hint: Any, value: Any, where: str) -> Any:
        """Build the nested specs in a value."""
        member = self._member(hint)
        if typing.get_origin(hint) is tuple:
            if not isinstance(value, list):
                raise InputError(f"{where}: give a list of {self.registry.kind}s in brackets, got {value!r}.")
            return tuple(self._build(member, v, where) for v in value)
        if value is None and type(None) in typing.get_args(hint):
            return None
        return self._build(member, value, where)

    def _build(self, member: Any, value: Any, where: str) -> Any:
        if not isinstance(value, Call | str):
            raise InputError(f"{where}: give a {self.registry.kind} by name, got {value!r}.")
        built = self.registry.build(value)
        if not isinstance(built, member):
            raise InputError(f"{where}: {format_call(describe(built))} cannot be used here.")
        return built

    def _member(self, hint: Any) -> type | None:
        members = typing.get_args(hint) or (hint,)
        return next((m for m in members if isinstance(m, type) and issubclass(m, self.base)), None)


_nested: list[_Nested] = []


def allow_nested(base: type, registry: Registry[Any]) -> None:
    """Let parameters typed as ``base`` be written as nested specs of ``registry``."""
    _nested.append(_Nested(base, registry))


def _decorated(path: Path, module: str, variable: str) -> list[Entry]:
    entries = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=owner), attr="register"),
                    args=[ast.Constant(value=str(name))],
                ) if owner == variable:
                    summary = (ast.get_docstring(node) or "").partition("\n")[0]
                    entries.append(Entry(name, module, node.name, summary))
    return entries
