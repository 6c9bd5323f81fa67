"""The names of the models, readable without loading torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from robustvideo.registry import Registry

if TYPE_CHECKING:
    from robustvideo.model import Model


class Network(Protocol):
    """The configuration of a network that goes by its own name, such as ``i3d(classes=101)``.

    A frozen dataclass in a file of this package, under ``@networks.register("i3d")``. Where it has a field
    ``classes``, the number of classes of the data is its default. Where it has a method ``convert``, a checkpoint
    (name -> tensor) goes through it before it is loaded: it gives the names of public checkpoints the network's own,
    and leaves the network's own names alone.
    """

    def build(self) -> Model:
        """The network, untrained or with its own weights."""


networks: Registry[Network] = Registry("model", "networks", "robustvideo.models")
"""Networks known by their own name: the spec ``i3d?frames=16`` builds the one that is registered as "i3d"."""

SCHEMES = {
    "embedded": "a small network that comes with the package",
    "torchvision": "a video network of torchvision: ?weights=, ?classes=, ?frames=, ?size=",
    "hf": "a Hugging Face video classifier: a repository or a local folder",
    "chat": "an audio-visual language model that answers by one of ?labels=; without gradients",
    "file": "your own: path/to/file.py:factory, with ?options for the factory",
    "trained": "a network in a file that robustvideo train wrote: ?part=, ?run_code=",
}
"""Scheme of a model spec -> what it names. All take ``checkpoint=<file>`` and ``with=<alteration>``."""

TORCHVISION = {
    "mc3_18": "ResNet-18, 3-D in its first stage and 2-D after (Tran et al. 2018)",
    "mvit_v1_b": "Multiscale Vision Transformer, base (Fan et al. 2021)",
    "mvit_v2_s": "Multiscale Vision Transformer 2, small (Li et al. 2022)",
    "r2plus1d_18": "ResNet-18 with (2+1)D convolutions (Tran et al. 2018)",
    "r3d_18": "ResNet-18 with 3-D convolutions (Tran et al. 2018)",
    "s3d": "separable 3-D Inception (Xie et al. 2018)",
    "swin3d_b": "Video Swin Transformer, base (Liu et al. 2022)",
    "swin3d_s": "Video Swin Transformer, small (Liu et al. 2022)",
    "swin3d_t": "Video Swin Transformer, tiny (Liu et al. 2022)",
}
"""Video networks of torchvision -> one line about each."""


def catalog() -> dict[str, str]:
    """Spec -> one line, of every model that can be loaded by name, and of the schemes for the others."""
    weights = Path(__file__).parent / "weights"
    embedded = {f"embedded:{path.stem}": SCHEMES["embedded"] for path in sorted(weights.glob("*.safetensors"))}
    torchvision = {f"torchvision:{name}": summary for name, summary in TORCHVISION.items()}
    named = {name: entry.summary for name, entry in networks.entries().items()}
    others = {
        "hf:<repository or folder>": SCHEMES["hf"],
        "chat:<repository or folder>": SCHEMES["chat"],
        "file:<path.py>:<factory>": SCHEMES["file"],
        "trained:<file.safetensors>": SCHEMES["trained"],
    }
    return {**embedded, **torchvision, **named, **others}
