"""What each method can be shown on: a model, clips, and what it cannot do without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GENERATOR = "runs/ape/model.safetensors"
"""Where an example expects what the reader has trained."""

EMBEDDED = "embedded:kinetic?split=test&clips=8"


@dataclass(frozen=True)
class Example:
    """A model and clips that a method can be called on.

    Attributes:
        model, data: specs.
        defense: spec of a purifier before the model; none for the model alone.
        needed: a sentence about what the method asks of a model; empty where any will do.
        needs: parameters that have no default.
        trained: whether the model's weights come with the package. Of an untrained one only the cost is shown.
    """

    model: str = "embedded:r3d"
    data: str = EMBEDDED
    defense: str | None = None
    needed: str = ""
    needs: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = True

    def recipe(self, training: str) -> str:
        """A recipe in YAML that trains the example's model on the example's data."""
        name, _, options = self.data.partition("?")
        rest = "".join(f"&{o}" for o in options.split("&") if o and not o.startswith(("split=", "clips=")))
        return (
            f"title: {training.partition('(')[0]}\n"
            f"model: {self.model}\n"
            "data:\n"
            f"  train: {name}?split=train{rest}\n"
            f"  val: {name}?split=val{rest}\n"
            f'training: "{training}"\n'
            "epochs: 10\n"
            "batch_size: 32\n"
            "lr: 0.003"
        )


PLAIN = Example()
MIXTURE = Example(
    model="video_moe?expert=r3d_small&experts=4&classes=8",
    needed="It needs a mixture of experts (`robustvideo train embedded/moe` makes a small one): a model that shows "
    "its routing.",
    trained=False,
)
SOUNDING = Example(
    model="AcV?scale=small&classes=8",
    data=f"{EMBEDDED}&audio=true",
    needed="It needs clips with sound and a model that sees and hears (`robustvideo train embedded/av` makes a small "
    "one).",
    trained=False,
)
DIFFUSED = Example(
    defense="diffpure_ddim(steps=1)",
    needed="It needs a model behind a purifier by diffusion.",
)

_PART = "The network needs a part of its own: "
_EXAMPLES: Mapping[str, Mapping[str, Example]] = {
    "attacks": {
        **dict.fromkeys(("j_tla", "j_tlga", "pgd_e", "pgd_r", "tla_e", "tla_r", "tlga_r"), MIXTURE),
        **dict.fromkeys(("mma", "tia", "tma", "tma_segments"), SOUNDING),
        "diffattack": DIFFUSED,
    },
    "defences": {
        "ape_gan": Example(
            needed="It needs the weights of a generator, which `robustvideo train` writes for the trainings `ape` and "
            "`gat`.",
            needs={"file": GENERATOR},
            trained=False,
        ),
    },
    "trainings": {
        **dict.fromkeys(("balanced", "j_tlat"), MIXTURE),
        **dict.fromkeys(("av_at", "av_curriculum", "mixup"), SOUNDING),
        "crmt_at": Example(SOUNDING.model + "&with=unit_fusion()", SOUNDING.data, needed=_PART + "`unit_fusion`."),
        "dcfl": Example(SOUNDING.model + "&with=sparse_memory()", SOUNDING.data, needed=_PART + "`sparse_memory`."),
        "ssdf": Example(SOUNDING.model + "&with=odd_one_out()", SOUNDING.data, needed=_PART + "`odd_one_out`."),
        "multi_bn": Example("embedded:r3d?with=multi_bn(branches=2)", needed=_PART + "`multi_bn`."),
        **{
            name: Example("embedded:r3d?with=ape_gan()", needed=_PART + "`ape_gan`.")
            for name in ("ape", "ape_at", "gat")
        },
        "diffusion": Example("embedded:r3d?with=video_diffusion()", needed=_PART + "`video_diffusion`."),
        "next_frame": Example("next_frame", "embedded:moving_digits", needed="It trains models of the next frame."),
    },
}


def example_for(folder: str, name: str) -> Example:
    """What a method of a chapter is shown on; the embedded classifier where nothing else is said."""
    return _EXAMPLES[folder].get(name, PLAIN)
