"""`Model`: anything that maps a `Clip` to logits, and the abilities that an attack may ask of it.

`wrap` turns a plain network into a model: resizing, frame sampling, channel order, layout and normalisation become
part of the network under attack, so that a budget always means pixels of the stored video.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError, RobustVideoError

Layout = Literal["bcthw", "btchw", "bthwc"]


class Model(nn.Module):
    """Base of every model. Subclasses map a `Clip` to logits (B, K) in ``forward``.

    Attributes:
        labels: class names by index, or None when unknown.
        frames: number of frames the network takes; None when any.
        size: (height, width) the network takes; None when any.
        sample_rate: rate of the sound the network takes; None when it is deaf.
        code_digest: a hash of the source of a user's own model, which decides its answers as weights do; else empty.
    """

    labels: tuple[str, ...] | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    sample_rate: int | None = None
    code_digest: str = ""

    def forward(self, clip: Clip) -> Tensor:
        raise NotImplementedError

    def for_gradients(self) -> Model:
        """The model whose gradients an attack takes; verdicts are this one's. Default: itself."""
        return self


@dataclass(frozen=True)
class Routing:
    """What a mixture of experts decided.

    Attributes:
        logits: (B, K) of the whole model.
        router_logits: (B, M), before any softmax.
        expert_logits: (B, M, K); rows of experts that did not run are NaN.
        weights: (B, M) gate weights, 0 for experts that were not chosen.
    """

    logits: Tensor
    router_logits: Tensor
    expert_logits: Tensor
    weights: Tensor


@runtime_checkable
class Routed(Protocol):
    """A mixture of experts that shows its routing."""

    def route(self, clip: Clip, needed: Tensor | None = None) -> Routing:
        """Router logits, expert logits and gate weights of one forward pass.

        Args:
            clip: the clips.
            needed: (B, M) bool, experts whose logits the caller wants of each clip; (B, 1) asks all alike. They run
                besides those that the router chose, and change neither ``logits`` nor ``weights``. None: none.
        """


@runtime_checkable
class Featurised(Protocol):
    """A model with one feature per time step and modality."""

    def features(self, clip: Clip) -> Mapping[str, Tensor]:
        """Modality -> (B, steps, D) features, before fusion."""

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) from what `features` returned."""


def frames_per_step(model: Model) -> int:
    """How many frames a model takes for one time step of its features: its ``span``, or 1 where it has none."""
    return int(getattr(model, "span", 1))


@runtime_checkable
class Framewise(Protocol):
    """A model that encodes each frame alone, then reads the sequence."""

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(N, C, H, W) frames in [0, 1] -> (N, D) features."""

    def head(self, features: Tensor) -> Tensor:
        """(B, T, D) features of a clip's frames -> logits (B, K)."""


@runtime_checkable
class Purified(Protocol):
    """A model behind a purifier."""

    @property
    def undefended(self) -> Model:
        """The model behind the purifier."""

    @property
    def gradient_mode(self) -> str:
        """How gradients pass the purifier: none, bpda, exact or surrogate."""


@runtime_checkable
class Voting(Protocol):
    """A model whose verdict is made of several votes, which an attack does better to turn one by one."""

    def votes(self, clip: Clip) -> Tensor:
        """Logits (B, M, K) of the M votes of every clip."""

    def verdict(self, votes: Tensor) -> Tensor:
        """The model's logits (B, K), from its votes."""


