"""A network behind a generator, and the updates of a batch by hand: what the tests of ape and gat share."""

from __future__ import annotations

import copy

import torch
from driving import a_step, network
from torch import Tensor, nn

from robustvideo.models.generator import BehindGenerator, Generator
from robustvideo.training import load_training
from robustvideo.training.generative import Generative
from robustvideo.training.method import Loss, Method, Step

PGD = "pgd(eps=8/255, steps=1, early_stop=false)"


def behind(seed: int = 0) -> BehindGenerator:
    torch.manual_seed(seed)
    return BehindGenerator(Generator(2), network(seed)).train()


def a_generative(spec: str) -> Generative:
    method = load_training(spec)
    assert isinstance(method, Generative)
    return method


def started(method: Method, model: BehindGenerator, **changes: object) -> Step:
    torch.manual_seed(3)
    return a_step(model, companions=method.companions(model).train(), **changes)


def play(method: Method, step: Step) -> list[tuple[Loss, set[str]]]:
    """Every update of a batch as the trainer makes it; each loss, and the names of the tensors that it changed."""
    parts = method.parts(step.network, step.companions)
    optimizers = {
        name: (part.optimizer or (lambda p: torch.optim.SGD(p, 0.1)))(list(part.parameters))
        for name, part in parts.items()
    }
    whole = nn.ModuleDict({"network": step.network, **step.companions})
    seen = []
    before = copy.deepcopy(whole.state_dict())
    for loss in method.losses(step):
        named = list(parts) if loss.parts is None else loss.parts
        wanted = [p for name in named for group in optimizers[name].param_groups for p in group["params"]]
        loss.value.backward(inputs=wanted)
        for name in named:
            optimizers[name].step()
            optimizers[name].zero_grad()
        after = whole.state_dict()
        weights = dict(whole.named_parameters())
        seen.append((loss, {key for key in weights if not torch.equal(after[key], before[key])}))
        before = copy.deepcopy(after)
    return seen


def homes(changed: set[str]) -> set[str]:
    return {".".join(key.split(".")[:2]) if key.startswith("network") else key.split(".")[0] for key in changed}


class Says(nn.Module):
    """A discriminator with one answer."""

    def __init__(self, logit: float):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, video: Tensor) -> Tensor:
        return self.logit.expand(len(video))
