"""Temporal translation, 15 shifts, 2 steps: robustvideo against a loop over shifts and against the released way.

    python benchmarks/temporal_translation.py [--clips 4] [--frames 32] [--threads 2] [--networks tiny r3d r3d_18]

Contenders, which all find the same adversarial clips (checked, but for rounding) and all end with a verdict on what a
file would hold:

* robustvideo as it comes, with 1 and with 15 shifts per pass, and with gradient passes in bf16;
* a loop over shifts: `torch.roll`, one forward and one backward pass for the whole batch, roll back;
* a loop over shifts that moves frames as the released code does, one slice copy per frame, there and back;
* the released way: one clip at a time, slice copies, three shifts per pass.

Networks of three sizes: one 3-D convolution, the embedded r3d (0.3 million parameters), and torchvision's r3d_18 (33
million), randomly initialised, with frozen parameters. The contenders run in turn, A B C A B C, and the table shows the
fastest of the repeats, because whatever else the machine does can only slow one down; with one thread it is the
processor's time that counts, which a busy machine hardly disturbs. The first table is the shifting alone, without a
network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustvideo as rv
from robustvideo.attacks.temporal_translation import TemporalTranslation, kernel_weights, roll_frames
from robustvideo.models.embedded import build

EPS, STEPS, REACH = 8 / 255, 2, 7
SHIFTS = range(-REACH, REACH + 1)
WEIGHTS = kernel_weights("gaussian", REACH)
ATTACK = TemporalTranslation(eps=EPS, steps=STEPS, reach=REACH, early_stop=False)
Contender = Callable[[rv.Model, Tensor, Tensor], Tensor]


def frame_by_frame(video: Tensor, shift: int) -> Tensor:
    frames = video.shape[2]
    moved = torch.zeros_like(video)
    for t in range(frames):
        moved[:, :, (t + shift) % frames] = video[:, :, t]
    return moved


def rolled(video: Tensor, shift: int) -> Tensor:
    return video.roll(shift, 2)


def ours(attack: TemporalTranslation, model: rv.Model, video: Tensor, labels: Tensor) -> Tensor:
    return attack(model, rv.Clip(video), labels).clip.video


def gradient(model: rv.Model, video: Tensor, labels: Tensor) -> Tensor:
    video = video.detach().requires_grad_()
    loss = F.cross_entropy(model(rv.Clip(video)), labels, reduction="sum")
    return torch.autograd.grad(loss, video)[0]


def ascend(estimate: Callable[[Tensor], Tensor], model: rv.Model, video: Tensor) -> Tensor:
    """Sign steps along an estimated gradient, then the verdict on what a file holds."""
    adversarial = video
    for _ in range(STEPS):
        moved = adversarial + EPS / STEPS * estimate(adversarial).sign()
        adversarial = (video + (moved - video).clamp(-EPS, EPS)).clamp(0, 1)
    stored = (adversarial * 255).round() / 255
    with torch.no_grad():
        model(rv.Clip(stored))
    return stored


def loop(move: Callable[[Tensor, int], Tensor], model: rv.Model, video: Tensor, labels: Tensor) -> Tensor:
    def estimate(point: Tensor) -> Tensor:
        total = torch.zeros_like(point)
        for shift, weight in zip(SHIFTS, WEIGHTS, strict=True):
            total += weight * move(gradient(model, move(point, shift), labels), -shift)
        return total

    return ascend(estimate, model, video)


def released(model: rv.Model, video: Tensor, labels: Tensor) -> Tensor:
    def estimate(label: Tensor, point: Tensor) -> Tensor:
        variants = torch.cat([frame_by_frame(point, shift) for shift in SHIFTS])
        gradients = torch.cat([gradient(model, part, label.expand(len(part))) for part in variants.split(3)])
        back = [frame_by_frame(g[None], -shift) for g, shift in zip(gradients, SHIFTS, strict=True)]
        return torch.stack([w * g for w, g in zip(WEIGHTS, back, strict=True)]).sum(0)

    clips = zip(video.split(1), labels.split(1), strict=True)
    return torch.cat([ascend(partial(estimate, label), model, clip) for clip, label in clips])


CONTENDERS: dict[str, Contender] = {
    "robustvideo": partial(ours, ATTACK),
    "robustvideo, 1 shift per pass": partial(ours, replace(ATTACK, copies_per_pass=1)),
    "robustvideo, 15 shifts per pass": partial(ours, replace(ATTACK, copies_per_pass=15)),
    "robustvideo, bf16": partial(ours, replace(ATTACK, precision="bf16")),
    "loop over shifts, roll": partial(loop, rolled),
    "loop over shifts, frame by frame": partial(loop, frame_by_frame),
    "as released": released,
}


def network(name: str) -> rv.Model:
    if name == "tiny":
        layers = [
            nn.Conv3d(3, 8, 3, stride=(1, 4, 4)),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(8, 8),
        ]
        model: rv.Model = rv.wrap(nn.Sequential(*layers), frames=None, size=None)
    elif name == "r3d":
        model = rv.wrap(build("r3d").module, frames=None, size=None)
    else:
        from torchvision.models.video import r3d_18

        model = rv.wrap(r3d_18(weights=None), frames=None, size=None)
    return model.eval().requires_grad_(False)


def fastest(runs: dict[str, Callable[[], Tensor]], repeats: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, float] = {}
    results: dict[str, Tensor] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock()
            results[name] = run()
            seconds[name] = min(seconds.get(name, torch.inf), clock() - start)
    return seconds, results


def table(title: str, seconds: dict[str, float], reference: str) -> None:
    print(f"\n{title}\n\n| contender | ms | x {reference} |\n|---|---|---|")
    for name, now in seconds.items():
        print(f"| {name} | {now * 1e3:.1f} | {now / seconds[reference]:.2f} |")


def shifting(video: Tensor, repeats: int) -> None:
    """There and back for all shifts, for one clip as released and for the batch as here."""
    copies = video.repeat_interleave(len(SHIFTS), 0)
    moves = torch.tensor(list(SHIFTS)).repeat(len(video))

    def batched() -> Tensor:
        return roll_frames(roll_frames(copies, moves), -moves)

    def looped(move: Callable[[Tensor, int], Tensor]) -> Tensor:
        return torch.stack([move(move(video, shift), -shift) for shift in SHIFTS], 1).flatten(0, 1)

    runs = {
        "robustvideo": batched,
        "loop over shifts, roll": partial(looped, rolled),
        "loop over shifts, frame by frame": partial(looped, frame_by_frame),
    }
    seconds, results = fastest(runs, repeats)
    assert all(torch.equal(result, copies) for result in results.values())
    table("Shifting alone, there and back", seconds, "robustvideo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--size", type=int, default=56)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=["tiny", "r3d", "r3d_18"], choices=["tiny", "r3d", "r3d_18"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = (options.clips, 3, options.frames, options.size, options.size)
    video = (torch.rand(shape) * 255).round() / 255
    labels = torch.arange(options.clips) % 8
    print(f"{options.clips} clips of {shape[1:]}, fastest of {options.repeats}, {torch.get_num_threads()} threads")
    shifting(video, options.repeats)
    for name in options.networks:
        model = network(name)
        runs = {contender: partial(run, model, video, labels) for contender, run in CONTENDERS.items()}
        seconds, results = fastest(runs, options.repeats)
        for contender, found in results.items():
            likeness = float((found == results["loop over shifts, roll"]).float().mean())
            assert likeness > (0.6 if "bf16" in contender else 0.9), (
                f"{contender} on {name} finds other clips: {likeness:.1%} of the values agree"
            )
        table(f"{STEPS} steps on {name}", seconds, "robustvideo")


if __name__ == "__main__":
    main()
