"""``robustvideo corruption``: what masked time steps do to audio-visual models (AV figures 1 and 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_ATTACKS = ("fgsm", "ifgsm", "mifgsm", "nifgsm")


def corruption(
    model: Annotated[list[str], typer.Option(help="Audio-visual model spec; repeat. The first is the surrogate.")],
    data: Annotated[str, typer.Option(help="Data spec with sound, e.g. embedded:kinetic?split=test&audio=true.")],
    out: Annotated[Path, typer.Option(help="Folder for corruption.json.")] = Path("runs/corruption"),
    clips: Annotated[int, typer.Option(min=1, help="How many clips, from the first.")] = 128,
    seeds: Annotated[int, typer.Option(min=1, help="Random masks per clip and ratio.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Of the attacks.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per batch.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Mask time steps of picture, sound or both, and measure accuracy; with several models, alignment and transfer.

    Accuracy of every model against the share of masked steps (figure 1 of Zhang et al. 2025). With two models or more:
    how well the first one's features of picture and sound agree on adversarial clips, and how often the others are
    wrong on them (figure 3). Figure 2 is `robustvideo reproduce audio_visual/figure2`.

    **Example**

    `robustvideo corruption --model trained:runs/av/model.safetensors --data 'embedded:kinetic?split=test&audio=true'`
    """
    import json
    from dataclasses import asdict

    from robustvideo.cli.device import resolve
    from robustvideo.data import load_data
    from robustvideo.data.dataset import collate
    from robustvideo.errors import InputError
    from robustvideo.evaluation.corruption import alignment_study, masking_study
    from robustvideo.evaluation.suite import make_suite
    from robustvideo.models import load_model
    from robustvideo.storage import write_text

    place = resolve(device)
    models = {spec: load_model(spec, device=place) for spec in model}
    surrogate, *others = models
    source = load_data(data, labels=models[surrogate].labels)
    batches = []
    for start in range(0, min(clips, len(source)), batch_size):
        clip, labels = collate([source[i] for i in range(start, min(start + batch_size, clips, len(source)))])
        batches.append((clip.to(place), labels.to(place)))
    if batches[0][0].audio is None:
        raise InputError(f"{data} has no sound: add audio=true, or audio_rate=.")
    found: dict[str, object] = {"data": data, "clips": sum(len(clip) for clip, _ in batches)}
    for spec, network in models.items():
        points = masking_study(network, batches, seeds=range(seeds))
        found[f"accuracy of {spec}"] = [asdict(point) for point in points]
        print(f"{spec}: accuracy by share of masked time steps")
        for mode in dict.fromkeys(point.mode for point in points):
            own = (f"{p.ratio:.0%}: {p.accuracy.estimate:.1%}" for p in points if p.mode == mode)
            print(f"  {mode:13}" + "  ".join(own))
    if others:
        options = "threat=audio_visual()"
        specs = [f"{name}({options}{'' if name == 'fgsm' else f', steps={steps}'})" for name in _ATTACKS]
        attacks = make_suite({"models": [surrogate], "data": data, "attacks": specs}, "corruption").build_attacks()
        named = dict(zip(_ATTACKS, attacks, strict=True))
        aligned = alignment_study(models[surrogate], {spec: models[spec] for spec in others}, named, batches)
        found["alignment and transfer"] = [asdict(point) for point in aligned]
        for point in aligned:
            rate = point.success
            print(
                f"{point.attack}: alignment {point.alignment:+.2f}, others wrong on {rate.estimate:.1%} "
                f"[{rate.low:.0%}, {rate.high:.0%}]"
            )
    write_text(out / "corruption.json", json.dumps(found, indent=2) + "\n")
    print(out / "corruption.json")
