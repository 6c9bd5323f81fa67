"""The names of the models, readable without loading torch."""

from __future__ import annotations

from pathlib import Path

SCHEMES = {
    "embedded": "a small network that comes with the package",
    "torchvision": "a video network of torchvision: ?weights=, ?classes=, ?checkpoint=, ?frames=, ?size=",
    "hf": "a Hugging Face video classifier: a repository or a local folder",
    "file": "your own: path/to/file.py:factory, with ?options for the factory",
}
"""Scheme of a model spec -> what it names."""

TORCHVISION = (
    "mc3_18",
    "mvit_v1_b",
    "mvit_v2_s",
    "r2plus1d_18",
    "r3d_18",
    "s3d",
    "swin3d_b",
    "swin3d_s",
    "swin3d_t",
)
"""Video networks of torchvision."""


def catalog() -> dict[str, str]:
    """Spec -> one line, of every model that can be loaded by name, and of the schemes for the others."""
    weights = Path(__file__).parent / "weights"
    embedded = {f"embedded:{path.stem}": SCHEMES["embedded"] for path in sorted(weights.glob("*.safetensors"))}
    torchvision = {f"torchvision:{name}": "weights by ?weights=KINETICS400_V1 or ?checkpoint=" for name in TORCHVISION}
    others = {"hf:<repository or folder>": SCHEMES["hf"], "file:<path.py>:<factory>": SCHEMES["file"]}
    return {**embedded, **torchvision, **others}
