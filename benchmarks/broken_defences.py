"""The trust checks on five broken defences and two honest models, as a table in Markdown.

    python benchmarks/broken_defences.py

A broken defence is caught when the line that should catch it fails; an honest model passes when every applicable line
does. The models are those of tests/evaluation/test_trust_defenses.py.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from robustvideo.attacks import PGD
from robustvideo.evaluation.run import Manifest, Run, environment
from robustvideo.evaluation.trust import examine
from robustvideo.evaluation.trust.check import DIFFERENCES, GRADIENTS, RANDOMNESS, SUBSTITUTION, Check
from robustvideo.model import Model


def main() -> None:
    torch.set_num_threads(1)
    sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "evaluation")]
    subjects = importlib.import_module("test_trust_defenses")
    behind = subjects.Behind
    broken: list[tuple[str, str, Callable[[], Model]]] = [
        ("logits scaled until the softmax saturates", GRADIENTS, lambda: behind(scale=1000.0)),
        ("a quantiser that stops the gradient", GRADIENTS, lambda: behind(lambda video: (video * 15).round() / 15)),
        ("a purifier that is detached", DIFFERENCES, lambda: behind(lambda video: subjects.blurred(video).detach())),
        ("resizing at random, by no seed", RANDOMNESS, lambda: behind(subjects.resized)),
        ("hard routing to one of two experts", SUBSTITUTION, subjects.routed),
    ]

    def examined(model: Model, name: str, attack: PGD, clips: int, queries: int) -> list[Check]:
        facts = {"model_digest": name, "data_fingerprint": subjects.DATA.fingerprint()}
        manifest = Manifest(model={"spec": name}, configuration=facts, environment={**environment(), "device": "cpu"})
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder), manifest)
            return examine(model, subjects.DATA, [], [attack], run=run, clips=clips, queries=queries)

    start = time.perf_counter()
    caught = passed = 0
    print("| model | line that should fail | verdict | all that fail | all that warn |\n|---|---|---|---|---|")
    for name, line, build in broken:
        checks = examined(build(), name, subjects.QUICK, 4, 20)
        verdict = next(check.grade for check in checks if check.name == line)
        caught += verdict == "fail"
        print(f"| {name} | {line} | {verdict} | {_names(checks, 'fail')} | {_names(checks, 'warn')} |")
    for name in ("r3d_at", "r3d"):
        checks = examined(subjects.network(name), f"embedded:{name}", PGD(eps=8 / 255, steps=20), 8, 60)
        doubts = _names(checks, "fail") + _names(checks, "warn")
        passed += not doubts
        print(f"| honest: `embedded:{name}` | none | {'fail' if doubts else 'pass'} | {doubts or 'none'} | none |")
    seconds = time.perf_counter() - start
    print(f"\n{caught} of {len(broken)} broken defences are caught by the line that should catch them;")
    print(f"{passed} of 2 honest models pass every applicable line ({seconds:.0f} s, one thread).")
    sys.exit(caught < len(broken) or passed < 2)


def _names(checks: list[Check], grade: str) -> str:
    return ", ".join(check.name for check in checks if check.grade == grade)


if __name__ == "__main__":
    main()
