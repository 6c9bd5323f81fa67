"""What methods cost and what they look like: every attack and defence is run once, on one embedded clip."""

from __future__ import annotations

import io
import tempfile
import time
import warnings
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from showcase import GENERATOR, Example
from torch import Tensor

import robustvideo as rv
from robustvideo.attacks.attack import Attack
from robustvideo.clip import Clip
from robustvideo.data.dataset import VideoDataset
from robustvideo.model import Model
from robustvideo.models.generator import Generator
from robustvideo.registry import parameters

CLIP = 22
"""Number of the clip in the test split; `embedded:r3d` knows it, by a margin of 1 logit: attacks on it are short."""

STEPS, QUERIES = 10, 50
"""What costs are compared at."""

_SCALE, _GAP = 3, 6  # of a picture: pixels per pixel, and between panels


@dataclass(frozen=True)
class Demonstration:
    """What a page shows.

    Attributes:
        cost: for the index; empty where nothing was measured.
        text: Markdown, in which ``{picture}`` stands for the picture's address.
        picture: a PNG file; empty for none.
    """

    cost: str = ""
    text: str = ""
    picture: bytes = b""


NOTHING = Demonstration()


@cache
def untrained() -> str:
    """A file of an untrained generator: good for what it costs."""
    file = Path(tempfile.mkdtemp(prefix="robustvideo-docs-")) / "generator.safetensors"
    save_file({f"generator.{key}": tensor for key, tensor in Generator().state_dict().items()}, file)
    return str(file)


def runnable(spec: str) -> str:
    """A spec with a file that exists."""
    return spec.replace(GENERATOR, untrained())


@cache
def scene(model: str, data: str, defense: str | None) -> tuple[Model, VideoDataset, Clip, Tensor]:
    """A model, the data and a clip; of a model without weights the label is its own answer, for there is no other."""
    clips = rv.load_data(data.replace("clips=8", f"clips={CLIP + 1}"))
    clip, label = clips[CLIP]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = rv.load_model(model)
    if defense is not None:
        network = rv.Defended(network, rv.load_defense(defense))
    known = model.startswith("embedded:")
    return network, clips, clip, torch.tensor([label]) if known else answer(network, clip)


def answer(model: Model, clip: Clip) -> Tensor:
    """(1,) the class."""
    with torch.no_grad():
        return model.eval()(clip).argmax(1)


def of_attack(cls: type[Attack], spec: str, example: Example) -> Demonstration:
    """An attack with its defaults, until the clip is fooled; and the price of 10 steps or 100 queries."""
    model, data, clip, labels = scene(example.model, example.data, example.defense)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="APGD adapts its step badly")  # the count is what matters here
        full = _limited(cls)
        price = full(model, clip, labels)
    cost = f"{int(price.forward_passes)} + {int(price.backward_passes)}"
    lines = [
        "## Cost",
        f"`{full.spec}` takes **{cost} passes** (forward + backward) of a clip, its verdict included: measured on "
        f"`{example.model}`{' behind ' + example.defense if example.defense else ''} while this page was built.",
    ]
    if not example.trained:
        return Demonstration(cost, "\n\n".join(lines))
    attack = cls()
    result = attack(model, clip, labels)
    spent = f"{int(result.forward_passes)} + {int(result.backward_passes)} passes"
    names = data.labels
    if bool(result.success):
        became = names[int(result.logits.argmax(1))]
        step = int(result.first_success_step)
        outcome = f"The clip *{names[int(labels)]}* became *{became}*, at step {step}, after {spent}."
    else:
        outcome = f"The clip *{names[int(labels)]}* stood, after {spent}."
    change = result.clip.video - clip.video
    frame = int(change.square().mean((0, 1, 3, 4)).argmax())
    factor = max(1, int(0.5 / max(float(change.abs().max()), 1 / 255)))
    panels = [clip.video[0, :, frame], 0.5 + factor * change[0, :, frame], result.clip.video[0, :, frame]]
    caption = f"Frame {frame}: clean, change (times {factor}, on grey), adversarial."
    outcome = f"{outcome} (`{spec}`, one clip of `embedded:kinetic`: an example, no measurement.)"
    lines += ["## What it looks like", outcome]
    return Demonstration(cost, "\n\n".join([*lines, _figure(caption)]), strip(panels))


def _limited(cls: type[Attack]) -> Attack:
    """The attack that takes all of its steps, 10 or 100 queries at most."""
    known = {f.name: f.default for f in fields(cls)}
    limits: dict[str, Any] = {"steps": STEPS, "queries": QUERIES}
    given = {key: most for key, most in limits.items() if key in parameters(cls) and known[key] > most}
    return cls(early_stop=False, **given)


def of_defense(spec: str, example: Example) -> Demonstration:
    """A purifier on the clean clip and on an attacked one, and its time beside the network's."""
    purifier = rv.load_defense(runnable(spec))
    model, data, clip, labels = scene("embedded:r3d", "embedded:kinetic?split=test&clips=8", None)
    network = purifier.network()
    own = purifier.seeds(clip)
    with torch.no_grad():
        ratio = _seconds(lambda: purifier.purify(clip, own, network)) / _seconds(lambda: model(clip))
    cost = f"{ratio:.1g}" if ratio < 10 else f"{ratio:.0f}"
    modes = ["none", "bpda", *(["exact"] if purifier.differentiable else [])]
    if purifier.stand_in() is not None:
        modes.append("surrogate")
    lines = [
        "## Cost",
        f"Purifying a clip takes about **{cost}** times as long as a forward pass of `embedded:r3d` (one core, while "
        f"this page was built). Gradient modes: {', '.join(modes)}; its own is `{purifier.gradient or 'none'}`. "
        f"{'It draws random numbers.' if purifier.random else 'It draws no random numbers.'}",
    ]
    if not example.trained:
        return Demonstration(cost, "\n\n".join(lines))
    attacked = rv.attacks.PGD(eps=8 / 255)(model, clip, labels).clip
    with torch.no_grad():
        purified = [purifier.purify(c, own, network)[0] for c in (clip, attacked)]
    said = [data.labels[int(answer(model, c))] for c in (clip, attacked, *purified)]
    lines += [
        "## What it looks like",
        f"The clip is *{said[0]}*. PGD on the network alone makes it *{said[1]}*; purified it is *{said[3]}*, and the "
        f"purified clean clip is *{said[2]}*. That attack does not know of the defence: this is an example, no "
        "measurement.",
        _figure("A frame: clean, adversarial, the adversarial one purified."),
    ]
    middle = clip.frames // 2
    panels = [c.video[0, :, middle] for c in (clip, attacked, purified[1])]
    return Demonstration(cost, "\n\n".join(lines), strip(panels))


def _seconds(work: Any) -> float:
    """CPU time; the shortest of three where it is short."""
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < 1:
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def _figure(caption: str) -> str:
    return f"![{caption}]({{picture}})\n\n*{caption}*"


def strip(panels: list[Tensor]) -> bytes:
    """Frames (C, H, W) side by side as a PNG."""
    height, width = panels[0].shape[1:]
    whole = np.full((height * _SCALE, (width * _SCALE + _GAP) * len(panels) - _GAP, 3), 255, dtype=np.uint8)
    for number, panel in enumerate(panels):
        pixels = (panel.clamp(0, 1) * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()
        start = number * (width * _SCALE + _GAP)
        whole[:, start : start + width * _SCALE] = pixels.repeat(_SCALE, 0).repeat(_SCALE, 1)
    file = io.BytesIO()
    Image.fromarray(whole).save(file, "PNG", optimize=True)
    return file.getvalue()
