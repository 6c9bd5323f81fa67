"""robustvideo: measure and improve the adversarial robustness of video and audio-visual recognition models.

Names load on first use, so ``import robustvideo`` costs nothing until a network is needed.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustvideo import attacks as attacks
    from robustvideo.attacks import load_attack as load_attack
    from robustvideo.clip import Clip as Clip
    from robustvideo.data import load_data as load_data
    from robustvideo.evaluation import evaluate as evaluate
    from robustvideo.model import Model as Model
    from robustvideo.model import wrap as wrap
    from robustvideo.models import load_model as load_model
    from robustvideo.purification import Defended as Defended
    from robustvideo.purification import load_defense as load_defense
    from robustvideo.threat import L2 as L2
    from robustvideo.threat import L21 as L21
    from robustvideo.threat import AudioVisual as AudioVisual
    from robustvideo.threat import FlowField as FlowField
    from robustvideo.threat import Joint as Joint
    from robustvideo.threat import Linf as Linf
    from robustvideo.threat import ThreatModel as ThreatModel

try:
    __version__ = version("robustvideo")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "attacks": "robustvideo.attacks",
    "load_attack": "robustvideo.attacks",
    "Clip": "robustvideo.clip",
    "load_data": "robustvideo.data",
    "evaluate": "robustvideo.evaluation",
    "Model": "robustvideo.model",
    "wrap": "robustvideo.model",
    "load_model": "robustvideo.models",
    "Defended": "robustvideo.purification",
    "load_defense": "robustvideo.purification",
    "AudioVisual": "robustvideo.threat",
    "FlowField": "robustvideo.threat",
    "Joint": "robustvideo.threat",
    "L2": "robustvideo.threat",
    "L21": "robustvideo.threat",
    "Linf": "robustvideo.threat",
    "ThreatModel": "robustvideo.threat",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'robustvideo' has no attribute {name!r}")
    module = importlib.import_module(home)
    return module if home == f"robustvideo.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
