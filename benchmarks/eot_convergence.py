"""How far a gradient through a purifier that draws agrees with another one, by how many draws each averages over.

    python benchmarks/eot_convergence.py [--clips 8] [--gradient exact] [--threads 1]

Two gradients of the cross-entropy at the clean clips, each the mean over R draws of its own (`Expectation`). With a
signal of squared length S and noise of squared length N in one draw, their cosine is about ``S / (S + N / R)``; the
ratio S / N of one draw, estimated from the largest R, says how many draws an attack needs. What draws nothing agrees
with itself at any R, and is shown as such.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

import robustvideo as rv
from robustvideo.attacks.attack import Problem
from robustvideo.attacks.averaged import Expectation
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import CrossEntropy
from robustvideo.data.dataset import collate
from robustvideo.model import at_rest
from robustvideo.purification import Defended, load_defense

PURIFIERS = {
    "DiffPure, DDPM, 11 substeps": "diffpure_ddpm(substeps=11, precision=bf16, gradient={0})",
    "DiffPure, DDIM": "diffpure_ddim(precision=bf16, gradient={0})",
    "DDIM inversion": "ddim_inversion(precision=bf16, gradient={0})",
    "VideoPure": "videopure(precision=bf16, gradient={0})",
}
COPIES = (1, 2, 4, 8, 16)


def averaged(problem: Problem, copies: int, which: int) -> torch.Tensor:
    """Flat gradients (B, n); another ``which`` has other draws."""
    zero = (torch.zeros_like(problem.clip.video),)
    return Expectation(plain, copies)(problem, CrossEntropy(), zero, which).gradients[0].flatten(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--gradient", default="exact", choices=["exact", "bpda"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    victim = rv.load_model("embedded:r3d")
    data = rv.load_data(f"embedded:kinetic?split=test&clips={options.clips}")
    clip, labels = collate([data[i] for i in range(options.clips)])
    print("| defence | " + " | ".join(f"R = {copies}" for copies in COPIES) + " | signal / noise of one draw |")
    print("| --- |" + " --- |" * (len(COPIES) + 1))
    for name, spec in PURIFIERS.items():
        model = Defended(victim, load_defense(spec.format(options.gradient)))
        problem = rv.attacks.PGD(eps=8 / 255).problem(model, clip, labels)
        with at_rest(model):
            cosines = [
                float(F.cosine_similarity(averaged(problem, copies, 0), averaged(problem, copies, 1)).mean())
                for copies in COPIES
            ]
        last = cosines[-1]
        ratio = "draws nothing" if last > 0.999 else f"{last / (COPIES[-1] * (1 - last)):.3f}"
        print(f"| {name} | " + " | ".join(f"{cosine:.2f}" for cosine in cosines) + f" | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
