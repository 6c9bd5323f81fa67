"""Data sets: decoding, manifests, the field's official layouts and the embedded procedural set.

Names load on first use, so that listing the data sources costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustvideo.data.catalog import schemes as schemes
    from robustvideo.data.dataset import Sample as Sample
    from robustvideo.data.dataset import UnusableClip as UnusableClip
    from robustvideo.data.dataset import VideoDataset as VideoDataset
    from robustvideo.data.dataset import collate as collate
    from robustvideo.data.loading import load_data as load_data
    from robustvideo.data.video_file import read_lossless as read_lossless
    from robustvideo.data.video_file import write_lossless as write_lossless
    from robustvideo.data.video_file import write_preview as write_preview

_HOMES = {
    "schemes": "catalog",
    "Sample": "dataset",
    "UnusableClip": "dataset",
    "VideoDataset": "dataset",
    "collate": "dataset",
    "load_data": "loading",
    "read_lossless": "video_file",
    "write_lossless": "video_file",
    "write_preview": "video_file",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'robustvideo.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"robustvideo.data.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
