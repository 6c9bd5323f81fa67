"""Writing files so that a crash, a kill or a full disk leaves the old one or the new one, never half of one.

A place is a `pathlib.Path`, or what universal_pathlib makes of the address of any other file system that fsspec knows
(``s3://``, ``gs://``, ``memory://``), which has the same methods.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from robustvideo.errors import InputError, RobustVideoError

_HOST = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def place(name: str | Path) -> Path:
    """Where something lies: a path on this machine, or an address such as ``s3://bucket/run``.

    Args:
        name: a path or an address; what is a place already stays as it is.

    Raises:
        InputError: an address of an unknown kind, or one that needs a package that is not installed.
    """
    if not isinstance(name, str) or "://" not in name:
        return Path(name) if isinstance(name, str) else name
    scheme, _, rest = name.partition("://")
    if scheme == "file":
        return Path(rest)
    try:
        from upath import UPath

        found = UPath(name)
        found.fs  # noqa: B018  # only now is the package imported that knows this kind of address
        return cast(Path, found)
    except ImportError as error:
        raise InputError(f"{name} needs another package ({error}): pip install 'robustvideo[remote]'.") from error
    except ValueError as error:
        raise InputError(f"{name} is no place to write to: {str(error).strip().splitlines()[0]}") from error


def is_local(path: Path) -> bool:
    """Whether a place is on this machine, where libraries can open it by its name."""
    return isinstance(path, Path)


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file by a name that every library can open: itself, or a copy that lasts as long as the context."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, and move it into place.

    Args:
        path: the final file; its folder is created.
        write: receives the temporary path (same suffix as ``path``) and writes it whole.

    Raises:
        InputError: the path is that of a folder, or of a device, which moving a file there would destroy.
        RobustVideoError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    if not is_local(path):
        _send_atomically(path, write)
        return
    _check_replaceable(path)
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


def check_writable(path: Path) -> None:
    """Find out before the work whether `write_atomically` can write a file; leaves nothing behind.

    Raises:
        InputError: the path is that of a folder or of a device.
        RobustVideoError: nothing can be written there.
    """
    if not is_local(path):
        return
    _check_replaceable(path)
    try:
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not tell: root has them all
            pass
    except OSError as error:
        raise RobustVideoError(f"Cannot write {path}: {error.strerror or error}.") from error


def _check_replaceable(path: Path) -> None:
    with suppress(OSError):  # what cannot be looked at is told when it is written
        if path.is_dir():
            raise InputError(f"Cannot write {path}: it is a folder, name a file.")
        if path.exists() and not path.is_file():
            raise InputError(f"Cannot write {path}: it is a device or a pipe, not a file that may be replaced.")


def _send_atomically(path: Any, write: Callable[[Path], Any]) -> None:
    """`write_atomically` to another file system: written here, sent beside its place, and renamed there."""
    sent = path.with_name(f".{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            write(temporary)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.fs.put_file(str(temporary), sent.path)
        path.fs.mv(sent.path, path.path)
    except OSError as error:
        raise RobustVideoError(f"Cannot write {path}: {error}; what was written before is intact.") from error


def is_temporary(path: Path) -> bool:
    """Whether a file is one that `write_atomically` has not finished; a kill leaves it behind."""
    return path.name.startswith(".") and ".tmp" in path.name


def remove_leftovers(folder: Path) -> None:
    """Delete the unfinished files below a folder whose writers, processes of this machine, are gone."""
    for path in folder.rglob(".*-*-*.tmp*"):
        host, pid, _ = path.name.removeprefix(".").split("-", 2)
        if host == _HOST and pid.isdecimal() and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Let other processes see that this one works in a folder, as long as the context lasts and the process lives.

    The folder is created, and what processes that are gone left in it is removed.

    Raises:
        RobustVideoError: nothing can be written there.
    """
    mark = folder / f".{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    remove_leftovers(folder)
    write_text(mark, "")
    try:
        yield
    finally:
        with suppress(OSError):
            mark.unlink(missing_ok=True)


def others_at_work(folder: Path) -> bool:
    """Whether another process may work in a folder; one of another machine cannot be seen to be gone."""
    remove_leftovers(folder)
    own = f".{_HOST}-{os.getpid()}-"
    return any(is_temporary(path) and not path.name.startswith(own) for path in folder.iterdir())


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


def signature(content: Any) -> str:
    """A hash of what JSON can hold, to notice afterwards that a file is not what was written."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def slug(name: str) -> str:
    """A file name for any text: its readable part, and a hash that keeps different texts apart."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-48:]
    return f"{readable}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
