"""Attacks. Each is a frozen configuration; see `Attack`. ``robustvideo list attacks`` names them all."""

from robustvideo.attacks.apgd import APGDCE as APGDCE
from robustvideo.attacks.apgd import APGDDLR as APGDDLR
from robustvideo.attacks.apgd import APGDT as APGDT
from robustvideo.attacks.attack import Attack as Attack
from robustvideo.attacks.attack import AttackResult as AttackResult
from robustvideo.attacks.attack import attacks as attacks
from robustvideo.attacks.autoattack import AutoAttack as AutoAttack
from robustvideo.attacks.autoattack import AutoAttackResult as AutoAttackResult
from robustvideo.attacks.boundary import Boundary as Boundary
from robustvideo.attacks.codec_expectation import CodecPGD as CodecPGD
from robustvideo.attacks.deepsava import DeepSAVA as DeepSAVA
from robustvideo.attacks.divergence import DivergencePGD as DivergencePGD
from robustvideo.attacks.experts import PGDE as PGDE
from robustvideo.attacks.experts import TLAE as TLAE
from robustvideo.attacks.fab import FABT as FABT
from robustvideo.attacks.fgsm import FGSM as FGSM
from robustvideo.attacks.fgsm import IFGSM as IFGSM
from robustvideo.attacks.flickering import Flickering as Flickering
from robustvideo.attacks.flickering import universal_flicker as universal_flicker
from robustvideo.attacks.flickering import with_flicker as with_flicker
from robustvideo.attacks.frame_saliency import FrameSaliency as FrameSaliency
from robustvideo.attacks.joint import JTLA as JTLA
from robustvideo.attacks.joint import JTLGA as JTLGA
from robustvideo.attacks.masked import FrameBorder as FrameBorder
from robustvideo.attacks.masked import MaskedPGD as MaskedPGD
from robustvideo.attacks.mean_loss import MeanLoss as MeanLoss
from robustvideo.attacks.mig import MIG as MIG
from robustvideo.attacks.misalignment import MMA as MMA
from robustvideo.attacks.momentum import MIFGSM as MIFGSM
from robustvideo.attacks.momentum import NIFGSM as NIFGSM
from robustvideo.attacks.nes import NES as NES
from robustvideo.attacks.noise import Noise as Noise
from robustvideo.attacks.pam import PAM as PAM
from robustvideo.attacks.pgd import PGD as PGD
from robustvideo.attacks.router import PGDR as PGDR
from robustvideo.attacks.router import TLAR as TLAR
from robustvideo.attacks.router import TLGAR as TLGAR
from robustvideo.attacks.simba import SimBA as SimBA
from robustvideo.attacks.sparse import OneFrame as OneFrame
from robustvideo.attacks.sparse import Sparse as Sparse
from robustvideo.attacks.square import Square as Square
from robustvideo.attacks.temporal_invariance import TIA as TIA
from robustvideo.attacks.temporal_translation import TemporalTranslation as TemporalTranslation
from robustvideo.attacks.tla import TLAM as TLAM
from robustvideo.attacks.tma import TMA as TMA
from robustvideo.attacks.vote_margin import VotePGD as VotePGD
from robustvideo.models.ensemble import Ensemble as Ensemble


def load_attack(spec: str) -> Attack:
    """Build an attack from its spec, such as ``pgd(eps=8/255, steps=20)``.

    Raises:
        InputError: an unknown attack, a misspelt parameter, or a value out of range.
    """
    return attacks.build(spec)
