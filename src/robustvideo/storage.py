"""Writing files so that a crash, a kill or a full disk leaves the old one or the new one, never half of one."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustvideo.errors import RobustVideoError


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, and move it into place.

    Args:
        path: the final file; its folder is created.
        write: receives the temporary path (same suffix as ``path``) and writes it whole.

    Raises:
        RobustVideoError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RobustVideoError(
            f"Cannot write {path}: {error.strerror or error}; what was written before is intact."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for UTF-8 text."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def slug(name: str) -> str:
    """A file name for any text: its readable part, and a hash that keeps different texts apart."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-48:]
    return f"{readable}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
