"""``robustvideo sweep``: the best step size and number of steps of PGD for a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def sweep(
    model: Annotated[str, typer.Option(help="Model spec.")],
    data: Annotated[str, typer.Option(help="Data spec; all its clips are used, so keep it small.")],
    eps: Annotated[list[str] | None, typer.Option(help="Budget, e.g. 8/255; repeat.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="The largest number of steps.")] = 20,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/sweep"),
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per batch.")] = 16,
    seed: Annotated[int, typer.Option(help="Seeds the random starts.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Measure PGD's loss for every step size and number of steps, and fit the law of the best step size.

    Writes sweep.json and a page with the loss surfaces. The same command continues an interrupted sweep.

    **Examples**

    `robustvideo sweep --model embedded:r3d_at --data 'embedded:kinetic?split=val&clips=32'`

    `robustvideo sweep --model file:my_model.py:build --data 'manifest:clips.csv?split=val' --eps 4/255 --eps 8/255`
    """
    from robustvideo.cli.device import resolve
    from robustvideo.data import load_data
    from robustvideo.evaluation.sweep import fit_law
    from robustvideo.evaluation.sweep import sweep as run
    from robustvideo.models import load_model
    from robustvideo.report.sweep import build_sweep_page
    from robustvideo.spec import format_value

    budgets = [_budget(text) for text in eps or ("2/255", "4/255", "8/255", "12/255")]
    network = load_model(model, device=resolve(device))
    clips = load_data(data, labels=network.labels)
    surfaces = run(network, clips, eps=budgets, steps=steps, out=out, batch_size=batch_size, seed=seed)
    if surfaces[0].clips < len(clips):
        print(f"{len(clips) - surfaces[0].clips} of {len(clips)} clips could not be read.")
    for surface in surfaces:
        best = surface.best_step_size(steps)
        print(
            f"eps {format_value(surface.eps)}: best step size {best * 255:.2f}/255 after {steps} steps; "
            f"{surface.enough_steps()} steps reach 99 % of the gain"
        )
    law = fit_law(surfaces, steps) if len(surfaces) > 1 else None
    if law is not None:
        print(f"step size = {law.slope:.3f} eps + {law.intercept * 255:.2f}/255, R^2 = {law.r_squared:.3f}")
    print(build_sweep_page(surfaces, law, out / "sweep.html"))


def _budget(text: str) -> float:
    from robustvideo.errors import InputError
    from robustvideo.spec import parse_value

    value = parse_value(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"--eps {text} is no budget: give a positive number or a fraction, such as 8/255.")
    return float(value)
