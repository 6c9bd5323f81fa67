"""``robustvideo corruption``: what masked time steps do to audio-visual models (AV figures 1 and 3)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from robustvideo.attacks.attack import Attack
    from robustvideo.evaluation.corruption import AlignedTransfer

_ATTACKS = ("fgsm", "ifgsm", "mifgsm", "nifgsm")


def corruption(
    model: Annotated[list[str], typer.Option(help="Audio-visual model spec; repeat. The first is the surrogate.")],
    data: Annotated[str, typer.Option(help="Data spec with sound, e.g. embedded:kinetic?split=test&audio=true.")],
    out: Annotated[Path, typer.Option(help="Folder for corruption.html and corruption.json.")] = Path(
        "runs/corruption"
    ),
    clips: Annotated[int, typer.Option(min=1, help="How many clips, from the first.")] = 128,
    seeds: Annotated[int, typer.Option(min=1, help="Random masks per clip and ratio.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Of the attacks.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per batch.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Mask time steps of picture, sound or both, and write a page about accuracy; with several models, about transfer.

    Accuracy of every model against the share of masked steps (figure 1 of Zhang et al. 2025). With two models or more:
    how well the first one's features of picture and sound agree on adversarial clips, and how often the others are
    wrong on them (figure 3). Figure 2 is `robustvideo reproduce audio_visual/figure2`. All numbers are in
    `corruption.json`. It leaves nothing behind before it is done: an interrupted one starts over.

    **Examples**

    `robustvideo corruption --model trained:runs/av/model.safetensors --data 'embedded:kinetic?split=test&audio=true'`

    `robustvideo corruption --model trained:a.safetensors --model trained:b.safetensors
    --data 'manifest:clips.csv?audio=true'`
    """
    import json
    from dataclasses import asdict

    from robustvideo.cli.device import resolve
    from robustvideo.data import load_data
    from robustvideo.data.dataset import usable_batches
    from robustvideo.errors import InputError
    from robustvideo.evaluation.corruption import MODES, RATIOS, alignment_study, masking_study, rank_correlation
    from robustvideo.evaluation.suite import make_suite
    from robustvideo.models import load_model
    from robustvideo.progress import track
    from robustvideo.report.corruption import build_corruption_page
    from robustvideo.storage import check_writable, write_text

    check_writable(out / "corruption.json")
    place = resolve(device)
    models = {spec: load_model(spec, device=place) for spec in model}
    surrogate, *others = models
    if len({network.labels for network in models.values()} - {None}) > 1:
        raise InputError("The models must have the same classes in the same order.")
    source = load_data(data, labels=models[surrogate].labels)
    wanted = source.subset(range(min(clips, len(source))))
    unusable: dict[str, str] = {}
    batches = list(usable_batches(wanted, batch_size, place, unusable))
    if unusable:
        print(f"{len(unusable)} of {len(wanted)} clips could not be read: {next(iter(unusable.values()))}")
    if batches[0][0].audio is None:
        raise InputError(f"{data} has no sound: add audio=true, or audio_rate=.")
    count = sum(len(clip) for clip, _ in batches)
    masking = {}
    with track("masked time steps", len(models) * len(MODES) * len(RATIOS) * seeds * count) as advance:
        for spec, network in models.items():
            masking[spec] = masking_study(network, batches, seeds=range(seeds), advance=advance)
    for spec, points in masking.items():
        print(f"{spec}: accuracy by share of masked time steps")
        for mode in MODES:
            own = {point.share: point.accuracy.estimate for point in points if point.mode == mode}
            print(f"  {mode:13}" + "  ".join(f"{100 * share:.3g}%: {right:.1%}" for share, right in own.items()))
    named: dict[str, Attack] = {}
    aligned: list[AlignedTransfer] = []
    if others:
        options = "threat=audio_visual()"
        specs = [f"{name}({options}{'' if name == 'fgsm' else f', steps={steps}'})" for name in _ATTACKS]
        attacks = make_suite({"models": [surrogate], "data": data, "attacks": specs}, "corruption").build_attacks()
        named = dict(zip(_ATTACKS, attacks, strict=True))
        targets = {spec: models[spec] for spec in others}
        with track("adversarial clips", len(named) * count) as advance:
            aligned = alignment_study(models[surrogate], targets, named, batches, advance)
        for point in aligned:
            rate = point.success
            print(
                f"{point.attack}: alignment {point.alignment.estimate:+.2f}, others wrong on {rate.estimate:.1%} "
                f"[{rate.low:.0%}, {rate.high:.0%}]"
            )
    order = rank_correlation(aligned)
    found = {
        "data": data,
        "clips": count,
        **{f"accuracy of {spec}": [asdict(point) for point in points] for spec, points in masking.items()},
        **({"alignment and transfer": [asdict(point) for point in aligned]} if aligned else {}),
        **({"rank correlation": asdict(order)} if order else {}),
    }
    write_text(out / "corruption.json", json.dumps(found, indent=2) + "\n")
    page = build_corruption_page(
        masking,
        aligned,
        out / "corruption.html",
        data=data,
        clips=count,
        seeds=seeds,
        attacks=[attack.spec for attack in named.values()],
        command=shlex.join(["robustvideo", *sys.argv[1:]]),
    )
    print(page)
