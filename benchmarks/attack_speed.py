"""PGD-10 on r3d_18 at 16x112x112: robustvideo against its peers and against a bare loop, in one process.

    python benchmarks/attack_speed.py [--clips 4] [--repeats 3]

Every contender gets the same network, clips, labels, budget (Linf 8/255), steps (10), step size (2/255) and no random
start, takes all ten steps on every clip, and then has its clips rounded to 8 bits and classified in fp32: that
verdict is part of the time, because everyone needs it. The contenders run in turn, A B C A B C, and the table shows
medians of the repeats, as ratios, with the robust accuracy each reached. The network is randomly initialised (no
weights can be downloaded); its labels are its own clean predictions, so that clean accuracy is 100 %.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.models.video import r3d_18

import robustvideo as rv
from robustvideo.attacks import IFGSM
from robustvideo.attacks.attack import margin

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
Contender = Callable[[torch.nn.Module, Tensor, Tensor], Tensor]


def bare_loop(precision: str) -> Contender:
    """Ten forward and backward passes and sign steps, nothing else: the floor."""

    def run(network: torch.nn.Module, video: Tensor, labels: Tensor) -> Tensor:
        network = network.requires_grad_(False)
        if precision == "bf16":
            network = network.to(memory_format=torch.channels_last_3d)
            video = video.contiguous(memory_format=torch.channels_last_3d)
        adversarial = video.clone()
        for _ in range(STEPS):
            adversarial.requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = network(adversarial)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            moved = adversarial.detach() + STEP * gradient.sign()
            adversarial = (video + (moved - video).clamp(-EPS, EPS)).clamp(0, 1)
        return adversarial.detach()

    return run


def ours(precision: str, early_stop: bool = False) -> Contender:
    attack = IFGSM(eps=EPS, steps=STEPS, step_size=STEP, precision=precision, early_stop=early_stop)

    def run(network: torch.nn.Module, video: Tensor, labels: Tensor) -> Tensor:
        model = rv.wrap(network, frames=None, size=None)
        return attack(model, rv.Clip(video), labels).clip.video

    return run


def torchattacks(network: torch.nn.Module, video: Tensor, labels: Tensor) -> Tensor:
    import torchattacks as peer

    return peer.PGD(network, eps=EPS, alpha=STEP, steps=STEPS, random_start=False)(video, labels)


def foolbox(network: torch.nn.Module, video: Tensor, labels: Tensor) -> Tensor:
    import foolbox as peer

    model = peer.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attack = peer.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False)
    return attack(model, video, labels, epsilons=EPS)[1]


def art(network: torch.nn.Module, video: Tensor, labels: Tensor) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        network,
        torch.nn.CrossEntropyLoss(),
        input_shape=tuple(video.shape[1:]),
        nb_classes=400,
        clip_values=(0, 1),
        device_type="cpu",
    )
    attack = ProjectedGradientDescent(
        classifier, eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=0, batch_size=len(video), verbose=False
    )
    return torch.from_numpy(attack.generate(video.numpy(), y=np.eye(400)[labels.numpy()]))


CONTENDERS: dict[str, Contender] = {
    "bare loop, fp32": bare_loop("fp32"),
    "bare loop, bf16": bare_loop("bf16"),
    "robustvideo, fp32": ours("fp32"),
    "robustvideo, bf16": ours("bf16"),
    "robustvideo, bf16, early stop": ours("bf16", early_stop=True),
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "ART": art,
}


def verdict(network: torch.nn.Module, video: Tensor, labels: Tensor) -> tuple[float, float]:
    """Robust accuracy of the stored clips, and the mean margin of the attack: how far past the boundary it got."""
    stored = (video * 255).round() / 255
    with torch.no_grad():
        margins = margin(network.eval()(stored), labels)
    return float((margins <= 0).float().mean()), float(margins.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="contenders whose name contains one of these")
    options = parser.parse_args()
    torch.manual_seed(0)
    reference = r3d_18(weights=None).eval()
    weights = reference.state_dict()
    video = (torch.rand(options.clips, 3, 16, 112, 112) * 255).round() / 255
    with torch.no_grad():
        labels = reference(video).argmax(1)
    chosen = {
        name: run for name, run in CONTENDERS.items() if not options.only or any(part in name for part in options.only)
    }
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    accuracy: dict[str, tuple[float, float]] = {}
    for _ in range(options.repeats):
        for name, run in chosen.items():
            network = r3d_18(weights=None).eval()
            network.load_state_dict(weights)
            start = time.perf_counter()
            adversarial = run(network, video.clone(), labels)
            accuracy[name] = verdict(network, adversarial, labels)
            seconds[name].append(time.perf_counter() - start)
    floor = statistics.median(seconds.get("bare loop, bf16", next(iter(seconds.values()))))
    mine = statistics.median(seconds.get("robustvideo, bf16", [floor]))
    print(f"{options.clips} clips, median of {options.repeats}, {torch.get_num_threads()} threads")
    print("| contender | seconds | x bare bf16 loop | x robustvideo bf16 | robust accuracy | mean margin |")
    print("|---|---|---|---|---|---|")
    for name, times in seconds.items():
        now = statistics.median(times)
        robust, past = accuracy[name]
        print(f"| {name} | {now:.2f} | {now / floor:.2f} | {now / mine:.2f} | {robust:.1%} | {past:.3f} |")


if __name__ == "__main__":
    main()
