"""Attacks. Each is a frozen configuration; see `Attack`. ``robustvideo list attacks`` names them all."""

from robustvideo.attacks.attack import Attack as Attack
from robustvideo.attacks.attack import AttackResult as AttackResult
from robustvideo.attacks.attack import attacks as attacks
from robustvideo.attacks.fgsm import FGSM as FGSM
from robustvideo.attacks.fgsm import IFGSM as IFGSM
from robustvideo.attacks.momentum import MIFGSM as MIFGSM
from robustvideo.attacks.momentum import NIFGSM as NIFGSM
from robustvideo.attacks.noise import Noise as Noise
from robustvideo.attacks.pgd import PGD as PGD


def load_attack(spec: str) -> Attack:
    """Build an attack from its spec, such as ``pgd(eps=8/255, steps=20)``.

    Raises:
        InputError: an unknown attack, a misspelt parameter, or a value out of range.
    """
    return attacks.build(spec)
