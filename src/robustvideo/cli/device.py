"""The ``--device`` option."""

from __future__ import annotations

import os

from robustvideo.errors import InputError


def resolve(name: str) -> str:
    """The device that a name means: ``auto`` is the first GPU, or else the CPU.

    Of several processes on one machine (``LOCAL_RANK`` numbers them) each has a GPU of its own.

    Raises:
        InputError: no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"There is no device {name!r} here: use auto, cpu, or cuda on a machine with a GPU."
        ) from error
    return name
