"""What a forward pass costs."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from robustvideo.clip import Clip
from robustvideo.model import Model, at_rest, run


def gigaflops(model: Model, clip: Clip) -> float:
    """GFLOPs of one forward pass per clip, by torch's own counter; the mean where clips cost differently.

    Matrix products and convolutions count, a multiplication and its addition as two. Many papers count them as one:
    halve to compare. Of a sparse mixture of experts only the experts that ran count.
    """
    with at_rest(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(model, clip)
    return float(counter.get_total_flops()) / len(clip) / 1e9
