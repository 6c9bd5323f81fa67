"""Networks that encode each frame alone and then read the sequence."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from robustvideo.model import WrappedModel


class FrameSequence(nn.Module):
    """Encode every frame alone, then read the sequence: (B, 3, T, H, W) -> (B, K).

    Args:
        encoder: (N, 3, H, W) -> (N, D).
        reader: (B, T, D) -> (B, K).
    """

    def __init__(self, encoder: nn.Module, reader: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.reader = reader

    def forward(self, video: Tensor) -> Tensor:
        batch, _, frames = video.shape[:3]
        features = self.encoder(video.transpose(1, 2).flatten(0, 1))
        logits: Tensor = self.reader(features.view(batch, frames, -1))
        return logits


class FramewiseModel(WrappedModel):
    """A `FrameSequence` with its preprocessing in front; it is `robustvideo.model.Framewise`.

    Its frames may be encoded one by one and the features reused where frames did not change. That needs clips of
    the network's own number and size of frames; ``forward`` takes any.

    Args:
        network: the encoder and the reader.
        frames, size, mean, std: as in `robustvideo.model.wrap`.
    """

    module: FrameSequence

    def __init__(
        self,
        network: FrameSequence,
        *,
        frames: int | None,
        size: int | tuple[int, int] | None,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__(network, frames=frames, size=size, mean=mean, std=std)

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) frames in [0, 1], of the network's size -> (N, D) features."""
        mean, std = (values[:, 0].to(frames.dtype) for values in (self._mean, self._std))
        features: Tensor = self.module.encoder((frames - mean) / std)
        return features

    def head(self, features: Tensor) -> Tensor:
        """(B, T, D) features -> logits (B, K)."""
        logits: Tensor = self.module.reader(features)
        return logits
