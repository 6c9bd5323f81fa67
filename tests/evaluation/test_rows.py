"""From results to records."""

from __future__ import annotations

import torch
from toys import Linear, alternating, clips, weights

from robustvideo.attacks import Square
from robustvideo.attacks.attack import judge
from robustvideo.evaluation.records import thinned_steps
from robustvideo.evaluation.rows import attacked, under, undisturbed


def test_a_thinned_trace_says_how_many_steps_it_is_of() -> None:
    clip, labels = clips(2), alternating(2)
    model = Linear(weights(), bias=0.0)
    with torch.no_grad():  # out of reach for the first clip
        model.bias -= model.value(clip)[0] + 5
        clean = judge(model, clip, labels)
    result = Square(eps=1 / 255, queries=451)(model, clip, labels)
    before = [under(Square(), undisturbed(clean, row, row, "item", "none")) for row in range(2)]
    rows = attacked(before, clip, result, 0.0)
    trace = result.loss_trace[0].tolist()
    assert (rows[0].steps, rows[0].trace_steps, len(rows[0].loss_trace)) == (450, 450, 200)
    assert rows[0].loss_trace == [trace[step] for step in thinned_steps(450)]
    assert (thinned_steps(450)[0], thinned_steps(450)[-1], len(set(thinned_steps(450)))) == (0, 449, 200)
    assert (before[0].steps, before[0].trace_steps) == (None, None)
