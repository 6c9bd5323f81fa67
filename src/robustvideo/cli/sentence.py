"""What the command line says of an exception or a warning, where a sentence says enough."""

from __future__ import annotations

import sys
import sysconfig
import traceback
import warnings
from pathlib import Path
from typing import Any

import robustvideo
from robustvideo.errors import RobustVideoError, RobustVideoWarning

_LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_NOT_THE_USER_S = ("<", str(Path(robustvideo.__file__).parent), *_LIBRARIES)


def in_one_sentence(error: Exception) -> str | None:
    """The sentence for an error that a user can do something about; None for any other, which shows its traceback."""
    if isinstance(error, RobustVideoError):
        return f"{error}{_origin(error.__cause__)}"
    if _is_out_of_memory(error):
        return "Memory ran out: use fewer or smaller frames, shorter windows, smaller batches, or another --device."
    if isinstance(error, OSError) and error.filename is not None:
        return f"Cannot use {error.filename}: {error.strerror}."
    return None


def warn_in_one_sentence() -> None:
    """From now on print warnings of this package as ``Warning:`` and their sentence; others stay as Python has them."""
    as_python_has_it = warnings.formatwarning

    def formatted(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        if issubclass(category, RobustVideoWarning):
            return f"Warning: {message}\n"
        return as_python_has_it(message, category, *place, **line)

    warnings.formatwarning = formatted


def _origin(cause: BaseException | None) -> str:
    """Where in the user's own code an error began; empty for one that did not."""
    frames = [] if cause is None else traceback.extract_tb(cause.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_NOT_THE_USER_S)]
    if not own:
        return ""
    place = f"{Path(own[-1].filename).name}, line {own[-1].lineno}"
    return f" ({type(cause).__name__} in {place}; ROBUSTVIDEO_DEBUG=1 shows the traceback)"


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:  # nothing that only torch can tell, so it is not worth its import
        return False
    from robustvideo.model import is_out_of_memory

    return is_out_of_memory(error)
