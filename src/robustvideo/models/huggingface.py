"""Hugging Face video classifiers: VideoMAE, TimeSformer, ViViT, V-JEPA 2 and their like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustvideo.errors import InputError, unknown
from robustvideo.model import Model, wrap
from robustvideo.spec import Source

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet: where a repository has no processor of its own


class _Pixels(nn.Module):
    """A classifier under the name that it gives its input."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier
        self.argument = "pixel_values_videos" if classifier.main_input_name == "pixel_values_videos" else "pixel_values"

    def forward(self, video: Tensor) -> Any:
        return self.classifier(**{self.argument: video})


def load_huggingface(source: Source) -> Model:
    """Load ``hf:<repository or folder>``: safetensors only, and never a repository's own code.

    Raises:
        InputError: transformers is not installed, the repository cannot be had, or it is no video classifier.
    """
    try:
        from transformers import AutoConfig, AutoModelForVideoClassification
    except ImportError as error:
        raise InputError("Hugging Face models need the extra: pip install 'robustvideo[hub]'.") from error
    if source.options:
        raise unknown("option of hf models:", next(iter(source.options)), ())
    name = source.name
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise InputError(f"There is no folder {name}.")
    name = str(Path(name).expanduser()) if name.startswith("~") else name
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        classifier = AutoModelForVideoClassification.from_pretrained(
            name, config=config, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"The video classifier {source.name} cannot be loaded: {reason}") from error
    mean, std = _normalisation(name)
    frames, size = _shape(config)
    labels = [config.id2label[i] for i in range(config.num_labels)]
    return wrap(_Pixels(classifier), frames=frames, size=size, mean=mean, std=std, layout="btchw", labels=labels)


def _normalisation(name: str) -> tuple[Any, Any]:
    """Mean and standard deviation of the repository's processor; ImageNet's where it has none."""
    import json

    from transformers.utils import cached_file

    for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
        try:
            path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        except OSError:
            path = None
        if path is not None:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return content.get("image_mean", _MEAN), content.get("image_std", _STD)
    return _MEAN, _STD


def _shape(config: Any) -> tuple[int, tuple[int, int]]:
    """Frames and (height, width) that a configuration asks for.

    Raises:
        InputError: it does not say how many frames.
    """
    for attribute in ("num_frames", "frames_per_clip"):
        frames = getattr(config, attribute, None)
        if frames is not None:
            break
    else:
        raise InputError(f"The configuration {type(config).__name__} does not say how many frames the network takes.")
    size: Any = getattr(config, "image_size", None) or getattr(config, "crop_size", 224)
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return int(frames), (height, width)
