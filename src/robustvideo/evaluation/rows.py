"""From verdicts and attack results to records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from robustvideo import distances
from robustvideo.attacks.attack import Attack, AttackResult, Verdict
from robustvideo.attacks.autoattack import AutoAttackResult
from robustvideo.clip import Clip
from robustvideo.evaluation.records import CLEAN, Record, thinned_steps
from robustvideo.registry import describe
from robustvideo.spec import format_call


def undisturbed(clean: Verdict, row: int, label: int, item: str, defense: str) -> Record:
    """The record of a clip without any attack, behind a defence."""
    prediction = int(clean.logits[row].argmax())
    confidence = float(torch.softmax(clean.logits[row].double(), 0).amax())
    wrong = bool(clean.success[row])
    return Record(
        sample_id=clean.clip.ids[row],
        label=label,
        attack=CLEAN,
        eps=0.0,
        defense=defense,
        seed=0,
        clean_prediction=prediction,
        adversarial_prediction=prediction,
        success=wrong,
        first_success_step=0 if wrong else -1,
        forward_passes=1,
        backward_passes=0,
        seconds=0.0,
        linf=0.0,
        l2=0.0,
        l21=0.0,
        ssim=1.0,
        frames_touched=0,
        clean_confidence=confidence,
        adversarial_confidence=confidence,
        margin=float(clean.margin[row]),
        frame_rms=[0.0] * clean.clip.frames,
        item=item,
    )


def unusable(sample_id: str, label: int, message: str, item: str, defense: str) -> Record:
    """The record of a clip that cannot be read."""
    return Record(
        sample_id=sample_id,
        label=label,
        attack=CLEAN,
        eps=0.0,
        defense=defense,
        seed=0,
        clean_prediction=-1,
        adversarial_prediction=-1,
        success=False,
        first_success_step=-1,
        forward_passes=0,
        backward_passes=0,
        seconds=0.0,
        linf=math.nan,
        l2=math.nan,
        l21=math.nan,
        ssim=math.nan,
        psnr=math.nan,
        frames_touched=0,
        status="unusable",
        message=message,
        item=item,
    )


def under(attack: Attack, clean: Record) -> Record:
    """A clip's record under an attack that has not changed it (yet)."""
    return replace(
        clean,
        attack=attack.label,
        eps=attack.threat.parts[0].eps,
        threat=format_call(describe(attack.threat)),
        seed=attack.seed,
        forward_passes=0,
    )


def attacked(rows: Sequence[Record], clean: Clip, result: AttackResult, seconds: float) -> list[Record]:
    """The records of attacked clips, from their rows before the attack (see `under`).

    Args:
        rows: one row per clip of the result.
        clean: the clips before the attack.
        result: what the attack found.
        seconds: wall time per clip.
    """
    before, after = clean.video, result.clip.video
    confidence = torch.softmax(result.logits.double(), 1).amax(1)
    columns = {
        "adversarial_prediction": result.logits.argmax(1),
        "success": result.success,
        "first_success_step": result.first_success_step,
        "steps": result.steps,
        "forward_passes": result.forward_passes,
        "backward_passes": result.backward_passes,
        "linf": distances.linf(before, after),
        "l2": distances.l2(before, after),
        "l21": distances.l21(before, after),
        "ssim": distances.ssim(before, after),
        "psnr": distances.psnr(before, after),
        "frames_touched": distances.frames_touched(before, after),
        "frame_rms": distances.frame_rms(after - before),
        "adversarial_confidence": confidence,
        "margin": result.margin,
    }
    values = {name: column.tolist() for name, column in columns.items()} | _loudness(clean, result.clip)
    traces = [[v for v in trace if not math.isnan(v)] for trace in result.loss_trace.tolist()]
    members = _members(result)
    return [
        replace(
            row,
            seconds=seconds,
            loss_trace=[traces[i][step] for step in thinned_steps(len(traces[i]))],
            trace_steps=len(traces[i]),
            member=members[i],
            **{name: column[i] for name, column in values.items()},
        )
        for i, row in enumerate(rows)
    ]


def _loudness(clean: Clip, after: Clip) -> dict[str, list[float | None]]:
    """How loud the change of each clip's sound is; None where the sound is as before, or where there is none."""
    measures = {"audio_snr_db": distances.signal_to_noise, "audio_relative_db": distances.relative_loudness}
    if clean.audio is None or after.audio is None or clean.audio.numel() == 0:
        return {name: [None] * len(clean) for name in measures}
    changed = (clean.audio != after.audio).flatten(1).any(1).tolist()
    found = {name: measure(clean.audio, after.audio).tolist() for name, measure in measures.items()}
    return {name: [v if c else None for v, c in zip(own, changed, strict=True)] for name, own in found.items()}


def _members(result: AttackResult) -> list[str]:
    """Per clip, the member of an ensemble that broke it."""
    if not isinstance(result, AutoAttackResult):
        return [""] * len(result.success)
    return [result.members[i] if i >= 0 else "" for i in result.broken_by.tolist()]
