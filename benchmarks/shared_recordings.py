"""Which clips of a manifest's test and validation parts show a recording that training shows as well.

    python benchmarks/shared_recordings.py --data 'manifest:clips.csv?divide=6,1,3' [--alike 0.8] [--run RUN ...]

A clip stands for its median frame over time, small and without its brightness and contrast; clips whose medians
correlate above ``--alike`` are taken for one recording: a camera that does not move sees the same place. (A moving
camera is not found, and two places may look alike: look at the pairs that are printed.) With runs, accuracy without an
attack on the test clips that share a recording with training, and on the others, over all runs given.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import robustvideo as rv
from robustvideo.evaluation.records import CLEAN
from robustvideo.evaluation.run import open_run

PARTS = ("train", "val", "test")


def medians(data: rv.data.VideoDataset) -> Tensor:
    """(clips, values) median frames with mean 0 and standard deviation 1."""
    frames = torch.stack([data.clip(i).video[0].median(1).values.flatten() for i in range(len(data))])
    return (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="spec without split, frames and size")
    parser.add_argument("--alike", type=float, default=0.8)
    parser.add_argument("--run", nargs="*", default=[])
    options = parser.parse_args()
    mark = "&" if "?" in options.data else "?"
    parts = {p: rv.load_data(f"{options.data}{mark}split={p}&frames=8&size=32&pad=loop") for p in PARTS}
    seen = {part: medians(data) for part, data in parts.items()}
    shared: set[str] = set()
    for part in ("val", "test"):
        alike = seen[part] @ seen["train"].T / seen["train"].shape[1] > options.alike
        found = [(i, alike[i].nonzero()[:, 0].tolist()) for i in range(len(alike)) if alike[i].any()]
        print(f"{part}: {len(found)} of {len(alike)} clips share a recording with training")
        for i, others in found:
            own, train = parts[part].samples[i], [parts["train"].samples[j] for j in others]
            names = ", ".join(f"{s.id} ({parts['train'].labels[s.label]})" for s in train)
            print(f"  {own.id} ({parts[part].labels[own.label]}): {names}")
            if part == "test":
                shared.add(own.id)
    right = {True: [0, 0], False: [0, 0]}
    for path in options.run:
        for record in open_run(path).records():
            if record.attack == CLEAN and record.status == "ok":
                counts = right[record.sample_id in shared]
                counts[0] += record.clean_prediction == record.label
                counts[1] += 1
    for kind, (hits, total) in right.items():
        if total:
            print(
                f"{'shared' if kind else 'other'} test clips: {hits} of {total} recognised, {100 * hits / total:.0f} %"
            )


if __name__ == "__main__":
    main()
