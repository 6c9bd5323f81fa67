"""What a batch of each training costs, beside one of standard training."""

from __future__ import annotations

import time
from functools import cache

import torch
from demonstrations import NOTHING, Demonstration
from showcase import Example

import robustvideo as rv
from robustvideo.clip import concatenate
from robustvideo.training.method import Method, Step, load_training

CLIPS = 2

_LONG = 0.5  # seconds, beyond which a second try tells nothing new

WITHOUT = {"aat", "deepsava_inject", "j_tlat"}
"""Trainings of which one batch does not tell the cost: they do other things in other epochs, or between them."""


@cache
def seconds(training: str, model: str, data: str) -> float:
    """CPU time of one batch: attacks, losses and backward passes; the shorter of two where it is short."""
    clips = rv.load_data(data)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = rv.load_model(model)
        method = load_training(training)
        companions = method.companions(network)
        first = _batch(method, network, companions, clips)
        return first if first > _LONG else min(first, _batch(method, network, companions, clips))


def _batch(method: Method, network: rv.Model, companions: torch.nn.ModuleDict, clips: rv.VideoDataset) -> float:
    pairs = [clips[number] for number in range(CLIPS)]
    step = Step(
        forward=network.train(),
        network=network,
        companions=companions.train(),
        clip=concatenate([clip for clip, _ in pairs]),
        labels=torch.tensor([label for _, label in pairs]),
        progress=0.5,
        seed=0,
    )
    start = time.process_time()
    for loss in method.losses(step):
        loss.value.backward()
        for module in (network, companions):
            module.zero_grad()
    return time.process_time() - start


def of_training(name: str, spec: str, example: Example) -> Demonstration:
    """A training's time beside that of standard training of the same network without a part of the method's own."""
    if name in WITHOUT:
        return NOTHING
    plain = example.model.partition("with=")[0].rstrip("?&")
    times = seconds(spec, example.model, example.data) / seconds("standard", plain, example.data)
    cost = f"{times:.1f}" if times < 3 else f"{times:.0f}"
    said = (
        f"## Cost\n\nA batch of `{spec}` takes about **{cost}** times as long as one of `standard` on "
        f"`{plain}`: attacks, losses and backward passes of {CLIPS} clips on one core, while this page was built."
    )
    return Demonstration(cost, said)
