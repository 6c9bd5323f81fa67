"""Training of models that predict the next frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F

from robustvideo.errors import InputError
from robustvideo.models.next_frame import NextFrameModel
from robustvideo.training.method import Loss, Method, Step, trainings


@trainings.register("next_frame")
@dataclass(frozen=True)
class NextFrameTraining(Method):
    """Mean squared error of every predicted frame, each from the clean frames before it (DeepSAVA, appendix C)."""

    def losses(self, step: Step) -> Iterator[Loss]:
        if not isinstance(step.network, NextFrameModel):
            raise InputError("The training next_frame is for models that predict the next frame, such as next_frame.")
        video = step.clip.video
        with step.autocast():
            predicted = step.network.predict(video[:, :, :-1]).float()
        value = F.mse_loss(predicted, video[:, :, 1:])
        last = F.mse_loss(predicted[:, :, -1], video[:, :, -1]).detach()
        copied = F.mse_loss(video[:, :, :-1], video[:, :, 1:])
        yield Loss(value, {"last_mse": last, "copy_mse": copied})
