"""The ``--device`` option."""

from __future__ import annotations

from robustvideo.errors import InputError


def resolve(name: str) -> str:
    """The device that a name means: ``auto`` is the first GPU, or else the CPU.

    Raises:
        InputError: no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"There is no device {name!r} here: use auto, cpu, or cuda on a machine with a GPU."
        ) from error
    return name
