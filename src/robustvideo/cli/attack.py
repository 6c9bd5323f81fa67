"""``robustvideo attack``: one video in, one adversarial video out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from robustvideo.model import Model


def attack(
    video: Annotated[Path, typer.Argument(help="The video to attack.")],
    model: Annotated[str, typer.Option(help="Model spec.")],
    out: Annotated[Path, typer.Option(help="The adversarial video: lossless FFV1 in .mkv.")],
    attack: Annotated[str, typer.Option(help="Attack spec.")] = "pgd(eps=8/255, steps=20)",
    defense: Annotated[
        str | None,
        typer.Option(help="Purifier spec in front of the model, or none; its gradient= says what the attack knows."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="True class, by name or number. Default: what the model says.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Crop and resize to this side first. Default: as stored.")
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Read the video in windows of so many frames.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Frames from one window to the next.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Attack every frame of one video, and its sound where the model hears, and write the result losslessly.

    With `--window`, the model is the average over windows of the video, whatever its length; memory then grows
    only with the pixels themselves. The file that is written holds exactly the clip that was verified, and where the
    model does not hear, the video's own sound beside it.

    **Examples**

    `robustvideo attack in.mp4 --model 'torchvision:r3d_18?weights=KINETICS400_V1' --window 16 --out adversarial.mkv`

    `robustvideo attack in.mp4 --model file:my_model.py:build --attack 'pgd(eps=4/255, steps=50)' --label Biking
    --out adversarial.mkv`

    `robustvideo attack in.mp4 --model embedded:r3d --size 48 --defense 'videopure()' --attack 'diffattack(eps=8/255)'
    --out adversarial.mkv`
    """
    from dataclasses import replace

    import torch

    from robustvideo.attacks import load_attack
    from robustvideo.attacks.attack import judge
    from robustvideo.cli.device import resolve
    from robustvideo.cli.film import check_out, counted, read_film
    from robustvideo.cli.untrained import warn_of_untrained
    from robustvideo.data import write_lossless
    from robustvideo.model import at_rest
    from robustvideo.models import load_model
    from robustvideo.models.windowed import Windowed
    from robustvideo.purification import Defended, load_defense

    check_out(out, video)
    attacker = load_attack(attack)
    warn_of_untrained(model)
    network = load_model(model, device=resolve(device))
    if defense is not None and defense.strip() != "none":
        network = Defended(network, load_defense(defense))
    if window is not None or stride is not None:
        network = Windowed(network, window, stride)
    read, fps = read_film(video, size)
    deaf = network.sample_rate is None
    clip = (replace(read, audio=None, sample_rate=None) if deaf else read).to(resolve(device))
    zero = torch.zeros(1, dtype=torch.long, device=clip.device)
    with at_rest(network):
        before = judge(network, clip, zero).logits[0]
    true = torch.tensor([_class(label, network, before)], device=clip.device)
    height, width = clip.video.shape[3:]
    shown = f"{counted(clip.frames)} of {width} x {height} pixels with {attacker.spec} on {clip.device}"
    print(f"Attacking {shown}.", file=sys.stderr, flush=True)
    result = attacker(network, clip, true)
    written = result.clip.to("cpu")
    if deaf and read.audio is not None:
        print("The model does not hear: the sound is copied, not attacked.", file=sys.stderr)
        written = replace(written, audio=read.audio, sample_rate=read.sample_rate)
    write_lossless(out, written, fps=fps)
    name = attacker.spec
    print(f"before  {_said(before, network)}")
    print(f"after   {_said(result.logits[0], network)}")
    found = "fooled by" if bool(result.success[0]) else "not fooled by"
    if not attacker.targeted and int(before.argmax()) != int(true):
        found = "was already wrong before"
    passes = f"{int(result.forward_passes[0])} forward and {int(result.backward_passes[0])} backward passes"
    print(f"{found} {name} on {counted(clip.frames)}, {passes}\n{out}")


def _class(label: str | None, model: Model, logits: Tensor) -> int:
    from robustvideo.errors import InputError, unknown

    if label is None:
        return int(logits.argmax())
    if model.labels and label in model.labels:
        return model.labels.index(label)
    if label.isdecimal() and int(label) < len(logits):
        return int(label)
    if model.labels:
        raise unknown("class", label, model.labels)
    raise InputError(f"{label!r} is no class of this model: give a number from 0 to {len(logits) - 1}.")


def _said(logits: Tensor, model: Model) -> str:
    best = int(logits.argmax())
    name = model.labels[best] if model.labels else f"class {best}"
    return f"{name} ({float(logits.double().softmax(0)[best]):.1%})"
