"""The notebooks of the documentation run from their start, quickly, and say what their text says they say."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import nbformat
import notebook_pages
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PATIENCE = 60
"""Seconds of one core that a notebook may take."""


def test_they_are_committed_without_what_they_printed() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"audit", "harden", "purifier"}
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if "outputs" in cell)


def test_a_cell_that_fails_fails_the_page(tmp_path: Path) -> None:
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)\n1 + 1")])
    nbformat.write(content, tmp_path / "good.ipynb")
    page = notebook_pages.page(tmp_path / "good.ipynb")
    assert "```python\nprint(6 * 7)\n1 + 1\n```\n\n```text\n42\n2\n```" in page
    content.cells[0].source = "raise ValueError('no')"
    nbformat.write(content, tmp_path / "bad.ipynb")
    with pytest.raises(Exception, match="ValueError"):
        notebook_pages.page(tmp_path / "bad.ipynb")


def numbers(page: str, row: str) -> list[int]:
    """The percentages in the row that begins so, without their intervals."""
    line = next(line for line in page.splitlines() if line.startswith(row))
    return [int(number) for number in re.findall(r"(\d+) % \[", line)]


def audited(page: str) -> None:
    assert numbers(page, "no attack")[0] > 80
    for attack in ("pgd", "autoattack"):
        assert numbers(page, f"{attack:10} at 4/255") == [0]
    grades = re.findall(r"^(pass|warn|fail|not applicable): ", page, flags=re.MULTILINE)
    assert len(grades) == 11
    assert set(grades) == {"pass", "not applicable"}
    assert "report.html" in page


def hardened(page: str) -> None:
    gains = re.findall(r"^at (\d)/255: ([+-]\d+) points \[([+-]\d+), ", page, flags=re.MULTILINE)
    assert [level for level, _, _ in gains] == ["2", "4"]
    assert all(int(low) > 0 for _, _, low in gains), "no luck"


def purified(page: str) -> None:
    (_, bare), (_, gray), (_, identity), (_, smooth), (_, exact) = (
        numbers(page, row) for row in ("undefended", "gray-box", "BPDA, identity", "BPDA, smooth", "smooth JPEG, exact")
    )
    assert smooth <= exact + 5 < bare < gray
    assert bare <= identity < gray
    assert "fail: Stand-ins in the gradient" in page


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "says"), [("audit", audited), ("harden", hardened), ("purifier", purified)])
def test_it_runs_and_says_what_its_text_says(name: str, says: object) -> None:
    assert callable(says)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    page = notebook_pages.page(FOLDER / f"{name}.ipynb")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < PATIENCE
    says(page)
