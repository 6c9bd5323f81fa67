"""`load_model`: a model from its spec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from robustvideo.errors import InputError, unknown
from robustvideo.model import Model
from robustvideo.models.catalog import SCHEMES, catalog, networks
from robustvideo.models.checkpoint import load_state, read_labels, read_state
from robustvideo.registry import construct, parameters
from robustvideo.spec import Call, Source, parse_source, parse_value

_NAMED = "network"


def load_model(
    spec: str, *, num_classes: int | None = None, device: torch.device | str = "cpu", seed: int = 0
) -> Model:
    """Load a model from a spec, in evaluation mode.

    =====================================================  =========================================================
    ``embedded:r3d``                                       a small network that comes with the package; untrained
                                                           with ``?weights=none``
    ``torchvision:r3d_18?weights=KINETICS400_V1``          torchvision's video networks, with their own weights, or
                                                           untrained (``classes=``, ``frames=``, ``size=``)
    ``hf:MCG-NJU/videomae-base-finetuned-kinetics``        a Hugging Face video classifier, or a local folder
    ``file:my_model.py:build?depth=18``                    what a factory in your own file returns; the options go
                                                           to it as text
    =====================================================  =========================================================

    Each takes ``checkpoint=<file>``: weights of your own, safetensors or a torch file of tensors. A safetensors file
    that this package trained also brings the names of its classes.

    Whatever a network draws at random when it is built, it draws from ``seed``: the same spec is the same model.

    Args:
        spec: see above.
        num_classes: classes of an untrained network whose spec does not say how many.
        device: where the model is moved.
        seed: of the weights of an untrained network, or of an untrained layer on top of trained ones.

    Raises:
        InputError: an unknown name or option, weights that cannot be had or do not fit, or a factory that fails.
    """
    source = _parse(spec)
    checkpoint = source.options.get("checkpoint")
    options = {key: value for key, value in source.options.items() if key != "checkpoint"}
    with _random_state(seed):
        model = _build(Source(source.scheme, source.name, options), num_classes, download=checkpoint is None)
    if checkpoint is not None:
        path = Path(checkpoint).expanduser()
        load_state(model, read_state(path), checkpoint)
        model.labels = read_labels(path) or model.labels
    return model.to(device).eval()


def _parse(spec: str) -> Source:
    name = spec.partition("?")[0].strip()
    if ":" in name:
        source = parse_source(spec)
        if source.scheme not in SCHEMES:
            raise unknown("model source", source.scheme, SCHEMES)
        return source
    if name in networks.entries():
        return parse_source(f"{_NAMED}:{spec.strip()}")
    exact = [known for known in catalog() if known.endswith(f":{name}")]
    if name and exact:
        raise InputError(f"Unknown model {name!r}: did you mean {' or '.join(map(repr, exact))}?")
    raise unknown("model", name, catalog())


def _build(source: Source, num_classes: int | None, download: bool) -> Model:
    if source.scheme == "embedded":
        from robustvideo.models.embedded import load_embedded

        return load_embedded(source, num_classes)
    if source.scheme == "torchvision":
        from robustvideo.models.torchvision_video import load_torchvision

        return load_torchvision(source, num_classes, download)
    if source.scheme == "hf":
        from robustvideo.models.huggingface import load_huggingface

        return load_huggingface(source)
    if source.scheme == "file":
        from robustvideo.models.user_file import load_user_file

        return load_user_file(source)
    configuration = networks.get(source.name)
    arguments = {key: parse_value(value) for key, value in source.options.items()}
    if num_classes is not None and "classes" in parameters(configuration):
        arguments.setdefault("classes", num_classes)
    return construct(configuration, Call(source.name, arguments)).build()


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """Draw from ``seed`` on the CPU, where networks are built; the state is as before afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
