"""`Purifier`: a frozen configuration that takes perturbations out of clips before a model sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final, get_args

from torch import nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError, unknown
from robustvideo.randomness import seed_for
from robustvideo.registry import Registry, allow_nested, spec_of
from robustvideo.spec import Call, format_call, parse_call
from robustvideo.threat.box import into_box

Gradient = Literal["bpda", "exact", "surrogate"]
Aggregate = Literal["majority", "mean"]


@dataclass(frozen=True)
class Purifier(ABC):
    """Base of every purifier: ``@defenses.register("name")`` in a file of this package.

    A purifier answers with one clip, or with several: its votes. `robustvideo.purification.Defended` classifies each
    and makes one verdict of them.

    Attributes:
        gradient: what an attack's gradient knows of the purifier. The verdict is always behind the purifier.

            * ``none``: nothing; the gradient is the undefended model's (gray-box).
            * ``bpda``: the model's gradient at the purified clip, passed on as if purification were something that
              can be differentiated, ``surrogate`` (Athalye et al. 2018).
            * ``exact``: differentiated through, where the purifier can be.
            * ``surrogate``: that of the model behind ``surrogate``, a cheaper purifier whose gradient can be had
              (Lee and Kim 2023).

            Default: exact where there is one, else bpda.
        surrogate: what stands in for the purifier in a gradient; ``identity`` is a name for the identity. Default:
            the purifier's own stand-in where it has one, else the identity.
        votes: purifications per clip, each with fresh draws; more than one needs a purifier that draws. Default 1.
        aggregate: the verdict of several votes: the ``majority`` of their classes (VideoPure, Algorithm 1), or the
            class of their ``mean`` logits.
        seed: seeds the draws, with each clip's id.

    Raises:
        InputError: a gradient that the purifier does not have, several votes of one that always answers the same, or
            a value out of its range.
    """

    registered_name: ClassVar[str]

    differentiable: ClassVar[bool] = False
    """Whether ``gradient=exact`` exists."""

    gradient_only: ClassVar[tuple[str, ...]] = ("gradient", "surrogate")
    """Parameters that change what an attack's gradient sees and never an answer."""

    gradient: Gradient | None = "bpda"
    surrogate: Purifier | None = None
    votes: int = 1
    aggregate: Aggregate = "majority"
    seed: int = 0

    def __post_init__(self) -> None:
        name = self.registered_name
        if self.gradient is not None and self.gradient not in get_args(Gradient):
            raise unknown("gradient mode", self.gradient, ("none", *get_args(Gradient)))
        if self.gradient == "exact" and not self.differentiable:
            raise InputError(f"{name} cannot be differentiated: give it gradient=bpda, with a surrogate= if you like.")
        if self.gradient == "surrogate" and self.stand_in() is None:
            raise InputError(f"gradient=surrogate of {name} needs surrogate=, a purifier that can be differentiated.")
        if self.surrogate is not None and self.gradient not in ("bpda", "surrogate"):
            raise InputError(f"surrogate= of {name} goes with gradient=bpda or gradient=surrogate.")
        if self.aggregate not in get_args(Aggregate):
            raise unknown("aggregate", self.aggregate, get_args(Aggregate))
        if self.votes < 1:
            raise InputError(f"{name} needs at least one vote, got votes={self.votes}.")
        if self.votes > 1 and not self.random:
            raise InputError(f"{name} answers the same every time: it has one vote, got votes={self.votes}.")

    @property
    def random(self) -> bool:
        """Whether other seeds give another answer."""
        return False

    @property
    def window(self) -> int | None:
        """Frames of a long video that it takes at once where nobody says otherwise; None for the whole."""
        return None

    @property
    def spec(self) -> str:
        """The spec string that `load_defense` builds an equal purifier from."""
        return spec_of(self)

    def network(self) -> nn.Module | None:
        """The network it works with, newly loaded, in evaluation mode; None when there is none.

        Who purifies holds it, moves it to a device and freezes it. A purifier itself is plain configuration.

        Raises:
            InputError: its weights cannot be had.
        """
        return None

    @property
    def weights(self) -> Hashable:
        """What `network` is loaded from: purifiers of equal weights can share it. Default: the purifier."""
        return self

    def sharing(self, network: nn.Module) -> nn.Module | None:
        """What `network` returns, made of the network of a purifier of equal `weights` as far as that has it.

        Default: the very same.
        """
        return network

    def stand_in(self) -> Purifier | None:
        """What is differentiated in its place; None for the identity. Default: ``surrogate``."""
        return self.surrogate

    def single(self) -> Purifier:
        """The purifier that answers with one of its votes, for who wants a video and no verdict. Default: the first."""
        return replace(self, votes=1)

    def seeds(self, clip: Clip) -> list[int]:
        """One seed per clip, of the purifier's seed and the clip's id."""
        return [seed_for(self.seed, "purify", name) for name in clip.ids]

    @final
    def purify(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None = None) -> tuple[Clip, ...]:
        """The purified clips: ``votes`` times those of one purification, in that order.

        Each has the shape, type and device of ``clip``, its ids and its sound, and lies in [0, 1]. A clip's answer
        depends on the clip and its seed, not on its batch. Differentiable where `differentiable` is.

        Args:
            clip: video (B, C, T, H, W) in [0, 1]; values outside (a point that an attack looks at) are clamped.
            seeds: one per clip. The same seed makes the same draws again, also when a backward pass recomputes.
            network: what `network` returned, on the clip's device. Default: loaded anew.

        Raises:
            InputError: a clip that it cannot take, or a number of seeds that is not the batch's.
        """
        if len(seeds) != len(clip):
            raise InputError(f"A batch of {len(clip)} clips needs as many seeds, got {len(seeds)}.")
        if network is None:
            network = self.network()
        inside = clip.with_signal("video", into_box(clip.video))
        answers: list[Clip] = []
        for own in self.seeds_of_votes(seeds):
            answers += self.once(inside, own, network)
        return tuple(answers)

    def seeds_of_votes(self, seeds: Sequence[int]) -> list[Sequence[int]]:
        """The seeds of each of the ``votes``; the first has those that are given."""
        return [seeds, *([seed_for(seed, "vote", vote) for seed in seeds] for vote in range(1, self.votes))]

    @abstractmethod
    def once(self, clip: Clip, seeds: Sequence[int], network: nn.Module | None) -> Sequence[Clip]:
        """One purification of clips in [0, 1]; see `purify`."""


defenses: Registry[Purifier] = Registry("defense", "defenses", "robustvideo.purification")
allow_nested(Purifier, defenses)


def answering(spec: str) -> str:
    """A purifier's spec without its `Purifier.gradient_only` parameters: equal for purifiers that answer alike.

    A purifier that is not installed here is taken to have those of the base.

    Raises:
        InputError: no spec.
    """
    call = parse_call(spec)
    kind = defenses.get(call.name) if call.name in defenses.entries() else Purifier
    kept = {name: value for name, value in call.arguments.items() if name not in kind.gradient_only}
    return format_call(Call(call.name, kept))


def load_defense(spec: str) -> Purifier:
    """Build a purifier from its spec, such as ``jpeg(quality=50)``.

    Raises:
        InputError: an unknown defense, a misspelt parameter, or a value out of range; ``none``, which is no purifier.
    """
    if spec.strip() == "none":
        raise InputError("none is no purifier, it changes nothing: `robustvideo list defenses` names those that do.")
    return defenses.build(spec)
