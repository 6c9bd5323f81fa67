"""`load_data`: from a spec to a data set."""

from __future__ import annotations

import importlib
import inspect
import os
import typing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from robustvideo.data.catalog import EMBEDDED, collections, schemes
from robustvideo.data.dataset import UnusableClip, VideoDataset
from robustvideo.data.file_dataset import FileDataset
from robustvideo.data.listing import Amount, Classes, Listing
from robustvideo.data.options import build_all, typed
from robustvideo.data.picture import Picture
from robustvideo.data.reading import Reading
from robustvideo.data.sampling import Sampling
from robustvideo.data.sound import Sound, native_rate
from robustvideo.errors import InputError, unknown
from robustvideo.model import named_once
from robustvideo.spec import Source, parse_source


@dataclass(frozen=True)
class _Storage:
    """Where decoded clips are kept.

    Attributes:
        cache: a folder. Default: the one that the environment variable ROBUSTVIDEO_CACHE names; without it, none.
    """

    cache: Path | None = None

    @property
    def folder(self) -> Path | None:
        named = os.environ.get("ROBUSTVIDEO_CACHE")
        return self.cache or (Path(named).expanduser() if named else None)


def load_data(spec: str, labels: Sequence[str] | None = None) -> VideoDataset:
    """A data set from its spec.

    Args:
        spec: ``scheme:name?option=value&...``. Schemes: ``manifest:<file.csv>``, ``folder:<dir>``,
            ``ucf101:<dir>``, ``hmdb51:<dir>``, ``kinetics:<dir>`` and ``embedded:kinetic``. Every scheme that reads
            files takes the options of `Sampling`, `Picture`, `Sound`, `Classes`, `Amount` and ``cache=<dir>`` besides
            its own. The environment variable ROBUSTVIDEO_CACHE names a cache for all that name none: studies that
            train several networks on the same videos then decode them once.
            ``$NAME`` in a file's or folder's name stands for that environment variable, so that a recipe can be
            shared between machines.
        labels: class names by index, usually the model's; they replace the data set's own numbering.

    Raises:
        InputError: an unknown scheme, a misspelt option, a wrong value, a missing list, a class that is none of
            ``labels``, a name that is in ``labels`` twice, or an environment variable that is not set.
    """
    if labels is not None:
        named_once(labels)
    source = parse_source(spec)
    if source.scheme == "embedded":
        embedded = _embedded(source)
        return embedded if labels is None or tuple(labels) == embedded.labels else embedded.relabelled(labels)
    if source.scheme not in collections.entries():
        raise unknown("data source", source.scheme, schemes())
    collection, classes, amount, sampling, picture, sound, storage = build_all(
        source, collections.get(source.scheme), Classes, Amount, Sampling, Picture, Sound, _Storage
    )
    listing = amount.apply(classes.apply(collection.listing(_expanded(source.name)), labels))
    reading = Reading(sampling, picture, sound)
    if sound.wanted and sound.audio_rate is None:
        reading = replace(reading, sound=replace(sound, audio_rate=_common_rate(listing)))
    return FileDataset(spec, listing, reading, storage.folder)


def _expanded(name: str) -> str:
    try:
        return Template(name).substitute(os.environ)
    except KeyError as error:
        raise InputError(
            f"{name} needs the environment variable {error.args[0]}: set it to the folder meant."
        ) from error
    except ValueError:  # a dollar sign that names nothing is part of the name
        return name


def _embedded(source: Source) -> VideoDataset:
    if source.name not in EMBEDDED:
        raise unknown("embedded data set", source.name, EMBEDDED)
    cls = getattr(importlib.import_module(f"robustvideo.data.{source.name}"), EMBEDDED[source.name])
    hints = typing.get_type_hints(cls.__init__)
    hints = {name: hints[name] for name in inspect.signature(cls).parameters}
    built = cls(**typed(source, hints))
    assert isinstance(built, VideoDataset)
    return built


def _common_rate(listing: Listing) -> int:
    """The sample rate that all files with sound share; every file is opened once.

    Raises:
        InputError: there are several rates, or no sound at all.
    """
    rates: dict[int, Path] = {}
    for path in dict.fromkeys(entry.path for entry in listing.entries):
        with suppress(UnusableClip):  # told when the clip is read
            rate = native_rate(path)
            if rate is not None:
                rates.setdefault(rate, path)
    if len(rates) == 1:
        return next(iter(rates))
    if not rates:
        raise InputError("No file of this data set has sound: leave audio= out, or give audio_rate= to get silence.")
    examples = " and ".join(f"{path.name} has {rate} Hz" for rate, path in list(rates.items())[:2])
    raise InputError(f"The sound of this data set has several rates ({examples}): choose one with audio_rate=.")
