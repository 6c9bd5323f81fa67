"""What makes a model the same model in another run: its weights, its settings, and a user's own code. And a clip."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.model import Model, WrappedModel


def code_of(model: nn.Module) -> str:
    """The hashes of the source of every user's own model in a model; empty when all of it is this package's."""
    return "".join(module.code_digest for module in model.modules() if isinstance(module, Model))


def settings_of(model: Model) -> list[dict[str, Any]]:
    """What stands before the weights in every model of a model: none of it is in a tensor."""
    found = []
    for module in model.modules():
        if isinstance(module, Model):
            facts: dict[str, Any] = {"frames": module.frames, "size": list(module.size) if module.size else None}
            if isinstance(module, WrappedModel):
                facts |= {"channel_order": module.channel_order, "layout": module.layout}
            found.append(facts)
    return found


def digest_of(model: nn.Module | None) -> str:
    """A hash of every weight, every buffer and a user's own code: two runs belong together only if it is the same."""
    if model is None:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(_content(name, tensor))
    digest.update(code_of(model).encode())
    return digest.hexdigest()


def digest_of_clip(clip: Clip) -> str:
    """A hash of every sample of picture and sound: ids alone do not tell two data sets apart."""
    digest = hashlib.blake2b(_content("video", clip.video), digest_size=16)
    if clip.audio is not None:
        digest.update(_content(f"audio at {clip.sample_rate}", clip.audio))
    return digest.hexdigest()


def _content(name: str, tensor: Tensor) -> bytes:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode() + values
