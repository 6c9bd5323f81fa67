"""Alterations: what a defence adds to a network, whichever network it is.

A model spec takes one, or several in brackets, as ``with=``::

    embedded:r3d?with=ape_gan()
    r2plus1d_small?with=oud(after='module.2')
    torchvision:r3d_18?weights=KINETICS400_V1&with=[multi_bn(branches=3), ape_gan(width=32)]

The base network gets its own weights first (``weights=``, ``checkpoint=``); what the alteration adds is untrained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustvideo.errors import InputError
from robustvideo.registry import Registry
from robustvideo.spec import Call, parse_call, parse_value

if TYPE_CHECKING:
    from robustvideo.model import Model


@dataclass(frozen=True)
class Alteration(ABC):
    """Base of every alteration: a frozen configuration, ``@alterations.register("name")`` in a file of this package."""

    registered_name: ClassVar[str]

    @abstractmethod
    def apply(self, model: Model) -> Model:
        """The altered model; ``model`` is used up. New weights are drawn from torch's global random state.

        Raises:
            InputError: a model that has nothing to alter.
        """


alterations: Registry[Alteration] = Registry("alteration", "alterations", "robustvideo.models")


def load_alterations(text: str) -> list[Alteration]:
    """What a spec's ``with=`` names, in order: ``oud()``, ``oud``, or ``[oud(), ape_gan(width=8)]``.

    Raises:
        InputError: an unknown name, a misspelt parameter or a value out of range.
    """
    value = parse_value(text)
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(call, Call | str) for call in calls):
        raise InputError(f"Cannot read with={text}: name alterations, like with=oud() or with=[oud(), ape_gan()].")
    return [alterations.build(call if isinstance(call, Call) else parse_call(call)) for call in calls]
