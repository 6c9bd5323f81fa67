"""Hugging Face video classifiers: VideoMAE, TimeSformer, ViViT, V-JEPA 2 and their like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustvideo.errors import InputError
from robustvideo.model import Model, wrap
from robustvideo.registry import construct
from robustvideo.spec import Call, Source


@dataclass(frozen=True)
class Options:
    """Options of a Hugging Face spec.

    Attributes:
        classes: number of classes. Default: the repository's. Another number puts an untrained last layer on top, to
            be trained.
    """

    classes: int | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and self.classes < 2:
            raise InputError(f"classes= of a Hugging Face model is at least 2, got {self.classes}.")


def load_huggingface(source: Source, filled: bool = True) -> Model:
    """Load ``hf:<repository or folder>``: safetensors only, and never a repository's own code.

    Downloads go through transformers, and into its cache. The normalisation is the repository's processor's, the
    frames and the size are the network's; clips of another size are resized whole, where most processors crop.

    Args:
        source: the parsed spec.
        filled: with the repository's weights; otherwise only its configuration is read.

    Raises:
        InputError: transformers is not installed, the repository cannot be had, or it is no video classifier.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError("Hugging Face models need transformers: pip install 'robustvideo[hub]'.") from error
    options = construct(Options, Call(f"hf:{source.name}", dict(source.options)))
    name = str(Path(source.name).expanduser())
    if source.name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise InputError(f"There is no folder {source.name}.")
    new_head = {} if options.classes is None else {"num_labels": options.classes}
    try:
        if filled:
            classifier, report = transformers.AutoModelForVideoClassification.from_pretrained(
                name,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=options.classes is not None,
                **new_head,
            )
        else:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **new_head)
            classifier = transformers.AutoModelForVideoClassification.from_config(config)
            report = {"missing_keys": []}
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"The video classifier hf:{source.name} cannot be loaded: {_first_line(error)}") from error
    if report["missing_keys"] and options.classes is None:
        raise InputError(
            f"hf:{source.name} is not a trained classifier: it has no {sorted(report['missing_keys'])[0]!r}; "
            "choose a fine-tuned one, or give classes= and train it."
        )
    config = classifier.config
    labels = [config.id2label[i] for i in range(config.num_labels)]
    frames, size = _extent(config)
    mean, std = _normalisation(name)
    return wrap(
        classifier.float(),  # verdicts are given in single precision, however the weights were stored
        frames=frames,
        size=size,
        mean=mean,
        std=std,
        layout="btchw",
        labels=None if labels == [f"LABEL_{i}" for i in range(len(labels))] else labels,
    )


def _normalisation(name: str) -> tuple[list[float], list[float]]:
    """What the repository's processor does to pixels in [0, 1], as a mean and a standard deviation per channel.

    It is read off what becomes of a black and a white frame, because processors differ in how they scale and shift.
    """
    frames = [np.full((16, 16, 3), value, dtype=np.uint8) for value in (0, 255)]
    given = _processor(name)(frames, do_resize=False, do_center_crop=False, return_tensors="pt")
    values = given["pixel_values"] if "pixel_values" in given else given["pixel_values_videos"]
    black, white = values[0, :, :, 0, 0].double()
    std = 1 / (white - black)
    return (-black * std).tolist(), std.tolist()


def _processor(name: str) -> Any:
    """The repository's processor: of videos, or of images in older repositories.

    Raises:
        InputError: it has none, so that nobody can tell how to normalise its input.
    """
    import transformers

    failures = []
    for kind in ("AutoVideoProcessor", "AutoImageProcessor"):
        if hasattr(transformers, kind):
            try:
                return getattr(transformers, kind).from_pretrained(name, trust_remote_code=False)
            except (OSError, ValueError, ImportError, TypeError) as error:
                failures.append(error)
    raise InputError(
        f"hf:{name} does not say how to normalise its input ({_first_line(failures[-1])}): "
        "save its processor beside it, as preprocessor_config.json."
    ) from failures[-1]


def _extent(config: Any) -> tuple[int, tuple[int, int]]:
    """Frames and (height, width) that a configuration asks for."""
    frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    size = getattr(config, "image_size", None) or getattr(config, "crop_size", None)
    if frames is None or size is None:
        raise InputError(f"The configuration {type(config).__name__} does not say what clips its network takes.")
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return int(frames), (height, width)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
