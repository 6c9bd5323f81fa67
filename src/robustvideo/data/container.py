"""Opening video files, safely: every failure is an `UnusableClip` of one sentence."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from robustvideo.data.dataset import UnusableClip

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.frame import VideoFrame

_FORMATS = "mov,matroska,avi,mpeg,mpegts,flv,asf,ogg,gif"
SUFFIXES = frozenset(
    f".{name}"
    for name in "3gp avi flv gif m2ts m4v mkv mov mp4 mpeg mpg ogv ts webm wmv".split()  # noqa: SIM905
)
"""Endings of files in these formats."""
# playlists and concatenation scripts open further files, and FFmpeg reads any text as a film of a terminal
_OPENING = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
# a tag in an old encoding must not make a video unreadable; PyAV 19 keeps such bytes by itself
_TAGS: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}

THREADS = 2
MAX_PIXELS = 8192 * 4320
MAX_FRAMES = 100_000


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """A container that is closed afterwards, whatever happens.

    Raises:
        UnusableClip: the file is missing or damaged, here or anywhere inside the ``with`` block.
    """
    if not path.is_file():
        raise UnusableClip(f"{path} does not exist." if not path.exists() else f"{path} is not a file.")
    try:
        with av.open(str(path), container_options=_OPENING, **_TAGS) as container:
            yield container
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, av.error.InvalidDataError) or getattr(error, "errno", None) == errno.EINVAL:
            raise UnusableClip(f"{path} is damaged, or no video file at all.") from error
        reason = getattr(error, "strerror", None) or str(error)
        raise UnusableClip(f"{path} cannot be read: {reason[:1].lower()}{reason[1:]}.") from error


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A container and its main video stream.

    Raises:
        UnusableClip: the file is missing or damaged, has no video, or its frames are too large.
    """
    with open_container(path) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise UnusableClip(f"{path} holds {'only sound' if container.streams.audio else 'no video'}.")
        _check_decodable(path, stream)
        _check_size(path, stream.width, stream.height)
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        stream.thread_count = THREADS
        stream.thread_type = "AUTO"
        yield container, stream


def has_even_times(path: Path) -> bool:
    """Whether all frames are shown within half a frame of a constant rate, as far as the container tells.

    Raises:
        UnusableClip: the file is missing or damaged, or has no video.
    """
    with open_video(path) as (container, stream):
        times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
    if len(times) < 3:
        return True
    period = (times[-1] - times[0]) / (len(times) - 1)
    return all(abs(time - times[0] - index * period) <= period / 2 for index, time in enumerate(times))


def audio_stream(path: Path, container: InputContainer) -> AudioStream | None:
    """The main sound track of a container; None when it has none.

    Raises:
        UnusableClip: the track is in a format that cannot be decoded.
    """
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream):
        return None
    _check_decodable(path, stream)
    return stream


def decoded(path: Path, container: InputContainer, stream: VideoStream) -> Generator[VideoFrame, None, None]:
    """All frames from the current position on, in display order.

    Raises:
        UnusableClip: more frames, or larger ones, than anyone should decode.
    """
    for count, frame in enumerate(container.decode(stream)):
        if count >= MAX_FRAMES:
            raise UnusableClip(f"{path} has more than {MAX_FRAMES} frames: cut it into shorter files.")
        _check_size(path, frame.width, frame.height)
        yield frame


def _check_decodable(path: Path, stream: Stream) -> None:
    # PyAV's stubs hide that a stream of unknown format has no codec context
    if getattr(stream, "codec_context", None) is None:
        raise UnusableClip(f"{path} holds {stream.type} in a format that cannot be decoded.")


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusableClip(f"{path} has frames of {width}x{height} pixels, more than the {MAX_PIXELS} allowed.")
