"""An attack on a few frames of each clip, as a problem about these frames alone.

The clip of the narrowed problem holds the chosen frames and nothing else, so that perturbations, distances and update
rules cost k frames instead of T. Its model puts them back among the clean ones; a model that encodes frames one by one
(`robustvideo.model.Framewise`) encodes no others again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from robustvideo.attacks.attack import AttackResult, Problem, judge
from robustvideo.clip import Clip
from robustvideo.model import Framewise, Model


def frames_of(video: Tensor, frames: Tensor) -> Tensor:
    """The frames (B, C, k, H, W) of a video (B, C, T, H, W) at the numbers ``frames`` (B, k)."""
    return video.gather(2, _spread(frames, video))


def with_frames(video: Tensor, frames: Tensor, new: Tensor) -> Tensor:
    """A video (B, C, T, H, W) whose frames at ``frames`` (B, k), all different, are ``new``; differentiable in it."""
    return video.scatter(2, _spread(frames, new), new)


@dataclass(frozen=True, eq=False)
class Backdrop:
    """Clean clips before which some frames will change.

    Attributes:
        problem: the whole clips.
        features: (B, T, D) of their frames, where the model is framewise and takes the clips as they are; else None.
    """

    problem: Problem
    features: Tensor | None

    @staticmethod
    def of(problem: Problem) -> Backdrop:
        """Encode the clean frames once, where that is of use: one forward pass per clip."""
        features = None
        if all(reuses_frames(model, problem.clip) for model in (problem.model, problem.gradient_model)):
            assert isinstance(problem.model, Framewise)
            video = problem.clip.video
            with torch.no_grad():
                flat = problem.model.encode_frames(video.transpose(1, 2).flatten(0, 1))
            features = flat.view(len(video), video.shape[2], -1)
        return Backdrop(problem, features)

    @property
    def forwards(self) -> int:
        """Passes per clip that it cost."""
        return 0 if self.features is None else 1

    def narrowed(self, frames: Tensor, rows: Tensor | None = None) -> Problem:
        """The problem of some frames of each clip.

        Args:
            frames: (N, k) numbers, all of a row different.
            rows: (N,) places of the clips in the batch; a clip may come several times. Default: each once.
        """
        whole = self.problem if rows is None else self.problem.select(rows)
        features = self.features if rows is None or self.features is None else self.features[rows]
        values = {f.name: getattr(whole, f.name) for f in fields(Problem)}
        values["clip"] = Clip(frames_of(whole.clip.video, frames), ids=whole.clip.ids)
        values["masks"] = tuple(None if m is None else _narrowed_mask(m, frames) for m in whole.masks)
        for name in ("model", "gradient_model"):
            values[name] = OnFrames(values[name], whole.clip, frames, features)
        return FramesProblem(**values)

    def widened(self, result: AttackResult, frames: Tensor) -> AttackResult:
        """What an attack on ``frames`` (B, k) found, in the whole clips, with the whole model's verdict."""
        problem = self.problem
        clip = replace(problem.clip, video=with_frames(problem.clip.video, frames, result.clip.video))
        verdict = judge(problem.model, clip, problem.labels, problem.targeted)
        return replace(
            result,
            clip=verdict.clip,
            success=verdict.success,
            # rounding may tell a whole clip from one of re-used features at the very boundary
            first_success_step=torch.where(verdict.success, result.first_success_step.clamp_min(0), -1),
            forward_passes=result.forward_passes + 1,
            logits=verdict.logits,
            margin=verdict.margin,
        )


@dataclass(frozen=True, eq=False)
class FramesProblem(Problem):
    """A problem whose models know the clean clips, row by row."""

    def select(self, index: Tensor) -> Problem:
        chosen = super().select(index)
        assert isinstance(self.model, OnFrames)
        assert isinstance(self.gradient_model, OnFrames)
        return replace(chosen, model=self.model.select(index), gradient_model=self.gradient_model.select(index))


class OnFrames(Model):
    """A model seen through a few frames of known clips.

    Args:
        model: what classifies the whole clips.
        clean: the clean clips.
        frames: (B, k) numbers of the frames that a clip given to it holds.
        features: (B, T, D) features of the clean frames, see `Backdrop`.
    """

    def __init__(self, model: Model, clean: Clip, frames: Tensor, features: Tensor | None):
        super().__init__()
        self.model = model
        self.labels = model.labels
        self.clean = clean
        self.chosen = frames
        self.features = features

    def select(self, index: Tensor) -> OnFrames:
        """The same for some of the clips."""
        features = None if self.features is None else self.features[index]
        return OnFrames(self.model, self.clean.select(index), self.chosen[index], features)

    def forward(self, clip: Clip) -> Tensor:
        if self.features is None:
            video = with_frames(self.clean.video, self.chosen, clip.video)
            logits: Tensor = self.model(replace(self.clean, video=video, ids=clip.ids))  # a random model draws from ids
            return logits
        assert isinstance(self.model, Framewise)
        new = self.model.encode_frames(clip.video.transpose(1, 2).flatten(0, 1)).view(len(clip), clip.frames, -1)
        places = self.chosen[:, :, None].expand_as(new)
        return self.model.head(self.features.to(new.dtype).scatter(1, places, new))


def reuses_frames(model: Model, clip: Clip) -> bool:
    """Whether the model's features of single frames make up its answer to these clips: silent, and of its own size."""
    fits = model.frames in (None, clip.frames) and model.size in (None, tuple(clip.video.shape[3:]))
    return isinstance(model, Framewise) and fits and clip.audio is None


def _spread(frames: Tensor, video: Tensor) -> Tensor:
    """Frame numbers (B, k) as an index into a video, without a copy."""
    return frames[:, None, :, None, None].expand(-1, video.shape[1], -1, *video.shape[3:])


def _narrowed_mask(mask: Tensor, frames: Tensor) -> Tensor:
    return mask if mask.shape[2] == 1 else frames_of(mask, frames)
