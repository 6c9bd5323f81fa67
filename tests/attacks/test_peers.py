"""The same problem given to other libraries: where theirs is right, ours is the same to 1e-6.

They are built for images, so a clip of one frame is given to them as a picture.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustvideo.attacks import FGSM, IFGSM, MIFGSM
from robustvideo.attacks.attack import Attack
from robustvideo.clip import Clip
from robustvideo.model import Model
from robustvideo.threat import L2, Linf

EPS, STEPS = 8 / 255, 7


class Pictures(nn.Module):
    """A small classifier of (B, 3, H, W) pictures."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.head = nn.Linear(5 * 16, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.conv(pictures).tanh(), 4).flatten(1))


class OneFrame(Model):
    """The same classifier, of clips of one frame."""

    def __init__(self, pictures: nn.Module):
        super().__init__()
        self.pictures = pictures

    def forward(self, clip: Clip) -> Tensor:
        return self.pictures(clip.video[:, :, 0])


@pytest.fixture
def subject() -> tuple[Pictures, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return Pictures().eval(), torch.rand(6, 3, 12, 12, generator=random), torch.arange(6) % 3


def ours(attack: Attack, subject: Any) -> Tensor:
    pictures, x, labels = subject
    return attack(OneFrame(pictures), Clip(x[:, :, None]), labels).clip.video[:, :, 0]


def agree(a: Tensor, b: Tensor) -> None:
    """To 1e-6; a sign flips where a gradient is zero to within rounding, so a few values in a million may differ."""
    differing = ((a - b).abs() > 1e-6).float().mean()
    assert float(differing) < 1e-3, float(differing)


def linf(**options: Any) -> Linf:
    return Linf(EPS, stored=False, **options)


def test_torchattacks_bim(subject: Any) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    pictures, x, labels = subject
    theirs = torchattacks.BIM(pictures, eps=EPS, alpha=EPS / STEPS, steps=STEPS)(x, labels)
    agree(ours(IFGSM(linf(), steps=STEPS, early_stop=False), subject), theirs)


def test_torchattacks_pgd_without_random_start(subject: Any) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    pictures, x, labels = subject
    theirs = torchattacks.PGD(pictures, eps=EPS, alpha=2 / 255, steps=STEPS, random_start=False)(x, labels)
    agree(ours(IFGSM(linf(), steps=STEPS, step_size=2 / 255, early_stop=False), subject), theirs)


def test_torchattacks_fgsm_and_mifgsm(subject: Any) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    pictures, x, labels = subject
    agree(ours(FGSM(linf(), early_stop=False), subject), torchattacks.FGSM(pictures, eps=EPS)(x, labels))
    theirs = torchattacks.MIFGSM(pictures, eps=EPS, alpha=EPS / STEPS, steps=STEPS, decay=0.9)(x, labels)
    agree(ours(MIFGSM(linf(), steps=STEPS, decay=0.9, early_stop=False), subject), theirs)


def test_foolbox_bim(subject: Any) -> None:
    foolbox = pytest.importorskip("foolbox")
    pictures, x, labels = subject
    model = foolbox.PyTorchModel(pictures, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=EPS / STEPS, steps=STEPS, random_start=False)
    theirs = attack.run(model, x, foolbox.criteria.Misclassification(labels), epsilon=EPS)
    agree(ours(IFGSM(linf(), steps=STEPS, early_stop=False), subject), theirs)


def test_foolbox_l2_basic_iterative(subject: Any) -> None:
    foolbox = pytest.importorskip("foolbox")
    pictures, x, labels = subject
    model = foolbox.PyTorchModel(pictures, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.L2BasicIterativeAttack(abs_stepsize=0.5 / STEPS, steps=STEPS, random_start=False)
    theirs = attack.run(model, x, foolbox.criteria.Misclassification(labels), epsilon=0.5)
    found = ours(IFGSM(L2(0.5, stored=False), steps=STEPS, early_stop=False), subject)
    assert torch.allclose(found, theirs, atol=1e-5)
