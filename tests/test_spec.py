"""The grammar of specs: exact numbers, round trips, and one sentence for everything else."""

from __future__ import annotations

import contextlib
import keyword
import string
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvideo.errors import InputError
from robustvideo.spec import Call, format_call, format_value, parse_call, parse_source, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", float(Fraction(8, 255))),
        ("-8/255", float(Fraction(-8, 255))),
        ("0.5/255", float(Fraction(1, 510))),
        ("1/3/5", float(Fraction(1, 15))),
        ("255/255", 1),
        ("8 / 255", float(Fraction(8, 255))),
        ("20", 20),
        ("-3", -3),
        ("1e-3", 1e-3),
        ("0.1", 0.1),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("none", None),
        ("None", None),
        ("word", "word"),
        ("'two words'", "two words"),
        ("[1, 8/255, a]", [1, float(Fraction(8, 255)), "a"]),
        ("[]", []),
        ("l2(eps=1.5)", Call("l2", {"eps": 1.5})),
    ],
)
def test_values(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_fractions_are_exact_and_rounded_once() -> None:
    """``0.1/3`` in floating point is rounded twice; as a fraction once."""
    for top in ("0.1", "0.3", "0.7", "2.5"):
        for bottom in (3, 7, 255):
            assert parse_value(f"{top}/{bottom}") == float(Fraction(top) / bottom)


def test_calls() -> None:
    call = parse_call("  pgd(eps=8/255, steps=20, threat=joint(members=[linf(eps=0.1), l2(eps=1)]))  ")
    assert call.name == "pgd"
    assert call.arguments["eps"] == 8 / 255
    assert call.arguments["threat"].arguments["members"][1] == Call("l2", {"eps": 1})
    assert parse_call("pgd") == parse_call("pgd()") == Call("pgd")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "8/255",
        "true",
        "[pgd]",
        "pgd(",
        "pgd(eps=8/255",
        "pgd(8/255)",
        "pgd(**options)",
        "pgd(*steps)",
        "pgd(eps=1/0)",
        "pgd(eps=2**3)",
        "pgd(eps=1+1)",
        "pgd(eps=~1)",
        "pgd(eps=1j)",
        "pgd(eps=b'x')",
        "pgd(eps=...)",
        "pgd(eps={1: 2})",
        "pgd(eps=lambda: 0)",
        "pgd(eps=a.b)",
        "pgd(eps=a[0])",
        "pgd(eps=f'{a}')",
        "pgd(eps=(x for x in y))",
        "pgd(eps=[*a])",
        "torch.pgd(eps=1)",
        "pgd(eps=1)(steps=2)",
        "pgd(eps=1); import os",
        "pgd(steps=1, steps=2)",
        "pgd(threat=linf(eps=1, eps=2))",
        "pgd(eps=-1e999)",
        "pgd(eps=1e999/2)",
        "pgd(eps=1e308/3e-10)",
        "pgd(eps=-true)",
        "pgd(eps='a'/2)",
        "pgd\0",
        "-" * 20_000 + "1",
        "[" * 5_000,
    ],
)
def test_what_is_not_a_call_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_call(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "1 +", "-1e999", "x y", "1,"])
def test_what_is_not_a_value_is_refused(text: str) -> None:
    if text == "1,":
        assert parse_value(text) == [1]
    else:
        with pytest.raises(InputError):
            parse_value(text)


def test_parsing_runs_no_code() -> None:
    for text in ("__import__('os').system('true')", "open('/etc/passwd')", "(lambda: 1)()"):
        with pytest.raises(InputError):
            parse_call(text)


names = st.text(string.ascii_letters + "_", min_size=1, max_size=8).filter(
    lambda s: not keyword.iskeyword(s) and s.lower() not in ("true", "false", "none")
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.fractions(0, 1, max_denominator=255).map(float)
    | st.integers(-255, 255).map(lambda k: k / 255)
    | st.text(max_size=12)
    | st.sampled_from(["none", "true", "False", "lambda", "import", "bpda", "two words", "it's", 'a"b', "a\\b", "a\nb"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.builds(Call, names, st.dictionaries(names, inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=400)
@given(values)
def test_what_is_written_is_read_back(value: object) -> None:
    assert parse_value(format_value(value)) == value


@settings(max_examples=200)
@given(names, st.dictionaries(names, values, max_size=4))
def test_calls_that_are_written_are_read_back(name: str, arguments: dict[str, object]) -> None:
    call = Call(name, arguments)
    assert parse_call(format_call(call)) == call


@given(st.text(max_size=30))
@settings(max_examples=300)
def test_any_text_is_a_call_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        parse_call(text)


def test_floats_read_well() -> None:
    assert format_value(8 / 255) == "8/255"
    assert format_value(0.5) == "0.5"
    assert format_value(2.0) == "2"
    assert format_value(1 / 3) == "85/255" or parse_value(format_value(1 / 3)) == 1 / 3
    assert format_value(1234567.0) == "1234567"
    assert format_value(True) == "true"
    assert format_value([1, "a b"]) == "[1, 'a b']"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_without_a_spec_do_not_crash_the_message_they_are_part_of(value: float) -> None:
    assert isinstance(format_value(value), str)


class TestSource:
    @pytest.mark.parametrize(
        ("text", "scheme", "name", "options"),
        [
            ("embedded:r3d", "embedded", "r3d", {}),
            ("manifest:clips.csv?frames=16&size=64", "manifest", "clips.csv", {"frames": "16", "size": "64"}),
            ("torchvision:r3d_18?weights=KINETICS400_V1", "torchvision", "r3d_18", {"weights": "KINETICS400_V1"}),
            ("file:models/my.py:build", "file", "models/my.py:build", {}),
            ("folder:C:\\clips?frames=4", "folder", "C:\\clips", {"frames": "4"}),
            ("hf:org/name", "hf", "org/name", {}),
            ("folder:what?/clips?frames=4", "folder", "what?/clips", {"frames": "4"}),
            ("folder:100%25 real+fake?size=8", "folder", "100%25 real+fake", {"size": "8"}),
            ("embedded:r3d?", "embedded", "r3d", {}),
            ("embedded:", "embedded", "", {}),
        ],
    )
    def test_parts(self, text: str, scheme: str, name: str, options: dict[str, str]) -> None:
        source = parse_source(text)
        assert (source.scheme, source.name, dict(source.options)) == (scheme, name, options)

    @pytest.mark.parametrize("text", ["", "r3d", ":r3d", "embedded:r3d?frames", "a:b?x=1&x=2", "a:b?x=1&&y"])
    def test_refusals(self, text: str) -> None:
        with pytest.raises(InputError):
            parse_source(text)
