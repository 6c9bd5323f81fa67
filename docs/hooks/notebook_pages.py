"""Notebooks as pages: each is run from its start, and shown with what it printed."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PATIENCE = 300
"""Seconds that no cell may take."""


def executed(path: Path) -> nbformat.NotebookNode:
    """A notebook with its outputs, run on one thread in a new folder that is not kept.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources=place)
        client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})
    return notebook


@cache
def page(path: Path) -> str:
    """The Markdown of a notebook's page."""
    parts = []
    for cell in executed(path).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        printed = "".join(_text(output) for output in cell.outputs).rstrip()
        if printed:
            parts.append(f"```text\n{printed}\n```")
    parts.append(f"*This page is [a notebook]({path.name}) that was run when the site was built.*")
    return "\n\n".join(parts) + "\n"


def _text(output: nbformat.NotebookNode) -> str:
    """What a cell printed, or the value that it ends with."""
    if output.output_type == "stream":
        return output.text if output.name == "stdout" else ""
    return output.data.get("text/plain", "") + "\n" if "data" in output else ""
