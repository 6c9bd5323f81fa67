"""The page of a step-size sweep: loss surfaces in three dimensions and as contours, and the fitted law."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from robustvideo.report.wording import percent
from robustvideo.spec import format_value
from robustvideo.storage import write_text

if TYPE_CHECKING:
    from robustvideo.evaluation.sweep import Law, Surface

_STYLE = """
:root { color-scheme: light dark; --ink: #16181d; --paper: #fff; --dim: #5b616e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --paper: #15171b; --dim: #9aa1ad; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1080px; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.9rem; line-height: 1.25; } h2 { margin-top: 3rem; } p { color: var(--dim); max-width: 65ch; }
/* the number of columns is fixed: a plot takes the width that it finds before its neighbour is there */
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; }
@media (max-width: 720px) { .pair { grid-template-columns: minmax(0, 1fr); } }
.pair > div { background: #fff; border-radius: 6px; min-width: 0; overflow: hidden; }
"""


def build_sweep_page(surfaces: Sequence[Surface], law: Law | None, out: Path) -> Path:
    """Write one self-contained page.

    Args:
        surfaces: one per budget.
        law: the fitted step-size law, when there are at least two budgets.
        out: the file.
    """
    from plotly.offline import get_plotlyjs

    sections = [_section(surface) for surface in surfaces]
    head = "How large a step should PGD take?"
    if law is not None:
        head = f"Best step size: {law.slope:.2f} eps {law.intercept * 255:+.2f}/255"
        sections.insert(0, _law(law))
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Step-size sweep</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script>"
        f"<h1>{escape(head)}</h1><p>Mean cross-entropy of {surfaces[0].clips} clips after PGD from a random start, "
        f"for every step size and number of steps. Higher is a stronger attack.</p>{''.join(sections)}</html>"
    )
    write_text(out, page)
    return out


def _section(surface: Surface) -> str:
    import plotly.graph_objects as go

    levels = [255 * size for size in surface.step_sizes]
    steps = list(range(len(surface.loss[0])))
    axes = {"x": "steps", "y": "step size, in 1/255", "z": "mean loss"}
    space = go.Figure(go.Surface(x=steps, y=levels, z=surface.loss, colorscale="Viridis", showscale=False))
    space.update_layout(
        scene={f"{axis}axis": {"title": {"text": text}} for axis, text in axes.items()},
        scene_camera={"eye": {"x": 1.6, "y": 1.6, "z": 1.1}},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        height=420,
    )
    flat = go.Figure(go.Contour(x=steps, y=levels, z=surface.loss, colorscale="Viridis"))
    flat.update_layout(
        xaxis_title=axes["x"], yaxis_title=axes["y"], margin={"l": 60, "r": 10, "t": 10, "b": 50}, height=420
    )
    best = surface.best_step_size(len(steps) - 1)
    text = (
        f"Best step size after {steps[-1]} steps: {255 * best:.2f}/255. "
        f"{surface.enough_steps()} steps reach 99 % of the gain. Verified robust accuracy per step size: "
        + ", ".join(
            f"{255 * a:.1f}: {percent(r)}" for a, r in zip(surface.step_sizes, surface.robust_accuracy, strict=True)
        )
    )
    figures = f"<div class=pair>{_html(space)}{_html(flat)}</div>"
    return f"<h2>eps = {escape(format_value(surface.eps))}</h2><p>{text}</p>{figures}"


def _law(law: Law) -> str:
    import plotly.graph_objects as go

    x = [255 * eps for eps, _ in law.points]
    figure = go.Figure(go.Scatter(x=x, y=[255 * size for _, size in law.points], mode="markers", name="best step size"))
    ends = [0.0, max(x)]
    fitted = [law.slope * e + 255 * law.intercept for e in ends]
    figure.add_scatter(x=ends, y=fitted, mode="lines", name="least squares")
    figure.add_scatter(
        x=ends, y=[0.2 * (e + 1) for e in ends], mode="lines", line={"dash": "dot"}, name="0.2 (eps + 1), the paper's"
    )
    figure.update_layout(
        xaxis_title="eps, in 1/255",
        yaxis_title="best step size, in 1/255",
        height=380,
        margin={"l": 60, "r": 10, "t": 10, "b": 50},
    )
    figure.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.02})
    return (
        f"<h2>The law</h2><p>After {law.steps} steps: step size = {law.slope:.3f} eps {law.intercept * 255:+.2f}/255, "
        f"R² = {law.r_squared:.3f}.</p><div>{_html(figure)}</div>"
    )


def _html(figure: object) -> str:
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True})  # type: ignore[attr-defined]
    return f"<div>{html}</div>"
