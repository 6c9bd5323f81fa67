"""Decoded clips on disk, under a name made of everything they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import av
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robustvideo.data.reading import Recorded
from robustvideo.storage import write_atomically

_LAYOUT = "1"


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
    rate = str(recorded.sample_rate or "")
    metadata = {"digest": _digest(tensors, rate), "sample_rate": rate}
    write_atomically(entry, lambda temporary: save_file(tensors, temporary, metadata))
    return recorded


def _load(entry: Path) -> Recorded | None:
    """An entry; None when it is missing or damaged."""
    try:
        with safe_open(entry, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            metadata = file.metadata() or {}
    except (FileNotFoundError, SafetensorError, OSError):
        return None
    rate = metadata.get("sample_rate", "")
    if metadata.get("digest") != _digest(tensors, rate):
        return None
    return Recorded(tensors["video"], tensors.get("audio"), int(rate) if rate else None)


def _digest(tensors: dict[str, Tensor], rate: str) -> str:
    digest = hashlib.blake2b(rate.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
