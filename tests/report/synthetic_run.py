"""Synthetic run directories, made with the real writers, for the report to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from robustvideo.clip import Clip
from robustvideo.data.video_file import write_lossless
from robustvideo.evaluation.records import CLEAN, Record, write_shard
from robustvideo.evaluation.run import Manifest, environment, now, start_run

CLASSES = ("handshake", "hug", "kick", "point", "punch", "push")
HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'
FRAMES, SIDE = 12, 32


@dataclass(frozen=True)
class Foe:
    """An attack of a synthetic run: the smaller ``weakness``, the smaller the budgets at which it succeeds."""

    attack: str
    weakness: float
    steps: int


FOES = (
    Foe("noise", 9.0, 0),
    Foe("fgsm", 2.6, 1),
    Foe("pgd(steps=20)", 1.15, 20),
    Foe("apgd_dlr(steps=20)", 1.0, 20),
    Foe("square(steps=100)", 1.9, 100),
)


def moving_square(seed: int, frames: int = FRAMES, side: int = SIDE) -> torch.Tensor:
    """A bright square that moves over a dark gradient: uint8 (3, T, side, side)."""
    stream = torch.Generator().manual_seed(seed)
    colour = torch.randint(120, 256, (3, 1, 1), generator=stream)
    row, column = torch.randint(0, side // 2, (2,), generator=stream).tolist()
    ramp = torch.linspace(20, 90, side).round()
    video = ramp[None, None, None, :].expand(3, frames, side, side).clone()
    for frame in range(frames):
        left = (column + frame * 2) % (side - side // 4)
        video[:, frame, row : row + side // 4, left : left + side // 4] = colour.float()
    return video.to(torch.uint8)


def disturbed(video: torch.Tensor, levels: int, seed: int) -> torch.Tensor:
    """The video plus -levels, 0 or +levels at every value, more in the later frames."""
    stream = torch.Generator().manual_seed(seed)
    sign = torch.randint(-1, 2, video.shape, generator=stream)
    share = torch.linspace(0.2, 1, video.shape[1])[None, :, None, None]
    keep = torch.rand(video.shape, generator=stream) < share
    return (video.int() + levels * sign * keep).clamp(0, 255).to(torch.uint8)


def clean_row(clip: int, classes: int, *, defense: str = "none", wrong: bool = False) -> Record:
    """The undisturbed record of clip number ``clip``."""
    label = clip % classes
    said = (label + 1) % classes if wrong else label
    return Record(
        sample_id=f"set1/{clip:03d}.avi",
        label=label,
        attack=CLEAN,
        eps=0.0,
        defense=defense,
        seed=0,
        clean_prediction=said,
        adversarial_prediction=said,
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
        clean_confidence=0.93 - 0.01 * (clip % 20),
        adversarial_confidence=0.93 - 0.01 * (clip % 20),
        frame_rms=[0.0] * FRAMES,
        item=f"{clip:07d}-000",
    )


def attack_row(clean: Record, clip: int, foe: Foe, levels: int, classes: int, toughness: float, frames: int) -> Record:
    """The same clip under an attack; each clip has its own budget from which it falls."""
    row = {**vars(clean), "attack": foe.attack, "eps": levels / 255, "threat": f"linf(eps={levels}/255)"}
    row["item"] = f"{clip:07d}-{FOES.index(foe) + 1 if foe in FOES else 9:03d}-{levels:02d}"
    if clean.success:
        return Record(**{**row, "forward_passes": 0})
    threshold = toughness * foe.weakness * (0.6 + 6 * ((clip * 37) % 40) / 40)
    success = levels >= threshold
    step = min(foe.steps, math.ceil(foe.steps * threshold / levels * 0.8)) if success else -1
    used = step if success else foe.steps
    rms = [levels / 255 * 0.8 * (0.25 + 0.75 * frame / frames) for frame in range(frames)]
    return Record(
        **{
            **row,
            "adversarial_prediction": (clean.label + 1 + clip % 2) % classes if success else clean.label,
            "success": success,
            "first_success_step": step,
            "forward_passes": used + 2,
            "backward_passes": 0 if foe.attack.startswith(("noise", "square")) else used,
            "seconds": 0.05 * (used + 2),
            "linf": levels / 255,
            "l2": levels / 255 * 40,
            "l21": sum(rms),
            "ssim": 1 - levels / 255,
            "psnr": 50 - levels,
            "frames_touched": frames,
            "frame_rms": rms,
            "adversarial_confidence": 0.6,
            "loss_trace": [2.5 * levels / 4 * (1 - math.exp(-4 * i / max(foe.steps, 1))) for i in range(used)],
        }
    )


def make_run(
    path: Path,
    *,
    clips: int = 40,
    levels: Sequence[int] = (1, 2, 4, 8, 16),
    foes: Sequence[Foe] = FOES,
    classes: Sequence[str] = CLASSES,
    saved: int = 5,
    toughness: float = 1.0,
    model: str = "embedded:r3d",
    status: str = "finished",
    unusable: int = 0,
    frames: int = FRAMES,
    side: int = SIDE,
) -> Path:
    """A run directory as `evaluate` leaves it."""
    manifest = Manifest(
        robustvideo="0.1.0",
        created=now(),
        status=status,
        title="Robustness of r3d on two-person interactions",
        command=f"robustvideo evaluate --model {model} --data 'manifest:clips.csv?frames=16&size=64' "
        "--attack 'pgd(eps=8/255, steps=20)' --out runs/first",
        configuration={"model": model, "data": "manifest:clips.csv", "attacks": [f.attack for f in foes], "seed": 0},
        items=clips * (1 + len(foes) * len(levels)),
        model={"spec": model, "labels": list(classes), "parameters": 11_200_000, "frames": 16, "size": [64, 64]},
        data={"spec": "manifest:clips.csv?frames=16&size=64", "clips": clips + unusable, "labels": list(classes)},
        environment={**environment(), "device": "cpu"},
    )
    start_run(path, manifest)
    records = []
    count = len(classes) or len(CLASSES)
    for clip in range(clips):
        clean = clean_row(clip, count, wrong=clip % 19 == 5)
        records.append(clean)
        for foe in foes:
            for level in levels:
                row = attack_row(clean, clip, foe, level, count, toughness, frames)
                if clip < saved and not clean.success and level == 8:
                    row = save_clips(path, row, clip, level, frames, side)
                records.append(row)
    for clip in range(clips, clips + unusable):
        lost = {"status": "unusable", "message": "the file ends in the middle of a frame", "clean_prediction": -1}
        row = {**vars(clean_row(clip, count)), **lost, "adversarial_prediction": -1, "linf": math.nan}
        records.append(Record(**row))
    write_shard(path / "records" / "0000000-000.parquet", records)
    return path


def save_clips(run: Path, row: Record, clip: int, levels: int, frames: int = FRAMES, side: int = SIDE) -> Record:
    """Write the clean and the adversarial video of a row, and name the latter in it."""
    folder = run / "clips" / f"clip-{clip:03d}"
    file = folder / f"{row.attack.partition('(')[0]}-{levels}.mkv"
    clean = moving_square(clip, frames, side)
    for path, video in ((folder / "clean.mkv", clean), (file, disturbed(clean, levels, clip))):
        if not path.exists():
            write_lossless(path, Clip(video[None].float() / 255), fps=25)
    return Record(**{**vars(row), "clip_file": file.relative_to(run).as_posix()})
