"""Writing files so that a crash, a kill or a full disk leaves the old one or the new one, never half of one."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustvideo.errors import RobustVideoError

_HOST = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, and move it into place.

    Args:
        path: the final file; its folder is created.
        write: receives the temporary path (same suffix as ``path``) and writes it whole.

    Raises:
        RobustVideoError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    temporary = path.with_name(f".{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
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


def is_temporary(path: Path) -> bool:
    """Whether a file is one that `write_atomically` has not finished; a kill leaves it behind."""
    return path.name.startswith(".") and ".tmp" in path.name


def remove_leftovers(folder: Path) -> None:
    """Delete the unfinished files below a folder whose writers, processes of this machine, are gone."""
    for path in folder.rglob(".*-*-*.tmp*"):
        host, pid, _ = path.name.removeprefix(".").split("-", 2)
        if host == _HOST and pid.isdecimal() and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists and is somebody else's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for UTF-8 text."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def slug(name: str) -> str:
    """A file name for any text: its readable part, and a hash that keeps different texts apart."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-48:]
    return f"{readable}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
