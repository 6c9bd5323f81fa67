"""A simulated evaluation of many clips by a trivial model: memory, time, files, and what its report takes.

    python benchmarks/scale.py --clips 100000

Prints, every tenth of the run, seconds and peak memory so far (the Python process, in MB), then how many files the run
leaves, and the seconds to read its records, to build its report, and to load that page in a headless Chromium, where
there is one.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from robustvideo.attacks import FGSM
from robustvideo.clip import Clip
from robustvideo.data.dataset import Sample, VideoDataset
from robustvideo.evaluation import engine, evaluate
from robustvideo.evaluation.evaluation import MERGED_FROM
from robustvideo.model import Model
from robustvideo.report import build_report

SHAPE = (3, 4, 8, 8)


class Brightness(Model):
    """Two classes: whether a clip is brighter than middle grey."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, clip: Clip) -> Tensor:
        brighter = (clip.video.mean((1, 2, 3, 4)) - 0.5) * self.scale
        return torch.stack([-brighter, brighter], 1)


class Grey(VideoDataset):
    """Clips of one grey each, near the middle."""

    spec = "simulated:grey"
    labels = ("dark", "bright")

    def __init__(self, clips: int):
        self._samples = tuple(Sample(f"{i:07d}", i % 2) for i in range(clips))

    @property
    def samples(self) -> Sequence[Sample]:
        return self._samples

    def clip(self, index: int) -> Clip:
        level = 127.5 + (index % 2 - 0.5) * (1 + 2 * (index * 7 % 12))
        return Clip(torch.full((1, *SHAPE), level / 255), ids=(self._samples[index].id,))


def memory() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def simulate(clips: int, out: Path, batch_size: int = 32) -> list[tuple[float, float]]:
    """Evaluate, and return seconds and peak memory after every tenth of the clips."""
    start = time.perf_counter()
    marks: list[tuple[float, float]] = []

    class Watched(engine.Alone):
        done = 0

        def run(self, runner, done, advance) -> None:  # type: ignore[no-untyped-def]
            def tell(units: int, note: str) -> None:
                self.done += units
                if self.done >= (len(marks) + 1) * clips * runner.items_per_batch // 10:
                    marks.append((time.perf_counter() - start, memory()))

            super().run(runner, done, tell)

    attacks = [FGSM(eps=8 / 255)]
    run = evaluate(
        Brightness(), Grey(clips), attacks, out=out, batch_size=batch_size, save_clips=0, quiet=True, engine=Watched()
    )
    assert run.manifest.items >= MERGED_FROM or clips < 1000
    return marks


def seconds_to_load(page: Path) -> float | None:
    """Until a browser has laid the page out; None without one."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"]).new_page()
        start = time.perf_counter()
        window.goto(page.as_uri(), wait_until="load")
        window.evaluate("document.body.offsetHeight")
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        for tenth, (seconds, megabytes) in enumerate(simulate(arguments.clips, out, arguments.batch_size), 1):
            print(f"{tenth * arguments.clips // 10:>9} clips  {seconds:7.1f} s  peak {megabytes:6.0f} MB")
        files = list((out / "records").iterdir())
        print(f"{len(files)} files of records, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB")
        start = time.perf_counter()
        page = build_report([out])
        print(f"report built in {time.perf_counter() - start:.1f} s, {page.stat().st_size / 1e3:.0f} kB")
        loaded = seconds_to_load(page)
        print("no Chromium here to load it" if loaded is None else f"loaded in {loaded:.2f} s")


if __name__ == "__main__":
    main()
