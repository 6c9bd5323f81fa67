"""Sections of files outside the documentation, shown in a page of it: written once, read in both places."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

_PLACE = re.compile(r"^<!-- section: (\S+), (.+) -->$", flags=re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)


def filled(page: str) -> str:
    """A page with every ``<!-- section: FILE, Heading -->`` replaced by what stands under that heading.

    Raises:
        LookupError: a file has no such heading.
    """
    return _PLACE.sub(lambda place: section(ROOT / place[1], place[2]), page)


def section(path: Path, heading: str) -> str:
    """What stands under a heading of the second level, up to the next one of that level or above.

    Raises:
        LookupError: there is no such heading.
    """
    text = path.read_text(encoding="utf-8")
    code = [range(*block.span()) for block in _FENCED.finditer(text)]
    headings = [
        found
        for found in re.finditer(r"^##? (.+)$", text, flags=re.MULTILINE)
        if not any(found.start() in block for block in code)  # a comment in a block of code is no heading
    ]
    for found, following in zip(headings, [*headings[1:], None], strict=True):
        if found[0] == f"## {heading}":
            return text[found.end() : following.start() if following else None].strip()
    raise LookupError(f"{path.name} has no section {heading!r}")
