"""`Method`: what is trained for. A method turns batches into losses; one trainer runs them all.

A method is a generator of losses. Each loss it yields for a batch is one update of the weights, made before the
method goes on: a method of one update per batch yields once, one that replays a batch m times yields m times, and
one that trains parts of a network in turn yields once per part.

Most methods are that generator alone. One that trains more than the network names its `companions` and `parts`; one
that must look at the whole between epochs has a `before_epoch`; what it must not forget is in its ``memory``, which
every checkpoint holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.model import Model
from robustvideo.registry import Registry, allow_nested, spec_of

Memory = dict[str, Any]
"""What a method remembers from batch to batch: numbers, text, lists and tensors by name. Saved with checkpoints."""


@dataclass(frozen=True, eq=False)
class Step:
    """One batch, and where training stands.

    Attributes:
        forward: maps a clip to logits (B, K) in fp32. Losses are taken through it: it is in training mode and in the
            recipe's precision.
        network: the network behind ``forward``, in fp32, on its own. Attacks work on it. A method may set modes of
            its parts; everything is in training mode again before the next batch.
        clip: the clean clips.
        labels: (B,) classes.
        progress: share of the training that is done, in [0, 1); the same for all parts of a batch.
        seed: a number of this batch and epoch alone.
        epoch: number of the epoch, from 0.
        epochs: how many there are.
        companions: what the method's `companions` returned.
        memory: see `Memory`.
        autocast: opens the recipe's precision, as ``forward`` does, for passes through parts of the network.
    """

    forward: Callable[[Clip], Tensor]
    network: Model
    clip: Clip
    labels: Tensor
    progress: float
    seed: int
    epoch: int = 0
    epochs: int = 1
    companions: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    memory: Memory = field(default_factory=dict)
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True, eq=False)
class Stage:
    """Where training stands between two epochs.

    Attributes:
        network, companions, memory: see `Step`.
        epoch: number of the epoch about to start, from 0.
        epochs: how many there are.
        seed: a number of this epoch alone.
        sample: given a number, batches of as many training clips, not augmented: the same ones every time, drawn by
            the recipe's seed; all clips where there are no more.
    """

    network: Model
    companions: nn.ModuleDict
    memory: Memory
    epoch: int
    epochs: int
    seed: int
    sample: Callable[[int], Iterator[tuple[Clip, Tensor]]]


@dataclass(frozen=True, eq=False)
class Loss:
    """What one update minimises.

    Attributes:
        value: scalar, the mean over the batch.
        metrics: further scalars to log, means over the batch; the same names whenever this loss is yielded.
        parts: names of the parts to update; None updates all. Gradients of other parts are not even computed.
        leaves: tensors besides the weights whose ``grad`` the method reads after the update.
    """

    value: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    parts: tuple[str, ...] | None = None
    leaves: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Part:
    """Parameters that are updated together.

    Attributes:
        parameters: none of them in another part that a loss updates too.
        optimizer: builds their optimizer; None takes the recipe's. The recipe's schedule scales every rate.
    """

    parameters: Iterable[nn.Parameter]
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None


@dataclass(frozen=True)
class Method(ABC):
    """Base of every training method: a frozen configuration."""

    registered_name: ClassVar[str]

    @abstractmethod
    def losses(self, step: Step) -> Iterator[Loss]:
        """The losses of one batch; the weights are updated after each, before the next is asked for."""

    def companions(self, network: Model) -> nn.ModuleDict:
        """Networks that are trained beside the network and not exported with it. Default: none.

        Raises:
            InputError: a network that the method cannot train.
        """
        return nn.ModuleDict()

    def parts(self, network: Model, companions: nn.ModuleDict) -> Mapping[str, Part]:
        """What is trained, by name. Default: the whole network, as "network"."""
        return {"network": Part(network.parameters())}

    def before_epoch(self, stage: Stage) -> Mapping[str, float]:
        """Anything to do before an epoch starts; what it returns is logged with the epoch. Default: nothing."""
        return {}

    @property
    def for_accuracy(self) -> bool:
        """Whether accuracy on clean clips tells a better epoch from a worse one. Default: not."""
        return False

    @property
    def spec(self) -> str:
        """The spec string that builds an equal method."""
        return spec_of(self)


trainings: Registry[Method] = Registry("training", "trainings", "robustvideo.training")
allow_nested(Method, trainings)


def load_training(spec: str) -> Method:
    """Build a training method from its spec, such as ``at(attack=pgd(eps=4/255, steps=5))``.

    Raises:
        InputError: an unknown method, a misspelt parameter, or a value out of range.
    """
    return trainings.build(spec)
