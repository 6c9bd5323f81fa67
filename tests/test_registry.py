"""Registries: names without imports, and arguments checked in words."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import InitVar, dataclass

import pytest

from robustvideo.attacks.attack import attacks
from robustvideo.errors import InputError
from robustvideo.registry import Registry, describe, parameters, spec_of
from robustvideo.support import Border, Everywhere, Frames, Patch, supports
from robustvideo.threat import L2, Joint, Linf, threats


def in_a_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_known_without_importing_torch() -> None:
    found = json.loads(
        in_a_fresh_python(
            "import sys, json\n"
            "from robustvideo.registry import Registry\n"
            "kinds = {'attacks': 'attacks', 'threats': 'threat', 'supports': 'support'}\n"
            "found = {k: Registry(k, k, 'robustvideo.' + p).entries() for k, p in kinds.items()}\n"
            "names = {k: {n: e.summary for n, e in entries.items()} for k, entries in found.items()}\n"
            "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
            "print(json.dumps(names))\n"
        )
    )
    assert {"pgd", "fgsm", "noise", "mifgsm"} <= set(found["attacks"])
    assert {"linf", "l2", "l21", "flow", "joint"} <= set(found["threats"])
    assert set(found["supports"]) == {"everywhere", "frames", "patch", "border"}
    for kind in found.values():
        assert list(kind) == sorted(kind)
        assert all(kind.values()), "every entry has a summary"


@pytest.mark.parametrize("registry", [attacks, threats, supports], ids=lambda r: r.kind)
def test_what_the_source_says_is_what_the_import_gives(registry: Registry[object]) -> None:
    for name, entry in registry.entries().items():
        cls = registry.get(name)
        assert cls.__name__ == entry.cls
        assert cls.registered_name == name  # type: ignore[attr-defined]
        assert entry.summary == (cls.__doc__ or "").strip().splitlines()[0]


def test_what_belongs_to_a_class_is_no_parameter() -> None:
    """A constant of the class (``ClassVar``) is a field to dataclasses, but not to a spec."""
    assert not {"random_start", "registered_name"} & parameters(attacks.get("pgd")).keys()
    with pytest.raises(InputError, match="Unknown parameter of pgd: 'random_start'"):
        attacks.build("pgd(random_start=true)")


def test_misspelt_names_suggest_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'pgd'"):
        attacks.get("pdg")
    with pytest.raises(InputError, match=r"did you mean.*'mifgsm'"):
        attacks.build("mi_fgsm(eps=8/255)")
    with pytest.raises(InputError, match="did you mean 'step_size'"):
        attacks.build("pgd(stepsize=1/255)")
    with pytest.raises(InputError, match="did you mean 'eps'"):
        threats.build("linf(epss=8/255)")
    with pytest.raises(InputError, match="known: "):
        attacks.get("xxxxxxxxxxxx")


@pytest.mark.parametrize(
    "thing",
    [
        Linf(8 / 255),
        L2(1.5, stored=False),
        Linf(0.012, modality="audio"),
        Linf(8 / 255, support=Frames((0, -1))),
        Linf(8 / 255, support=Frames(k=3)),
        Linf(8 / 255, support=Patch(0.2, (1, 2))),
        Linf(8 / 255, support=Patch(0.2)),
        Linf(8 / 255, support=Border(0.3), parametrisation="frame_colour"),
        Joint((Linf(8 / 255), Linf(0.012, modality="audio"))),
        Joint((Linf(8 / 255, support=Frames((1,))),)),
    ],
    ids=spec_of,
)
def test_threats_round_trip(thing: object) -> None:
    assert threats.build(spec_of(thing)) == thing
    assert spec_of(threats.build(spec_of(thing))) == spec_of(thing)


def test_defaults_are_left_out() -> None:
    assert describe(Linf(8 / 255)).arguments == {"eps": 8 / 255}
    assert spec_of(Everywhere()) == "everywhere"


@pytest.mark.parametrize(
    ("registry", "spec"),
    [
        (threats, "linf"),
        (threats, "linf(eps=word)"),
        (threats, "linf(eps=none)"),
        (threats, "linf(eps=8/255, support=3)"),
        (threats, "linf(eps=8/255, support=none)"),
        (threats, "linf(eps=8/255, support=[patch])"),
        (threats, "linf(eps=8/255, support=linf(eps=1))"),
        (threats, "linf(eps=8/255, modality=smell)"),
        (threats, "linf(eps=8/255, stored=maybe)"),
        (threats, "joint(members=3)"),
        (threats, "joint(members=[3])"),
        (threats, "joint(members=[joint(members=[linf(eps=0.1)])])"),
        (supports, "patch(ratio=2)"),
        (supports, "patch(ratio=0.1, corner=[1])"),
        (supports, "patch(ratio=0.1, corner=3)"),
        (supports, "frames(indices=first)"),
        (supports, "border(ratio=1)"),
    ],
)
def test_bad_arguments_are_input_errors(registry: Registry[object], spec: str) -> None:
    with pytest.raises(InputError) as caught:
        registry.build(spec)
    assert "\n" not in str(caught.value)


def test_a_class_of_one_s_own() -> None:
    things: Registry[object] = Registry("thing", "things", "robustvideo.support")

    @things.register("mine")
    @dataclass(frozen=True)
    class Mine:
        """Somebody's own.

        With details.
        """

        width: int = 3
        shape: tuple[int, ...] = (1, 2)
        half: InitVar[bool] = False

        def __post_init__(self, half: bool) -> None:
            if half:
                object.__setattr__(self, "width", self.width // 2)

    assert things.entries()["mine"].summary == "Somebody's own."
    assert parameters(Mine) == {"width": int, "shape": tuple[int, ...], "half": bool}
    assert spec_of(Mine(5, (3, 4))) == "mine(width=5, shape=[3, 4])"


def test_a_name_is_given_once() -> None:
    things: Registry[object] = Registry("thing", "things", "robustvideo.support")

    @things.register("mine")
    class First:
        """One of several."""

    with pytest.raises(InputError, match="mine"):

        @things.register("mine")
        class Second:
            """Another."""

    assert things.entries()["mine"].cls == First.__qualname__
