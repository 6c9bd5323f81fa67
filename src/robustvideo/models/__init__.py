"""Models: loaders for torchvision, Hugging Face and a user's own file, and the embedded networks.

Names load on first use, so that listing models costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustvideo.models.loading import load_model as load_model
    from robustvideo.models.windowed import Windowed as Windowed

_HOMES = {"load_model": "loading", "Windowed": "windowed"}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'robustvideo.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"robustvideo.models.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
