"""``robustvideo routing``: which experts a mixture chooses, before and after attacks."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from robustvideo.data import VideoDataset
    from robustvideo.evaluation.routing import Measured

_ATTACKS = ["pgd_r", "tlga_r", "pgd", "tla_m", "j_tlga"]


def routing(
    models: Annotated[list[str], typer.Argument(help="Specs of mixtures of experts; several are set side by side.")],
    data: Annotated[str, typer.Option(help="Data spec.")] = "embedded:kinetic?split=test&clips=64",
    attack: Annotated[
        list[str] | None,
        typer.Option(help=f"Attack spec; repeat for several. Default: {', '.join(_ATTACKS)}."),
    ] = None,
    eps: Annotated[str, typer.Option(help="Budget for attacks that name none.")] = "8/255",
    out: Annotated[Path, typer.Option(help="Directory of routing.html and routing.json.")] = Path("runs/routing"),
    show: Annotated[int, typer.Option(min=0, help="Clips shown one by one, spread evenly over the data.")] = 12,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per batch.")] = 16,
    seed: Annotated[int, typer.Option(help="Seeds every random draw.")] = 0,
    precision: Annotated[str, typer.Option(help="Gradient passes in fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Measure what attacks do to the routing of a mixture of experts, and write one page.

    It shows the share of clips that each expert gets, how many routes changed, the local Lipschitz ratios of router
    and whole model (Lips-R, Lips-J), how consistent their outputs stay (IoU), and for some clips who was chosen
    before and after, how sure the router was, and the step sizes frame by frame. All numbers are in `routing.json`,
    clip by clip.

    It takes minutes (one pass over the clips per attack and step) and leaves nothing behind before it is done: an
    interrupted one starts over.

    **Examples**

    `robustvideo routing trained:runs/moe/model.safetensors --out runs/moe-routing`

    `robustvideo routing trained:at_m.safetensors trained:j_tlat.safetensors --data 'embedded:kinetic?split=test'
    --eps 4/255`

    `robustvideo routing trained:moe.safetensors --attack tlga_r --attack 'j_tlga(routing=soft)' --show 24`
    """
    from robustvideo.cli.device import resolve
    from robustvideo.data import load_data
    from robustvideo.data.dataset import usable_batches
    from robustvideo.evaluation.routing import CLEAN, measure_routing
    from robustvideo.evaluation.suite import make_suite
    from robustvideo.models import load_model
    from robustvideo.progress import track
    from robustvideo.report.routing import build_routing_page
    from robustvideo.spec import parse_value
    from robustvideo.storage import check_writable

    check_writable(out / "routing.json")
    suite = make_suite(
        {
            "models": models,
            "data": data,
            "attacks": attack or _ATTACKS,
            "eps": [parse_value(eps)],
            "batch_size": batch_size,
            "seed": seed,
            "precision": precision,
        },
        "The command line",
    )
    attacks, place = suite.build_attacks(), resolve(device)
    measured: list[Measured] = []
    pictures: dict[str, bytes] = {}
    labels: tuple[str, ...] = ()
    unusable: dict[str, str] = {}
    for spec in models:
        model = load_model(spec, device=place)
        clips = load_data(data, labels=model.labels)
        labels = model.labels or clips.labels
        pictures = pictures or _pictures(clips, show)
        batches = usable_batches(clips, batch_size, place, unusable)
        with track(f"routing of {spec}", len(clips) * len(attacks)) as advance:
            measured.append(measure_routing(model, batches, attacks, spec, advance))
        for row in measured[-1].summaries:
            shares = ", ".join(f"{share:.0%}" for share in row.shares)
            ratios = f"Lipschitz ratio of router {row.lips_router.mean:.4g}, of the whole {row.lips_whole.mean:.4g}"
            moved = "" if row.attack == CLEAN else f"; {row.changed:.0%} rerouted; {ratios} (means)"
            print(f"{row.attack}: {row.correct} of {row.clips} right; experts get {shares}{moved}")
    command = shlex.join(["robustvideo", *sys.argv[1:]])
    _write_numbers(out / "routing.json", measured, data, command)
    page = build_routing_page(
        measured,
        out / "routing.html",
        data=data,
        labels=labels,
        pictures=pictures,
        unusable=len(unusable),
        command=command,
    )
    print(page)


def _pictures(data: VideoDataset, count: int) -> dict[str, bytes]:
    """JPEGs of the middle frames of some clips, spread evenly."""
    from robustvideo.data import UnusableClip
    from robustvideo.model import uniform_indices
    from robustvideo.report.picture import jpeg

    found = {}
    for index in uniform_indices(len(data), min(count, len(data))).tolist() if count and len(data) else []:
        try:
            clip = data.clip(index)
        except UnusableClip:
            continue
        found[data.samples[index].id] = jpeg(clip.video[0, :, clip.frames // 2].expand(3, -1, -1))
    return found


def _write_numbers(path: Path, measured: list[Measured], data: str, command: str) -> None:
    import json
    from dataclasses import asdict

    from robustvideo.evaluation.run import environment, now
    from robustvideo.storage import write_text

    content = {
        "schema_version": 1,
        "created": now(),
        "command": command,
        "environment": environment(),
        "data": data,
        "models": [asdict(one) for one in measured],
    }
    write_text(path, json.dumps(content, indent=1) + "\n")
