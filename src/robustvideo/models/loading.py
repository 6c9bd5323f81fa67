"""`load_model`: a model from its spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from robustvideo.errors import InputError, unknown
from robustvideo.model import Model
from robustvideo.models.alteration import load_alterations
from robustvideo.models.catalog import SCHEMES, catalog, networks
from robustvideo.models.checkpoint import load_state, read_labels, read_state
from robustvideo.models.ensemble import Ensemble
from robustvideo.models.trained import Options, part_of, read_origin, runs_code
from robustvideo.registry import construct, parameters
from robustvideo.spec import Call, Source, parse_source, parse_value

_NAMED = "network"
_AND = " + "


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
    ``chat:Qwen/Qwen2.5-Omni-3B?labels=[dog, guitar]``     an audio-visual language model that names what it hears;
                                                           without gradients
    ``file:my_model.py:build?depth=18``                    what a factory in your own file returns; the options go
                                                           to it as text
    ``trained:runs/first/model.safetensors``               a network in a file that ``robustvideo train`` wrote,
                                                           which says itself what network it is; see below
    ``resnext3d_101?classes=101``                          a network of the field by its own name
    =====================================================  =========================================================

    Each takes ``checkpoint=<file>``: weights of your own, safetensors or a torch file of tensors. A safetensors file
    that this package trained also brings the names of its classes.

    Each takes ``with=<alteration>``, such as ``with=ape_gan()``, or several in brackets: what a defence adds to the
    network; see `robustvideo.models.alteration`. It is applied to the network with its own weights, so ``weights=``
    and ``checkpoint=`` are the unaltered network's.

    ``trained:`` rebuilds the network that its file was trained from, with its alterations, fetches no other weights,
    and fills it with the file's. ``part=undefended`` takes the model behind a generator, ``part=branch0`` one branch
    of ``multi_bn``. A network of your own (``file:``) is code and only run with ``run_code=true``.

    Several specs with `` + `` between them are an `robustvideo.models.ensemble.Ensemble`, the mean of their logits:
    ``embedded:r3d + embedded:cnn_lstm``.

    Whatever a network or an alteration draws at random when it is built, it draws from ``seed``: the same spec is the
    same model.

    Args:
        spec: see above.
        num_classes: classes of an untrained network whose spec does not say how many.
        device: where the model is moved.
        seed: of the weights of an untrained network, or of untrained layers in or on top of trained ones.

    Raises:
        InputError: an unknown name or option, weights that cannot be had or do not fit, a factory that fails, or an
            alteration that does not suit the network.
    """
    if _AND in spec:
        each = [load_model(part, num_classes=num_classes, device=device, seed=seed) for part in spec.split(_AND)]
        return Ensemble(each).eval()
    source = _parse(spec)
    with _random_state(seed):
        model = _load(source, num_classes, filled=True)
    return model.to(device).eval()


def untrained(spec: str) -> list[str]:
    """The networks of a spec that nothing gives weights to, so that what they say is random.

    What a user's own factory returns is taken for trained.

    Raises:
        InputError: an unknown name or option.
    """
    return [part for part in spec.split(_AND) if _is_untrained(_parse(part))]


def _is_untrained(source: Source) -> bool:
    options = source.options
    if "checkpoint" in options:
        return False
    if source.scheme == "embedded":
        return options.get("weights") == "none"
    return source.scheme == _NAMED or (source.scheme == "torchvision" and "weights" not in options)


def _load(source: Source, num_classes: int | None, filled: bool) -> Model:
    """A network, its weights if it is to be filled with any, and what is added to it."""
    options = dict(source.options)
    checkpoint, added = options.pop("checkpoint", None), options.pop("with", None)
    alterations = [] if added is None else load_alterations(added)
    model = _build(Source(source.scheme, source.name, options), num_classes, filled and checkpoint is None)
    if filled and checkpoint is not None:
        path = Path(checkpoint).expanduser()
        load_state(model, _converted(source, read_state(path)), checkpoint)
        model.labels = read_labels(path) or model.labels
    for alteration in alterations:
        model = alteration.apply(model)
    return model


def _parse(spec: str) -> Source:
    name = spec.partition("?")[0].strip()
    if ":" in name:
        source = parse_source(spec)
        if source.scheme.endswith(".py"):
            raise InputError(f"Cannot load {spec!r}: did you mean 'file:{spec.strip()}'?")
        if source.scheme not in SCHEMES:
            raise unknown("model source", source.scheme, SCHEMES)
        return source
    if name in networks.entries():
        return parse_source(f"{_NAMED}:{spec.strip()}")
    if name.endswith(".py"):
        raise InputError(f"Cannot load {spec!r}: name its factory as well, 'file:{name}:build'.")
    exact = [known for known in catalog() if known.endswith(f":{name}")]
    if name and exact:
        raise InputError(f"Unknown model {name!r}: did you mean {' or '.join(map(repr, exact))}?")
    raise unknown("model", name, catalog())


def _build(source: Source, num_classes: int | None, filled: bool) -> Model:
    """A network as its scheme builds it.

    Args:
        source: what it is, without the options that all schemes share.
        num_classes: see `load_model`.
        filled: with its own weights; otherwise others will be filled in, and none are fetched.
    """
    if source.scheme == "trained":
        return _load_trained(source, filled)
    if source.scheme == "embedded":
        from robustvideo.models.embedded import load_embedded

        return load_embedded(source, num_classes)
    if source.scheme == "torchvision":
        from robustvideo.models.torchvision_video import load_torchvision

        return load_torchvision(source, num_classes, filled)
    if source.scheme == "hf":
        from robustvideo.models.huggingface import load_huggingface

        return load_huggingface(source, filled)
    if source.scheme == "chat":
        from robustvideo.models.chat import load_chat

        return load_chat(source)
    if source.scheme == "file":
        from robustvideo.models.user_file import load_user_file

        return load_user_file(source)
    configuration = networks.get(source.name)
    arguments = {key: parse_value(value) for key, value in source.options.items()}
    if num_classes is not None and "classes" in parameters(configuration):
        arguments.setdefault("classes", num_classes)
    return construct(configuration, Call(source.name, arguments)).build()


def _load_trained(source: Source, filled: bool) -> Model:
    options = construct(Options, Call(f"trained:{source.name}", dict(source.options)))
    path = Path(source.name).expanduser()
    origin = read_origin(path)
    base = _parse(origin.model)
    # what a file says of itself must not decide whether code is run
    if base.scheme != "trained" and runs_code(origin.model) and not options.run_code:
        raise InputError(
            f"The network of {path} is code, {origin.model}: if you trust it, add run_code=true to the spec."
        )
    if base.scheme == "trained":
        base = replace(base, options={**base.options, "run_code": str(options.run_code)})
    model = _load(base, len(origin.labels), filled=False)
    if filled:
        load_state(model, read_state(path), str(path))
    model.labels = origin.labels
    return model if options.part is None else part_of(model, options.part)


def _converted(source: Source, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A checkpoint's tensors by the names that a network gives them; see `catalog.Network`."""
    convert = getattr(networks.get(source.name), "convert", None) if source.scheme == _NAMED else None
    converted: Mapping[str, Tensor] = state if convert is None else convert(state)
    return converted


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """Draw from ``seed`` on the CPU, where networks are built; the state is as before afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
