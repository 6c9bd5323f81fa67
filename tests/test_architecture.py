"""The house rules that no reviewer should have to remember."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import robustvideo

ROOT = Path(robustvideo.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

VOCABULARY = {"threat", "flow"}
"""Folders that belong to the vocabulary, like the files beside them: they may import no folder below."""

MAY_IMPORT = {
    "models": set(),
    "data": set(),
    "attacks": {"models", "data"},
    "purification": {"attacks", "models", "data"},
    "training": {"purification", "attacks", "models", "data"},
    "evaluation": {"purification", "attacks", "models", "data"},
    "reproduction": {"evaluation", "training", "purification", "attacks", "models", "data"},
    "report": {"reproduction", "evaluation", "training", "purification", "attacks", "models", "data"},
    "cli": {"report", "reproduction", "evaluation", "training", "purification", "attacks", "models", "data"},
}
"""Folder -> folders it may import; the vocabulary is everybody's."""

DRAWERS = {"utils", "util", "common", "base", "helpers", "helper", "misc", "tools", "core"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def layer(path: Path) -> str | None:
    """The folder of a file, or None for the vocabulary."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 and parts[0] not in VOCABULARY else None


def imported_layers(path: Path) -> set[str]:
    """Folders of the package that a file imports, at its top or inside a function; type checking aside."""
    package = ["robustvideo", *path.relative_to(ROOT).parent.parts]
    found = set()
    skipped = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(path)):
        if id(node) in skipped:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "robustvideo" and len(parts) > 1 and parts[1] in MAY_IMPORT:
                found.add(parts[1])
    return found


def test_every_folder_has_a_place_in_the_order() -> None:
    folders = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert folders <= set(MAY_IMPORT) | VOCABULARY, "a new folder needs a place in the order of imports"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    if path == ROOT / "__init__.py":
        return  # names load on first use
    own = layer(path)
    imports = imported_layers(path) - {own}
    if path == ROOT / "__main__.py":
        assert imports <= {"cli"}
        return
    allowed = set() if own is None else MAY_IMPORT.get(own, set())
    assert imports <= allowed, f"{name_of(path)} must not import {sorted(imports - allowed)}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_drawer_for_everything(path: Path) -> None:
    assert path.stem.strip("_") not in DRAWERS
    assert not DRAWERS & set(path.relative_to(ROOT).parts[:-1])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_about_one_thing(path: Path) -> None:
    """About 400 lines is where to look for the seam; 500 is where it was missed."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def undocumented(node: ast.AST, where: str) -> list[str]:
    """Public classes and functions of a module without a docstring; methods may leave theirs to their base."""
    missing = []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        overloads = "overload" in map(ast.unparse, child.decorator_list)  # what they are is said once, below them
        if child.name.startswith("_") or overloads:
            continue
        if ast.get_docstring(child) is None:
            missing.append(f"{where}{child.name}")
    return missing


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_everything_public_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{name_of(path)} does not say what it is about"
    assert undocumented(tree(path), f"{name_of(path)}:") == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            if caught in ("everything", "Exception", "BaseException"):
                reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                assert reraises, f"{name_of(path)}:{node.lineno} catches {caught} and lets it vanish"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_attack_or_purifier_touches_the_global_random_state(path: Path) -> None:
    if layer(path) not in ("attacks", "purification"):
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("torch.manual_seed", "random.seed", "np.random.seed", "numpy.random.seed"), name
            if name in ("torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.multinomial"):
                given = {k.arg for k in node.keywords}
                assert "generator" in given, f"{name_of(path)}:{node.lineno} draws from the global state"
            assert name not in ("torch.rand_like", "torch.randn_like", "torch.bernoulli"), name


HEAVY = ("torch", "torchvision", "transformers", "plotly", "accelerate", "pyarrow")


def loaded_by(code: str) -> tuple[set[str], str]:
    """The heavy modules that a fresh Python has loaded after running the code."""
    script = (
        "import sys\n"
        f"sys.argv = ['robustvideo']\n{code}\n"
        f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("LOADED")]
    assert lines, done.stderr
    return set(lines[0].split()[1:]), done.stdout


def run_command(*arguments: str) -> str:
    return (
        f"sys.argv = ['robustvideo', *{list(arguments)!r}]\n"
        "from robustvideo.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import robustvideo; robustvideo.__version__; dir(robustvideo)")[0] == set()


@pytest.mark.parametrize(
    "kind", ["attacks", "defenses", "threats", "trainings", "models", "alterations", "datasets", "recipes"]
)
def test_lists_load_nothing_heavy(kind: str) -> None:
    loaded, printed = loaded_by(run_command("list", kind))
    assert loaded == set()
    if kind in ("attacks", "threats"):
        assert "linf" in printed or "pgd" in printed


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list", "--help"], ["evaluate", "--help"], ["--version"]], ids=" ".join
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded, printed = loaded_by(run_command(*arguments))
    assert loaded == set()
    assert printed.strip()


def test_every_public_name_loads() -> None:
    for name in robustvideo.__all__:
        assert getattr(robustvideo, name) is not None
    with pytest.raises(AttributeError):
        _ = robustvideo.no_such_name  # type: ignore[attr-defined]
    assert set(robustvideo.__all__) <= set(dir(robustvideo))


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by name, and two of one name hide each other."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
