"""Crafting: adversarial clips for one batch, on the model itself or on a surrogate that stands in for it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustvideo.attacks.attack import Attack, AttackResult, Verdict, judge
from robustvideo.clip import Clip, concatenate
from robustvideo.evaluation.identity import digest_of, digest_of_clip
from robustvideo.model import Model, at_rest, is_out_of_memory
from robustvideo.randomness import ClipRandom, seed_for
from robustvideo.storage import local_copy, slug, write_atomically

R = TypeVar("R")

_KIND = "all steps, counted"
"""What is crafted under a spec. Where that changes, it changes: what an early version kept is then not taken for it."""


def craft(attack: Attack, model: Model, clip: Clip, labels: Tensor) -> AttackResult:
    """Attack a batch; where memory runs out, in halves."""
    return in_halves(lambda c, y: attack(model, c, y), clip, labels, _join_results)


def craft_for_others(attack: Attack, surrogate: Model, clip: Clip, labels: Tensor) -> AttackResult:
    """Attack a batch on a model that is not the one to be fooled: by all steps, whatever the attack's ``early_stop``.

    A clip that stopped where the surrogate just fails fools hardly another model, and would flatter them all.
    """
    return craft(replace(attack, early_stop=False), surrogate, clip, labels)


def clean_verdict(model: Model, clip: Clip, labels: Tensor) -> Verdict:
    """Classify a batch as it is; where memory runs out, in halves."""
    with at_rest(model):
        return in_halves(lambda c, y: judge(model, c, y), clip, labels, _join_verdicts)


def in_halves(work: Callable[[Clip, Tensor], R], clip: Clip, labels: Tensor, join: Callable[[Sequence[R]], R]) -> R:
    """Work on a batch; where memory runs out, on its halves, whose results are joined."""
    try:
        return work(clip, labels)
    except (RuntimeError, MemoryError) as error:
        if len(clip) == 1 or not is_out_of_memory(error):
            raise
    gc.collect()  # outside the handler, whose traceback would hold on to the memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(clip) // 2
    parts = [torch.arange(half, device=labels.device), torch.arange(half, len(clip), device=labels.device)]
    return join([in_halves(work, clip.select(part), labels[part], join) for part in parts])


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A model that clips are crafted on, to be tested on another one.

    What is crafted does not depend on the target, so it is kept on disk and serves every target of a suite. A surrogate
    that has changed under its name crafts anew, and so does one that is given other clips under the same ids.

    Attributes:
        name: its spec, for the records.
        model: the model.
        folder: where crafted batches are kept.
    """

    name: str
    model: Model
    folder: Path

    @cached_property
    def digest(self) -> str:
        """What the model is, see `digest_of`."""
        return digest_of(self.model)

    def craft(self, attack: Attack, clip: Clip, labels: Tensor) -> AttackResult:
        """The surrogate's adversarial clips, whether or not it is fooled by them; see `craft_for_others`.

        What is kept is held against the attack's threat model once more; a file that breaks it is written anew.
        """
        said = (self.name, self.digest, _KIND, attack.spec, *clip.ids, *map(str, labels.tolist()))
        key = "\x1f".join((*said, digest_of_clip(clip)))
        path = self.folder / f"{slug(key)}.safetensors"
        kept = _load(path, clip)
        if kept is not None and attack.allows(self.model, clip, labels, kept.clip).all():
            return kept
        result = craft_for_others(attack, self.model, clip, labels)
        write_atomically(path, lambda temporary: save_file(_pack(result), temporary))
        return result


def transferred(result: AttackResult, target: Model, labels: Tensor, targeted: bool) -> AttackResult:
    """A surrogate's result with the target's verdict in place of the surrogate's.

    A success counts as reached when crafting ended: a transfer attack cannot see the target on the way.
    """
    with at_rest(target):
        verdict = judge(target, result.clip, labels, targeted)
    return replace(
        result,
        success=verdict.success,
        logits=verdict.logits,
        margin=verdict.margin,
        first_success_step=torch.where(verdict.success, result.steps, -1),
    )


def random_targets(labels: Tensor, classes: int, seed: int, ids: Sequence[str]) -> Tensor:
    """For every clip a class other than its own, drawn from the clip's own stream."""
    shift = ClipRandom(seed_for(seed, "target", name) for name in ids).integers(1, classes)[:, 0]
    return (labels + shift.to(labels.device)) % classes


def select(result: AttackResult, index: Tensor) -> AttackResult:
    """The results of some of the clips."""
    tensors = {f.name: getattr(result, f.name)[index] for f in fields(AttackResult) if f.name != "clip"}
    return AttackResult(clip=result.clip.select(index), **tensors)


def _join_verdicts(verdicts: Sequence[Verdict]) -> Verdict:
    names = [f.name for f in fields(Verdict) if f.name != "clip"]
    tensors = {name: torch.cat([getattr(v, name) for v in verdicts]) for name in names}
    return Verdict(clip=concatenate([v.clip for v in verdicts]), **tensors)


def _join_results(results: Sequence[AttackResult]) -> AttackResult:
    names = [f.name for f in fields(AttackResult) if f.name != "clip"]
    tensors = {name: torch.cat([getattr(r, name) for r in results]) for name in names}
    return AttackResult(clip=concatenate([r.clip for r in results]), **tensors)


def _pack(result: AttackResult) -> dict[str, Tensor]:
    tensors = {f.name: getattr(result, f.name).contiguous() for f in fields(AttackResult) if f.name != "clip"}
    tensors["video"] = result.clip.video.contiguous()
    if result.clip.audio is not None:
        tensors["audio"] = result.clip.audio.contiguous()
    return tensors


def _load(path: Path, clean: Clip) -> AttackResult | None:
    """What was crafted of some clips; None where the file is missing, damaged, or of clips of another shape."""
    try:
        with local_copy(path) as file:
            tensors = load_file(file, device=str(clean.device))
    except (SafetensorError, OSError):
        return None
    like = {"video": clean.video} if clean.audio is None else {"video": clean.video, "audio": clean.audio}
    results = {f.name for f in fields(AttackResult) if f.name != "clip"}
    fits = tensors.keys() == like.keys() | results and all(
        tensors[name].shape == signal.shape and tensors[name].dtype == signal.dtype for name, signal in like.items()
    )
    if not fits or any(tensors[name].shape[:1] != (len(clean),) for name in results):
        return None
    clip = replace(clean, video=tensors.pop("video"), audio=tensors.pop("audio", None))
    return AttackResult(clip=clip, **tensors)
