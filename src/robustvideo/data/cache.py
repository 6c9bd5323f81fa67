"""Decoded clips on disk, under a name made of everything they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import av
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from robustvideo.data.reading import Recorded
from robustvideo.storage import write_atomically

_LAYOUT = "2"  # of an entry, and the way clips are made


def cached(folder: Path, source: Path, recipe: str, decode: Callable[[], Recorded]) -> Recorded:
    """What ``decode`` returns, from the cache where it holds it.

    An entry belongs to the source's path, size and time of change, to ``recipe``, and to the version of PyAV. It is
    written whole or not at all; a damaged one is decoded again and replaced.

    Args:
        folder: the cache; created when missing.
        source: the video file, which must exist.
        recipe: everything else that the result depends on.
        decode: makes the clip.

    Raises:
        RobustVideoError: the cache cannot be written.
    """
    facts = source.stat()
    name = "\x1f".join((_LAYOUT, av.__version__, str(source.resolve()), str(facts.st_size), str(facts.st_mtime_ns)))
    key = hashlib.blake2b(f"{name}\x1f{recipe}".encode(), digest_size=16).hexdigest()
    entry = folder / key[:2] / f"{key}.safetensors"
    found = _load(entry)
    if found is not None:
        return found
    recorded = decode()
    tensors = {"video": recorded.video.contiguous()}
    if recorded.audio is not None:
        tensors["audio"] = recorded.audio.contiguous()
    metadata = {"digest": recorded.digest(), "sample_rate": str(recorded.sample_rate or "")}
    write_atomically(entry, lambda temporary: save_file(tensors, temporary, metadata))
    return recorded


def _load(entry: Path) -> Recorded | None:
    """An entry; None when it is missing or damaged."""
    try:
        with safe_open(entry, framework="pt") as file:
            metadata = file.metadata()
            rate = metadata["sample_rate"]
            audio = file.get_tensor("audio") if rate else None
            found = Recorded(file.get_tensor("video"), audio, int(rate) if rate else None)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError):
        return None
    return found if found.digest() == metadata["digest"] else None
