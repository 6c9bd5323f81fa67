"""`load_model`: a model from its spec."""

from __future__ import annotations

import torch

from robustvideo.errors import unknown
from robustvideo.model import Model
from robustvideo.models.catalog import SCHEMES
from robustvideo.spec import Source, parse_source


def load_model(spec: str, *, device: torch.device | str = "cpu") -> Model:
    """Load a model from a spec, in evaluation mode.

    =====================================================  =========================================================
    ``embedded:r3d``                                       a small network that comes with the package
    ``torchvision:r3d_18?weights=KINETICS400_V1``          torchvision's video networks, with their own weights,
                                                           ``checkpoint=``, or untrained (``classes=``)
    ``hf:MCG-NJU/videomae-base-finetuned-kinetics``        a Hugging Face video classifier, or a local folder
    ``file:my_model.py:build?weights=w.safetensors``       what a factory in your own file returns
    =====================================================  =========================================================

    Args:
        spec: see above.
        device: where the model is moved.

    Raises:
        InputError: an unknown name or option, weights that cannot be had, or a factory that fails.
    """
    source = parse_source(spec)
    if source.scheme not in SCHEMES:
        raise unknown("model source", source.scheme, SCHEMES)
    return _load(source).to(device).eval()


def _load(source: Source) -> Model:
    if source.scheme == "embedded":
        from robustvideo.models.embedded import load

        if source.options:
            raise unknown("option of embedded models:", next(iter(source.options)), ())
        return load(source.name)
    if source.scheme == "torchvision":
        from robustvideo.models.torchvision_video import load_torchvision

        return load_torchvision(source)
    if source.scheme == "hf":
        from robustvideo.models.huggingface import load_huggingface

        return load_huggingface(source)
    from robustvideo.models.user_file import load_user_file

    return load_user_file(source)
