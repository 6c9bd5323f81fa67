"""What a model's answers to a first batch say against its numbers, before anything is attacked."""

from __future__ import annotations

import torch
from torch import Tensor

from robustvideo.attacks.attack import Verdict
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.evaluation.crafting import clean_verdict
from robustvideo.model import Model, at_rest

ROUNDING = 0.01
"""Share of the logits' range by which the kernels of another batch size may move them, however deep the network."""

COARSE = 0.1
"""The same for weights of half precision."""


def doubts(model: Model, clip: Clip, labels: Tensor, clean: Verdict) -> list[str]:
    """Sentences about what would mislead; none about a model that answers every clip for itself, in logits.

    A batch of one clip says nothing, and a model that draws at random is not taken for one that couples clips.

    Args:
        model: the model without a defence, whose draws are its own affair.
        clip: a batch of the data.
        labels: its classes.
        clean: the model's verdict on it.
    """
    if len(clip) < 2:
        return []
    return [said for said in (_coupled(model, clip, labels, clean.logits), _probabilities(clean.logits)) if said]


def _coupled(model: Model, clip: Clip, labels: Tensor, together: Tensor) -> str:
    try:
        alone = clean_verdict(model, clip.select([0]), labels[:1]).logits[0]
    except InputError as error:
        return f"The model classifies a batch and fails on a clip alone, so its answers depend on --batch-size: {error}"
    small = any(p.is_floating_point() and p.element_size() < 4 for p in model.parameters())
    allowed = (COARSE if small else ROUNDING) * float(together.max() - together.min())
    moved = float((alone - together[0]).abs().max())
    if moved <= allowed:
        return ""
    with at_rest(model):
        torch.manual_seed(1)  # otherwise the model would draw what it drew before
        again = clean_verdict(model, clip, labels).logits
    if float((again - together).abs().max()) > allowed:
        return ""
    return (
        f"The model answers differently when clips share a batch, by up to {moved:.2g} in the logits of "
        f"{clip.ids[0]}: BatchNorm uses batch statistics, or something else reduces over the batch. "
        "Its numbers depend on --batch-size."
    )


def _probabilities(logits: Tensor) -> str:
    if bool((logits < 0).any()) or not torch.allclose(logits.double().sum(1), logits.new_ones(()).double(), atol=1e-3):
        return ""
    return (
        "The model returns probabilities, which are not negative and sum to 1, where logits are wanted: a second "
        "softmax takes most of the gradient from attacks on the cross-entropy. Return what goes into the softmax."
    )
