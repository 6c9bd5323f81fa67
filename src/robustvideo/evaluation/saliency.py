"""Where a model looks: the gradient of the class's logit with respect to the pixels (DeepSAVA, appendix D).

The paper takes it frame by frame on a network of single frames, and names that as a limitation. Here it is the gradient
through the whole model, of all frames of a clip at once.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from robustvideo.clip import Clip, per_clip
from robustvideo.model import Model, at_rest, run
from robustvideo.models.acceleration import gradient_twin

_YELLOW = (1.0, 1.0, 0.0)


def saliency_maps(model: Model, clip: Clip, labels: Tensor) -> Tensor:
    """``max_c |d z_y / d x|`` as a share of the clip's largest: (B, T, H, W) in [0, 1]; 0 where there is no gradient.

    The gradient is that of the logit, not of the probability, which vanishes where the model is sure.

    Args:
        model: left as it was.
        clip: (B, C, T, H, W).
        labels: (B,) the classes whose logits are explained.
    """
    with at_rest(model), torch.inference_mode(False), torch.enable_grad():
        video = clip.video.detach().clone().requires_grad_()
        logits = run(gradient_twin(model, "fp32"), replace(clip, video=video))
        (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), video)
    strength = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0).abs().amax(1)
    largest = strength.flatten(1).amax(1)
    return strength / per_clip(torch.where(largest > 0, largest, 1), strength)


def frame_shares(maps: Tensor) -> Tensor:
    """(B, T) each frame's share of a clip's saliency; equal shares where there is none at all."""
    mass = maps.sum((2, 3))
    total = mass.sum(1, keepdim=True)
    return torch.where(total > 0, mass / torch.where(total > 0, total, 1), 1 / mass.shape[1])


def overlay(video: Tensor, maps: Tensor, strength: float = 0.8) -> Tensor:
    """A video (B, 3, T, H, W) with its saliency (B, T, H, W) laid over it in yellow.

    Args:
        video: in [0, 1].
        maps: in [0, 1].
        strength: how far the most salient pixel is coloured, in [0, 1]. Default 0.8.
    """
    colour = video.new_tensor(_YELLOW).view(1, 3, 1, 1, 1)
    return torch.lerp(video, colour.expand_as(video), strength * maps[:, None].expand_as(video))
