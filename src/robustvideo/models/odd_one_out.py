"""Odd-one-out fusion: experts that each leave a modality out, weighed by who seems to lie (SSDF, Yang et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustvideo.model import Model
from robustvideo.models.alteration import Alteration, alterations
from robustvideo.models.audio_visual import AudioVisualModel
from robustvideo.models.refused import Refused, audio_visual, pooled

ODD = ("video", "audio", "none")
"""What the judge says is odd, in the order of its logits."""

_HIDDEN = 256


class OddOneOut(Refused):
    """``sum_i o_i e_i(z without modality i) + o_none e_none(z)``, then a linear map (reconstructed).

    The judge o tells from both features which modality disagrees. Of two that disagree nobody can say which is wrong:
    it can only know artefacts of attacked features.

    Args:
        encoders: the model.
    """

    def __init__(self, encoders: AudioVisualModel):
        super().__init__(encoders)
        fused, classes = encoders.fused_size, encoders.head.out_features
        size = fused if encoders.fusion == "sum" else fused // 2
        encoders.head = nn.Identity()  # type: ignore[assignment]  # the fusion that is replaced
        self.judge = nn.Sequential(nn.Linear(2 * size, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, len(ODD)))
        self.experts = nn.ModuleDict(
            {"video": nn.Linear(size, size), "audio": nn.Linear(size, size), "none": nn.Linear(2 * size, size)}
        )
        self.head = nn.Linear(size, classes)

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        seen, heard = pooled(features)
        return self.weighed(seen, heard, self.oddity(seen, heard).softmax(1))

    def oddity(self, seen: Tensor, heard: Tensor) -> Tensor:
        """Logits (B, 3) of `ODD` for features (B, D) of both modalities."""
        logits: Tensor = self.judge(torch.cat([seen, heard], dim=1))
        return logits.float() if logits.element_size() < 4 else logits

    def weighed(self, seen: Tensor, heard: Tensor, weights: Tensor) -> Tensor:
        """Logits (B, K) under the judge's weights (B, 3)."""
        experts = (
            self.experts["video"](heard),  # without the video
            self.experts["audio"](seen),
            self.experts["none"](torch.cat([seen, heard], dim=1)),
        )
        fused = (torch.stack(experts, 1) * weights[:, :, None]).sum(1)
        logits: Tensor = self.head(fused)
        return logits


@alterations.register("odd_one_out")
@dataclass(frozen=True)
class WithOddOneOut(Alteration):
    """Experts that leave a modality out, and a judge that weighs them (SSDF); trained by ``ssdf``.

    Its authors' threat is *one* attacked modality: numbers under attacks on both are outside of it, and say so.
    """

    def apply(self, model: Model) -> Model:
        return OddOneOut(audio_visual(model, "odd_one_out"))