@runtime_checkable
class Reconstructing(Protocol):
    """A model behind a purifier that puts noise on a clip and takes it off again."""

    def reconstruct(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Logits (B, M, K) of the votes, and (B,) how far the way back strays from the way out, mean squared."""


class WrappedModel(Model):
    """A network with its own preprocessing in front; see `wrap`."""

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        module: nn.Module,
        *,
        frames: int | None,
        size: int | tuple[int, int] | None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channel_order: Literal["rgb", "bgr"] = "rgb",
        layout: Layout = "bcthw",
        labels: Sequence[str] | None = None,
    ):
        super().__init__()
        if channel_order not in ("rgb", "bgr"):
            raise InputError(f"channel_order is 'rgb' or 'bgr', got {channel_order!r}.")
        if layout not in ("bcthw", "btchw", "bthwc"):
            raise InputError(f"layout is 'bcthw', 'btchw' or 'bthwc', got {layout!r}.")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != len(mean or std or ()):
                raise InputError(f"mean and std have one number per channel, got {mean} and {std}.")
            if name == "std" and values is not None and not all(v > 0 for v in values):
                raise InputError(f"std must be positive, got {std}.")
        self.module = module
        self.frames = frames
        self.size = (size, size) if isinstance(size, int) else size
        self.labels = named_once(labels) if labels is not None else None
        self.channel_order = channel_order
        self.layout = layout
        self.normalises = mean is not None or std is not None
        for name, values, default in (("_mean", mean, 0.0), ("_std", std, 1.0)):
            tensor = torch.tensor(values if values is not None else [default] * 3, dtype=torch.float32)
            self.register_buffer(name, tensor.view(-1, 1, 1, 1), persistent=False)

    def forward(self, clip: Clip) -> Tensor:
        return logits_of(self.module(self.prepare(clip.video)))

    def prepare(self, video: Tensor) -> Tensor:
        """Sampling, resizing, normalisation, channel order, layout and the weights' type, all differentiable."""
        if self.frames is not None and video.shape[2] != self.frames:
            video = video[:, :, uniform_indices(video.shape[2], self.frames).to(video.device)]
        if self.size is not None and tuple(video.shape[3:]) != self.size:
            batch, channels, frames = video.shape[:3]
            flat = video.transpose(1, 2).flatten(0, 1)
            flat = F.interpolate(flat, self.size, mode="bilinear", align_corners=False, antialias=True)
            video = flat.view(batch, frames, channels, *self.size).transpose(1, 2)
        if self.normalises:
            video = (video - self._mean.to(video.dtype)) / self._std.to(video.dtype)
        if self.channel_order == "bgr":
            video = video.flip(1)
        if self.layout == "btchw":
            video = video.transpose(1, 2)
        elif self.layout == "bthwc":
            video = video.permute(0, 2, 3, 4, 1)
        return video.to(next((p.dtype for p in self.module.parameters() if p.is_floating_point()), video.dtype))


def wrap(
    module: nn.Module,
    *,
    frames: int | None,
    size: int | tuple[int, int] | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channel_order: Literal["rgb", "bgr"] = "rgb",
    layout: Layout = "bcthw",
    labels: Sequence[str] | None = None,
) -> WrappedModel:
    """Turn a network into a `Model` that takes a `Clip`.

    Args:
        module: maps a video tensor to logits (B, K), or to an object or mapping with ``logits``.
        frames: frames the network takes; clips of another length are sampled uniformly. None: any.
        size: side, or (height, width), the network takes; clips of another size are resized (bilinear with
            antialiasing). None: any.
        mean, std: per-channel normalisation in RGB order, applied to pixels in [0, 1]. Default: none.
        channel_order: order of the channels the network wants. Default "rgb".
        layout: order of the axes the network wants, out of b(atch), c(hannel), t(ime), h(eight), w(idth).
        labels: class names by index, one for every logit, for reports and for manifests that name their classes.

    Raises:
        InputError: an unknown layout or channel order, a std that is not positive, or a class named twice.
    """
    return WrappedModel(
        module, frames=frames, size=size, mean=mean, std=std, channel_order=channel_order, layout=layout, labels=labels
    )


def named_once(labels: Sequence[str]) -> tuple[str, ...]:
    """Class names by index, each of one class.

    Raises:
        InputError: a name stands for two classes, so that nobody knows which of them a clip of that name is of.
    """
    places: dict[str, int] = {}
    for index, name in enumerate(labels):
        if places.setdefault(name, index) != index:
            raise InputError(
                f"Two classes, {places[name]} and {index}, are named {name!r}: give every class a name of its own "
                "(labels=)."
            )
    return tuple(labels)


def logits_of(output: Any) -> Tensor:
    """The logits in whatever a network returned: a tensor, a mapping or an object with ``logits``.

    Raises:
        InputError: none is there.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    raise InputError(f"The model returned {type(output).__name__}, not logits: return a tensor (B, classes).")


def uniform_indices(available: int, wanted: int) -> Tensor:
    """``wanted`` frame numbers spread evenly over ``available``, the middle of each equal stretch (int64)."""
    return ((torch.arange(wanted, dtype=torch.float64) + 0.5) * available / wanted).long()


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lives; the CPU if it has none. The model is never moved."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and a borrowed random state; all as before afterwards, whatever happens.

    Each module's own train / eval flag, each parameter's ``requires_grad`` and the global random states of the CPU
    and the model's device are restored.
    """
    device = device_of(model)
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            model.eval()
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            for module, mode in modes:
                module.training = mode


def run(model: Model, clip: Clip) -> Tensor:
    """Logits (B, K) of a model, K at least 2.

    Raises:
        InputError: the model failed, or its logits have the wrong shape, are not as many as its class names or are on
            another device.
    """
    with said_in_words(model, clip):
        logits = model(clip)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(clip) or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"The model must return logits of shape ({len(clip)}, classes), got {shape}.")
    if model.labels is not None and len(model.labels) != logits.shape[1]:
        raise InputError(
            f"The model names {len(model.labels)} classes but returns {logits.shape[1]} logits per clip: give it one "
            "name per logit (labels=)."
        )
    if logits.device != clip.device:
        raise InputError(f"The model returned logits on {logits.device} for a clip on {clip.device}.")
    return logits


