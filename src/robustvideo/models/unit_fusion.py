"""Fusion by unit rows: scores of each modality on one scale, and a weight per class and modality (CRMT, Yang 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.models.alteration import Alteration, alterations
from robustvideo.models.audio_visual import AudioVisualModel
from robustvideo.models.refused import MODALITIES, Refused, audio_visual, pooled

_FIRST_BALANCE = 0.1


class UnitFusion(Refused):
    """``logits = sum_m a_m * s_m + b`` with scores ``s_m = W_m F_m``, the rows of W_m of mean 0 and norm 1.

    Args:
        encoders: the model.
        orthogonal: make the rows orthogonal to each other as well, by polar decomposition. The method's name says
            so; the authors' code normalises each row alone.

    Raises:
        InputError: orthogonal rows, but more of them than a feature has numbers.
    """

    def __init__(self, encoders: AudioVisualModel, orthogonal: bool):
        super().__init__(encoders)
        fused, classes = encoders.fused_size, encoders.head.out_features
        size = fused if encoders.fusion == "sum" else fused // 2
        if orthogonal and classes >= size:
            raise InputError(f"{classes} orthogonal rows of mean 0 need features of more numbers than {size}.")
        encoders.head = nn.Identity()  # type: ignore[assignment]  # the fusion that is replaced
        self.orthogonal = orthogonal
        self.rows = nn.ParameterDict({name: nn.Parameter(torch.randn(classes, size)) for name in MODALITIES})
        self.balance = nn.Parameter(torch.full((len(MODALITIES), classes), _FIRST_BALANCE))
        self.bias = nn.Parameter(torch.zeros(classes))

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        return self.balanced(self.scores(features))

    def scores(self, features: Mapping[str, Tensor]) -> Tensor:
        """(B, 2, K): s_m of video and audio, in fp32 at least."""
        found = []
        for name, feature in zip(MODALITIES, pooled(features), strict=True):
            with torch.autocast(feature.device.type, enabled=False):
                found.append(feature @ self.unit_rows(name).to(feature).T)
        return torch.stack(found, 1)

    def balanced(self, scores: Tensor) -> Tensor:
        """Logits (B, K) of scores (B, 2, K)."""
        return (scores * self.balance.to(scores)).sum(1) + self.bias.to(scores)

    def unit_rows(self, modality: str) -> Tensor:
        """(K, D) W_m."""
        rows = self.rows[modality]
        centred = rows - rows.mean(1, keepdim=True)
        if not self.orthogonal:
            return F.normalize(centred, dim=1)
        u, _, v = torch.linalg.svd(centred, full_matrices=False)
        nearest: Tensor = u @ v
        return nearest


@alterations.register("unit_fusion")
@dataclass(frozen=True)
class WithUnitFusion(Alteration):
    """Fusion by unit rows with a learned balance of the modalities (CRMT); trained by ``crmt_at``.

    Attributes:
        orthogonal: see `UnitFusion`. Default false, as released.
    """

    orthogonal: bool = False

    def apply(self, model: Model) -> Model:
        return UnitFusion(audio_visual(model, "unit_fusion"), self.orthogonal)
