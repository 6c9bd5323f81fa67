"""`Defended`: a model behind a purifier, which is a model itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, device_of
from robustvideo.purification.diffusion_model import Diffusion
from robustvideo.purification.diffusion_purifier import DiffusionPurifier
from robustvideo.purification.purifier import Purifier
from robustvideo.purification.recomputation import recomputed
from robustvideo.purification.votes import majority_logits


class PassCounter:
    """How often clips were purified. A copy of a defended model (a gradient twin) counts into the same one.

    Attributes:
        clips: purifications of one clip so far, each vote of a purifier that draws counted.
    """

    def __init__(self) -> None:
        self.clips = 0

    def __deepcopy__(self, memo: object) -> PassCounter:
        return self


class Defended(Model):
    """A model that sees purified clips; it is `robustvideo.model.Purified` and `robustvideo.model.Voting`.

    The purifier works on the stored video, before the model's own resizing and normalisation. Its draws are a
    function of its seed and each clip's id: the same clip gets the same verdict in any batch, and under another
    name it is purified afresh. That is how an attack takes an expectation over the draws (``eot=`` of gradient
    attacks gives every copy in every step of every start a name of its own), and how a clip is submitted again
    (`robustvideo.evaluation.resubmission`). An attack without ``eot`` knows the very draws of its verdict.

    A purifier's gradient mode decides about gradients alone. In mode ``none`` they are the undefended model's, and
    the verdict is still the defended one's; to keep that from an attack as well, craft the clips on the undefended
    model (``transfer_from`` of a suite).

    A pass that an attack counts is one of this model, of every vote of it; ``passes`` counts the purifications, and
    `diffusion_passes` what they cost.

    Args:
        model: the model to defend.
        purifier: what to put in front of it.
        network: what the purifier works with. Default: loaded.

    Attributes:
        passes: counts purifications.

    Raises:
        InputError: the purifier's weights cannot be had.
    """

    def __init__(self, model: Model, purifier: Purifier, network: nn.Module | None = None):
        super().__init__()
        self.undefended = model
        self.purifier = purifier
        network = purifier.network() if network is None else network
        self.network = None if network is None else network.to(device_of(model))
        stand_in = None if purifier.gradient in (None, "exact") else purifier.stand_in()
        self.surrogate = None if stand_in is None else Defended(model, stand_in, self.shared_with(stand_in))
        self.passes = PassCounter()
        self.labels, self.sample_rate = model.labels, model.sample_rate
        self.frames, self.size = model.frames, model.size

    def shared_with(self, other: Purifier) -> nn.Module | None:
        """This purifier's network for another one that can work with it; None where it cannot."""
        if self.network is None or other.weights != self.purifier.weights:
            return None
        return other.sharing(self.network)

    @property
    def gradient_mode(self) -> str:
        """How gradients pass the purifier: none, bpda, exact or surrogate."""
        return self.purifier.gradient or "none"

    @property
    def diffusion_passes(self) -> int:
        """Passes of one clip through a diffusion network so far: 12 per purification by VideoPure; 0 without a network.

        Those that a backward pass runs again count again. Several defended models that share a network count together.
        """
        return sum(module.calls.clips for module in self.modules() if isinstance(module, Diffusion))

    @property
    def separate(self) -> dict[str, Model]:
        """The model without its purifier, by its name in specs."""
        return {"undefended": self.undefended}

    def for_gradients(self) -> Model:
        """The undefended model in mode ``none``, the model behind the surrogate in mode ``surrogate``, else itself."""
        if self.purifier.gradient is None:
            return self.undefended.for_gradients()
        if self.purifier.gradient == "surrogate":
            assert self.surrogate is not None, "a purifier of this mode has a surrogate"
            return self.surrogate.for_gradients()
        return self

    def forward(self, clip: Clip) -> Tensor:
        return self.verdict(self.votes(clip))

    def verdict(self, votes: Tensor) -> Tensor:
        """The logits (B, K) that the votes make, as the purifier's ``aggregate`` says."""
        return majority_logits(votes) if self.purifier.aggregate == "majority" else votes.mean(1)

    def votes(self, clip: Clip) -> Tensor:
        """Logits (B, M, K) of the M purified clips of each clip.

        Activations of one vote at a time are held for a backward pass: the others are computed again.
        """
        return self._classified(self.purified(clip))

    def reconstruct(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """The votes, and how far the purifier's way back strays from its way out (`robustvideo.model.Reconstructing`).

        Raises:
            InputError: a purifier that is none by diffusion, or whose gradient is not the exact one.
        """
        if not isinstance(self.purifier, DiffusionPurifier) or self.purifier.gradient != "exact":
            raise InputError("Only a purifier by diffusion shows its way back, with gradient=exact or surrogate.")
        self.passes.clips += len(clip) * self.purifier.votes
        purified, deviation = self.purifier.reconstructed(clip, self.purifier.seeds(clip), self.network)
        return self._classified(purified), deviation

    def _classified(self, purified: tuple[Clip, ...]) -> Tensor:
        if len(purified) == 1:
            return self.undefended(purified[0])[:, None]  # type: ignore[no-any-return]
        return torch.stack([recomputed(self.undefended, vote) for vote in purified], dim=1)

    def purified(self, clip: Clip) -> tuple[Clip, ...]:
        """What the undefended model gets to see, vote by vote; gradients pass as the purifier's mode says."""
        self.passes.clips += len(clip) * self.purifier.votes
        seeds = self.purifier.seeds(clip)
        if self.purifier.gradient == "exact" or not torch.is_grad_enabled():
            return self.purifier.purify(clip, seeds, self.network)
        with torch.no_grad():
            votes = self.purifier.purify(clip.detach(), seeds, self.network)
        stand_ins = (clip,) if self.surrogate is None else self.surrogate.purified(clip)
        return tuple(_through(vote, stand_ins[i * len(stand_ins) // len(votes)]) for i, vote in enumerate(votes))


def _through(value: Clip, stand_in: Clip) -> Clip:
    """The first clip, with the gradient of the second (BPDA)."""
    video = value.video + (stand_in.video - stand_in.video.detach())
    return stand_in.with_signal("video", video)