def run_votes(model: Voting, clip: Clip) -> Tensor:
    """Logits (B, M, K) of the votes of a model; see `Voting`.

    Raises:
        InputError: the model failed, or its votes have the wrong shape.
    """
    with said_in_words(model, clip):
        votes = model.votes(clip)
    if votes.ndim != 3 or len(votes) != len(clip) or votes.shape[1] < 1 or votes.shape[2] < 2:
        raise InputError(f"The model must return votes of shape ({len(clip)}, votes, classes), got {votes.shape}.")
    return votes


def reconstruct(model: Model, clip: Clip) -> tuple[Tensor, Tensor]:
    """Votes and deviation of a model; see `Reconstructing`.

    Raises:
        InputError: the model does not purify by diffusion, or it failed.
    """
    if not isinstance(model, Reconstructing):
        raise InputError(
            f"{type(model).__name__} shows no way back: it is not behind a purifier by diffusion of gradient=exact or "
            "gradient=surrogate (robustvideo.model.Reconstructing)."
        )
    with said_in_words(model, clip):
        return model.reconstruct(clip)


def route(model: Model, clip: Clip, needed: Tensor | None = None) -> Routing:
    """The routing of a mixture of experts; see `Routed`.

    Raises:
        InputError: the model is no mixture of experts, it failed, or the shapes of its routing do not agree.
    """
    if not isinstance(model, Routed):
        raise InputError(
            f"{type(model).__name__} is no mixture of experts: it has no route() that shows its routing, as video_moe "
            "has (robustvideo.model.Routed)."
        )
    with said_in_words(model, clip):
        routing = model.route(clip, needed)
    batch, experts = len(clip), routing.router_logits.shape[-1]
    wanted = {
        "logits": (batch, routing.logits.shape[-1]),
        "router_logits": (batch, experts),
        "expert_logits": (batch, experts, routing.logits.shape[-1]),
        "weights": (batch, experts),
    }
    for name, shape in wanted.items():
        found = tuple(getattr(routing, name).shape)
        if found != shape:
            raise InputError(f"The model's routing must have {name} of shape {shape}, got {found}.")
    return routing


@contextmanager
def said_in_words(model: object, clip: Clip) -> Iterator[None]:
    """Turn whatever a model's code raises on clips into an `InputError`; out of memory and our own errors stay."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RobustVideoError) or is_out_of_memory(error):
            raise
        modules = model.modules() if isinstance(model, nn.Module) else ()
        layouts = {module.layout for module in modules if isinstance(module, WrappedModel)}
        given = f", given to the network with layout={layouts.pop()!r}" if len(layouts) == 1 else ""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"The model failed on clips of shape {tuple(clip.video.shape)}{given}: {reason}") from error


@contextmanager
def _without_tf32(device: torch.device) -> Iterator[None]:
    """Full float32 products on a GPU; the user's setting is restored."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    name: str
    off: object
    if hasattr(torch.backends, "fp32_precision"):  # torch 2.9 and later
        name, off, places = "fp32_precision", "ieee", [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    else:
        name, off, places = "allow_tf32", False, [torch.backends.cuda.matmul, cudnn]
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, off)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


@torch.no_grad()
def classify(model: Model, clip: Clip) -> Tensor:
    """Logits (B, K) in the model's own precision: no autocast, no TF32. The only source of verdicts.

    Raises:
        InputError: see `run`; or logits that are not finite.
    """
    with _without_tf32(clip.device), torch.autocast(clip.device.type, enabled=False):
        logits = run(model, clip)
    finite = logits.isfinite().all(1)
    if not finite.all():
        bad = [clip.ids[i] for i in (~finite).nonzero().flatten().tolist()]
        raise InputError(f"The model returned NaN or infinite logits for clip {', '.join(bad[:3])}.")
    return logits


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whatever device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
