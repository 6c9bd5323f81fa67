"""Checkpoints are data, never code: safetensors, or torch files read with ``weights_only=True``."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from robustvideo.errors import InputError


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name.

    A torch file may wrap them in ``state_dict``, ``model_state`` or ``model``; a ``module.`` prefix that every name
    carries (from data-parallel training, or from `robustvideo.model.wrap`) is dropped.

    Raises:
        InputError: no such file, a damaged one, one that would have to run code, or one without tensors.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    prefix = _shared_prefix(state)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def load_state(module: nn.Module, state: Mapping[str, Tensor], name: str = "the checkpoint") -> None:
    """Fill a module, every tensor of it and no other. A prefix ``module.`` of all its names need not be in ``state``.

    Args:
        module: what to fill.
        state: tensors by name.
        name: what to call them in a message.

    Raises:
        InputError: the first name that is missing or unexpected, or the first shape that differs.
    """
    own = module.state_dict()
    prefix = "" if _shared_prefix(state) else _shared_prefix(own)
    state = {prefix + key: tensor for key, tensor in state.items()}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        wrong = f"lacks {missing[0]!r}" if missing else f"has {unexpected[0]!r}, which the network lacks"
        raise InputError(
            f"{name} is of another network: it {wrong} ({len(missing)} missing, {len(unexpected)} unexpected)."
        )
    for key, tensor in own.items():
        if state[key].shape != tensor.shape:
            raise InputError(
                f"{name} is of another network: {key!r} has shape {tuple(state[key].shape)}, the network's is "
                f"{tuple(tensor.shape)}; where only the number of classes differs, set classes=."
            )
    module.load_state_dict(state)


def read_labels(path: Path) -> tuple[str, ...] | None:
    """The class names that training put beside the weights of a safetensors file; None where there are none."""
    metadata = read_metadata(path)
    return tuple(json.loads(metadata["labels"])) if "labels" in metadata else None


def read_metadata(path: Path) -> Mapping[str, str]:
    """What a safetensors file says beside its weights, by name; nothing for other files.

    Raises:
        InputError: a damaged file.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not readable as safetensors: {error}.") from error


def _shared_prefix(state: Mapping[str, Tensor]) -> str:
    """``module.``, as many times as every name starts with it."""
    prefix = ""
    while state and all(name.startswith(prefix + "module.") for name in state):
        prefix += "module."
    return prefix


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not readable as safetensors: {error}.") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and would have to run code to be read: convert it to safetensors "
            "where you trust it."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not readable as a checkpoint: {(str(error).splitlines() or ['?'])[0]}") from error
    for wrapper in ("state_dict", "model_state", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path} holds no state dictionary: save one with safetensors.torch.save_file.")
    return {str(name): tensor for name, tensor in content.items()}
