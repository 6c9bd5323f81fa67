"""Input transforms of audio-visual clips: scaling, masking, blurring and mix-up, in step or out of step (AV 4.1).

The paper names the four and gives no parameters; all numbers are our decisions. All are differentiable and are applied
to the perturbed clip; values are not clipped to the box again.

Time steps are those of the model (`robustvideo.model.frames_per_step`): where it takes two frames for one, a single
black frame would be a motion that no clip has. Step t of T is as many frames, and window t of ``samples // T`` samples;
the last step also has what remains. Every draw is one row's own (see `averaged.Copies`), so that no clip depends on its
batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvideo.attacks.averaged import Copies
from robustvideo.clip import Clip, Modality, per_clip
from robustvideo.errors import InputError, unknown
from robustvideo.model import frames_per_step
from robustvideo.randomness import ClipRandom

Family = Literal["scale", "mask", "blur", "mix"]
Where = Literal["both", "video", "audio"]

SCALES = (0.5, 1.0)
"""Range of the factor; smaller ones, as in images, are too quiet for sound."""
BLUR_PIXELS, BLUR_SAMPLES = (0.1, 1.5), (0.5, 4.0)
"""Standard deviations of the Gaussian: in pixels over 5 x 5 of them, and in samples over 31."""
MIX = 0.2
"""Share of the clip, rolled in time, that mix-up adds to it: another clip would couple the two."""

_TAPS_PIXELS, _TAPS_SAMPLES = 5, 31


@dataclass(frozen=True)
class InputTransform:
    """Copy 0 of a clip is the clip itself; every other one goes through one of the families, drawn uniformly.

    Attributes:
        families: what to draw from.
        mask_ratio: p, the share of the time steps that masking empties: ``max(1, round(p T))`` of them, none for 0.
        where: the modalities that are changed.
        synchronous: both modalities share their draws: the same steps masked, the same factor, the same offset.
        compose: apply all families to every copy, masking last, so that masked steps are truly empty.

    Raises:
        InputError: no or an unknown family, a ratio outside [0, 1), or an unknown modality.
    """

    families: tuple[Family, ...] = get_args(Family)
    mask_ratio: float = 0.2
    where: Where = "both"
    synchronous: bool = True
    compose: bool = False

    def __post_init__(self) -> None:
        if not self.families:
            raise InputError("Copies need a transform: scale, mask, blur or mix.")
        for name in self.families:
            if name not in get_args(Family):
                raise unknown("input transform", name, get_args(Family))
        if self.where not in get_args(Where):
            raise unknown("modality", self.where, get_args(Where))
        if not 0 <= self.mask_ratio < 1:
            raise InputError(f"The share of masked steps is in [0, 1), got mask_ratio={self.mask_ratio:g}.")

    def __call__(self, clip: Clip, copies: Copies) -> Clip:
        """The changed rows; see `averaged.Transform`."""
        changed = torch.tensor([n > 0 for n in copies.numbers])
        family = copies.random("family").integers(0, len(self.families))[:, 0].cpu()
        steps = max(1, clip.frames // frames_per_step(copies.problem.gradient_model))
        with torch.autocast(clip.device.type, enabled=False):  # blurring in half precision would be a noise of its own
            for modality in ("video", "audio"):
                if self.where not in ("both", modality) or (modality == "audio" and clip.audio is None):
                    continue
                # out of step, each modality draws for itself; the family of a copy is the same for both
                random = copies.random("draws") if self.synchronous else copies.random("draws", modality)
                draws = Draws.of(random, len(clip), steps, clip.video)
                signal = clip.signal(modality)
                for number, name in sorted(enumerate(self.families), key=lambda item: _ORDER.index(item[1])):
                    rows = changed if self.compose else changed & (family == number)
                    signal = _on(rows, signal, draws, self._named(name, modality))
                clip = clip.with_signal(modality, signal)
        return clip

    def _named(self, name: Family, modality: Modality) -> Callable[[Tensor, Draws], Tensor]:
        if name == "scale":
            return lambda signal, draws: signal * per_clip(_between(SCALES, draws.scale), signal)
        if name == "blur":
            return blur_frames if modality == "video" else blur_sound
        if name == "mix":
            return lambda signal, draws: signal + MIX * rolled(signal, draws.offset, draws.steps)
        return lambda signal, draws: masked(signal, masks(draws.order, self.mask_ratio))


_ORDER = ("scale", "blur", "mix", "mask")


@dataclass(frozen=True, eq=False)
class Draws:
    """What is drawn for the rows of one modality.

    Attributes:
        scale, blur: (N,) uniform on [0, 1).
        offset: (N,) steps to roll by, 1 to T - 1.
        order: (N, T) random permutations of the time steps, as uniform numbers to sort by.
        steps: T.
    """

    scale: Tensor
    blur: Tensor
    offset: Tensor
    order: Tensor
    steps: int

    @classmethod
    def of(cls, random: ClipRandom, rows: int, steps: int, like: Tensor) -> Draws:
        """Draws in the type and on the device of ``like``."""
        scale, blur, offset = random.uniform(like.new_empty(rows, 3)).unbind(1)
        shift = 1 + (offset * (steps - 1)).long() if steps > 1 else torch.zeros_like(offset, dtype=torch.long)
        return cls(scale, blur, shift, random.uniform(like.new_empty(rows, steps)), steps)

    def select(self, index: Tensor) -> Draws:
        """The draws of some rows."""
        return Draws(self.scale[index], self.blur[index], self.offset[index], self.order[index], self.steps)


def masks(order: Tensor, ratio: float) -> Tensor:
    """(N, T) factors: 0 at the ``max(1, round(ratio T))`` steps that come first in ``order`` (none at ratio 0).

    The steps of a smaller ratio are among those of a larger one.
    """
    steps = order.shape[1]
    count = 0 if ratio == 0 else min(steps, max(1, round(ratio * steps)))
    return (order.argsort(1).argsort(1) >= count).to(order.dtype)


def masked(signal: Tensor, keep: Tensor) -> Tensor:
    """A video or waveform with its time steps multiplied by ``keep`` (N, T); masked ones are black, or silent."""
    factors = keep.gather(1, step_of(signal, keep.shape[1]))
    return signal * factors.view(len(factors), 1, -1, *([1] * (signal.ndim - 3)))


def step_of(signal: Tensor, steps: int) -> Tensor:
    """(N, frames or samples): the time step of each; the last step also has what remains."""
    width = max(1, signal.shape[2] // steps)
    number = (torch.arange(signal.shape[2], device=signal.device) // width).clamp(max=steps - 1)
    return number.expand(len(signal), -1)


def rolled(signal: Tensor, offset: Tensor, steps: int) -> Tensor:
    """A video or waveform rolled in time, each row by ``offset`` whole steps (N,) of ``steps``."""
    length = signal.shape[2]
    shift = offset * max(1, length // steps)
    index = (torch.arange(length, device=signal.device) - shift[:, None]) % length
    shape = (len(signal), 1, length, *([1] * (signal.ndim - 3)))
    return signal.gather(2, index.view(shape).expand_as(signal))


def blur_frames(video: Tensor, draws: Draws) -> Tensor:
    """Every frame under a Gaussian of 5 x 5 pixels, edges reflected; one width per row."""
    rows, channels, frames, height, width = video.shape
    if min(height, width) <= _TAPS_PIXELS // 2:
        return video  # too small to be reflected, and to be blurred
    kernels = _gaussian(_between(BLUR_PIXELS, draws.blur), _TAPS_PIXELS)
    across = _convolve(video.reshape(1, rows, channels * frames * height, width), kernels)
    turned = across.view(rows, channels * frames, height, width).transpose(2, 3)
    down = _convolve(turned.reshape(1, rows, channels * frames * width, height), kernels)
    return down.view(rows, channels, frames, width, height).transpose(3, 4)


def blur_sound(sound: Tensor, draws: Draws) -> Tensor:
    """A waveform under a Gaussian low-pass of 31 taps, ends reflected; one width per row."""
    if sound.shape[2] <= _TAPS_SAMPLES // 2:
        return sound
    kernels = _gaussian(_between(BLUR_SAMPLES, draws.blur), _TAPS_SAMPLES)
    return _convolve(sound[None], kernels)[0]


def _convolve(planes: Tensor, kernels: Tensor) -> Tensor:
    """(1, N, lines, length) along its last axis, ends reflected; row n with kernel n of (N, taps)."""
    reach = kernels.shape[1] // 2
    padded = F.pad(planes, (reach, reach, 0, 0), mode="reflect")
    return F.conv2d(padded, kernels[:, None, None, :], groups=len(kernels))


def _gaussian(sigma: Tensor, taps: int) -> Tensor:
    """(N, taps) weights that sum to 1."""
    place = torch.arange(taps, dtype=sigma.dtype, device=sigma.device) - taps // 2
    return (-0.5 * (place / sigma[:, None]).square()).softmax(1)


def _between(bounds: tuple[float, float], share: Tensor) -> Tensor:
    low, high = bounds
    return low + (high - low) * share


def _on(rows: Tensor, signal: Tensor, draws: Draws, change: Callable[[Tensor, Draws], Tensor]) -> Tensor:
    """Change some rows of a signal; the others stay as they are, bit for bit. The flags are on the CPU: no waiting."""
    index = rows.nonzero()[:, 0].to(signal.device)
    if len(index) == 0:
        return signal
    if len(index) == len(signal):
        return change(signal, draws)
    return signal.index_copy(0, index, change(signal[index], draws.select(index)))
