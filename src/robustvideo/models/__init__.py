"""Models (a stop-gap until the owner of this package lands the loaders)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from robustvideo.model import Model


def load_model(spec: str, *, num_classes: int | None = None, device: str = "cpu") -> Model:
    """Load ``embedded:NAME`` or ``file:PATH:FACTORY``."""
    from robustvideo.spec import parse_source

    source = parse_source(spec)
    if source.scheme == "embedded":
        from robustvideo.models.embedded import load

        return load(source.name).to(device)
    path, _, factory = source.name.rpartition(":")
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert module_spec is not None
    module = importlib.util.module_from_spec(module_spec)
    assert module_spec.loader is not None
    module_spec.loader.exec_module(module)
    model: Model = getattr(module, factory)(**source.options)
    return model.to(device)
