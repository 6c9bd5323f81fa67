"""The network that a recipe trains."""

from __future__ import annotations

from robustvideo.model import Model
from robustvideo.models import embedded, load_model
from robustvideo.spec import parse_source


def build_network(spec: str) -> Model:
    """A network from its model spec; ``embedded:<name>?weights=none`` is an untrained one.

    Raises:
        InputError: no such model.
    """
    source = parse_source(spec)
    if source.scheme == "embedded" and dict(source.options) == {"weights": "none"}:
        return embedded.build(source.name)
    return load_model(spec)
