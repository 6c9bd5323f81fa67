"""`Front`: a model behind a trained network that changes its clips; what generators and denoisers have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.model import Model


class Front(Model):
    """A model that sees what something in front of it makes of a clip; it is `robustvideo.model.Purified`.

    Gradients pass the front exactly: attacks on this model are end-to-end.

    Args:
        undefended: the model behind it.
    """

    gradient_mode: ClassVar[str] = "exact"

    def __init__(self, undefended: Model):
        super().__init__()
        self.undefended = undefended
        self.labels, self.sample_rate = undefended.labels, undefended.sample_rate
        self.frames, self.size = undefended.frames, undefended.size

    def forward(self, clip: Clip) -> Tensor:
        logits: Tensor = self.undefended(self.purify(clip))
        return logits

    @abstractmethod
    def purify(self, clip: Clip) -> Clip:
        """What the undefended model gets to see."""

    @property
    def separate(self) -> dict[str, Model]:
        """The model without its front, for gray-box evaluation, by its name in specs."""
        return {"undefended": self.undefended}
