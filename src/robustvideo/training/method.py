"""`Method`: what is trained for. A method turns batches into losses; one trainer runs them all.

A method is a generator of losses. Each loss it yields for a batch is one update of the weights, made before the
method goes on: a method of one update per batch yields once, one that replays a batch m times yields m times, and
one that trains parts of a network in turn yields once per part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from robustvideo.clip import Clip
from robustvideo.model import Model
from robustvideo.registry import Registry, allow_nested, spec_of


@dataclass(frozen=True, eq=False)
class Step:
    """One batch, and where training stands.

    Attributes:
        forward: maps a clip to logits (B, K) in fp32. Losses are taken through it: it is in training mode, in the
            recipe's precision, and spread over devices.
        network: the network behind ``forward``, in fp32, on its own. Attacks work on it.
        clip: the clean clips.
        labels: (B,) classes.
        progress: share of the training that is done, in [0, 1); the same for all parts of a batch.
        seed: a number of this batch and epoch alone.
    """

    forward: Callable[[Clip], Tensor]
    network: Model
    clip: Clip
    labels: Tensor
    progress: float
    seed: int


@dataclass(frozen=True, eq=False)
class Loss:
    """What one update minimises.

    Attributes:
        value: scalar, the mean over the batch.
        metrics: further scalars to log, means over the batch; the same names at every step.
    """

    value: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Method(ABC):
    """Base of every training method: a frozen configuration."""

    registered_name: ClassVar[str]

    @abstractmethod
    def losses(self, step: Step) -> Iterator[Loss]:
        """The losses of one batch; the weights are updated after each, before the next is asked for."""

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
