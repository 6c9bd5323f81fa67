from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from films import film, numbered

from robustvideo.data import load_data
from robustvideo.data.decode import Stretch
from robustvideo.data.picture import Picture
from robustvideo.data.reading import Reading, Recorded, read_clip
from robustvideo.data.sampling import Sampling
from robustvideo.data.sound import Sound
from robustvideo.errors import InputError

CLICK = 16000


def click(at: float, rate: int, seconds: float = 4.0, channels: int = 1) -> np.ndarray:
    """Silence with one loud burst of a millisecond."""
    sound = np.zeros((channels, round(seconds * rate)), np.int16)
    start = round(at * rate)
    sound[:, start : start + max(rate // 1000, 1)] = CLICK
    return sound


def read(path: Path, sampling: Sampling, sound: Sound, stretch: Stretch | None = None) -> Recorded:
    return read_clip(path, Reading(sampling, Picture(size=None), sound), stretch or Stretch())


def onset(recorded: Recorded) -> int:
    assert recorded.audio is not None
    return int((recorded.audio[0].abs() > CLICK // 3).nonzero()[0])


def test_a_click_stays_with_its_frame(tmp_path: Path) -> None:
    # 10 frames a second; the click starts with frame 13
    path = film(tmp_path / "a.mkv", numbered(40), sound=click(1.3, 8000), rate=8000)
    window = Sampling(frames=8, stride=1, start=10)
    exact = read(path, window, Sound(audio_rate=8000, audio_seconds=0.8))
    assert exact.video[0, 3, 0, 0] == 13
    assert onset(exact) == 2400
    assert exact.audio is not None
    assert exact.audio.shape == (1, 6400)
    assert exact.audio.dtype == torch.int16
    assert exact.audio.abs().sum() == 8 * CLICK


def test_sound_of_another_length_has_the_same_middle(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", numbered(40), sound=click(1.3, 8000), rate=8000)
    window = Sampling(frames=8, stride=1, start=10)  # 1.0 s to 1.8 s
    assert onset(read(path, window, Sound(audio_rate=8000, audio_seconds=0.4))) == 800  # from 1.2 s
    assert onset(read(path, window, Sound(audio_rate=8000, audio_seconds=2.0))) == 7200  # from 0.4 s
    long = read(path, window, Sound(audio_rate=8000, audio_seconds=9.0))  # from -3.1 s, beyond both ends
    assert onset(long) == round(4.4 * 8000)


def test_uniform_frames_stand_for_the_whole_video(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", numbered(40), sound=click(1.3, 8000), rate=8000)
    assert onset(read(path, Sampling(frames=4), Sound(audio_rate=8000, audio_seconds=4.0))) == 10400


STEPPED = np.repeat(np.arange(1, 41, dtype=np.int16) * 100, 800)[None]
"""At 8 kHz and 10 frames a second: while frame i is on display, every sample is 100 (i + 1)."""


@pytest.mark.parametrize(
    ("sampling", "frames", "stretch"),
    [
        (Sampling(frames=8, stride=1, fps=10), 40, Stretch()),
        (Sampling(frames=8, stride=4, fps=10), 40, Stretch()),
        (Sampling(frames=8, stride=1, fps=2.5), 40, Stretch()),
        (Sampling(frames=8, stride=1, fps=10, views=3), 40, Stretch()),
        (Sampling(frames=8, stride=1, fps=10), 40, Stretch(1.0, 3.0)),
        (Sampling(frames=8, stride=1, fps=10, pad="loop"), 40, Stretch()),
        (Sampling(frames=8, stride=1, fps=10, pad="loop"), 8, Stretch()),
        (Sampling(frames=16, stride=1, fps=10, pad="loop"), 10, Stretch()),
        (Sampling(frames=16, stride=2, fps=10, pad="loop"), 7, Stretch()),
        (Sampling(frames=8, stride=1, fps=10, start=5, pad="loop"), 10, Stretch()),
        (Sampling(frames=16, stride=1, fps=10, pad="loop"), 40, Stretch(2.0, 2.5)),
    ],
)
def test_every_frame_brings_its_own_sound(sampling: Sampling, frames: int, stretch: Stretch, tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", numbered(frames), sound=STEPPED, rate=8000)
    got = read(path, sampling, Sound(audio_rate=8000), stretch)
    assert got.audio is not None
    parts = got.audio[0].view(sampling.frames, -1)  # what an audio-visual model pairs with a frame
    assert ((got.video[0, :, 0, 0].int() + 1) * 100).tolist() == parts[:, 0].tolist()
    assert parts.shape[1] == 8000 * (sampling.stride or 1) / (sampling.fps or 1)


def test_sound_starts_again_with_the_frames_and_only_with_them(tmp_path: Path) -> None:
    def clicks(sampling: Sampling, sound: Sound) -> list[int]:
        recorded = read(path, sampling, sound).audio
        assert recorded is not None
        loud = recorded[0] == CLICK
        return (loud[1:] & ~loud[:-1]).nonzero()[:, 0].add(1).tolist()

    path = film(tmp_path / "a.mkv", numbered(10), sound=click(0.3, 8000) + click(1.5, 8000), rate=8000)
    looped = Sampling(frames=25, stride=1, fps=10, pad="loop")
    assert clicks(looped, Sound(audio_rate=8000)) == [2400, 10400, 18400]  # the click after the video is not heard
    assert clicks(replace(looped, pad="last"), Sound(audio_rate=8000)) == [2400, 12000]
    assert clicks(replace(looped, fps=None), Sound(audio_rate=8000, audio_seconds=2.5)) == [2400, 10400, 18400]
    assert clicks(looped, Sound(audio_rate=8000, audio_seconds=0.5)) == [2400]  # from 1.0 s to 1.5 s of 2.5 s
    spread = Sampling(frames=20, pad="loop")
    assert clicks(spread, Sound(audio_rate=8000, audio_seconds=2.0)) == [2400, 10400]


@pytest.mark.parametrize(
    ("options", "needed"), [("", "stride= and fps="), ("&stride=1", "fps="), ("&fps=10", "stride=")]
)
def test_sound_whose_length_would_differ_is_refused(options: str, needed: str, tmp_path: Path) -> None:
    film(tmp_path / "a/1.mkv", numbered(20), sound=click(0.5, 8000), rate=8000)
    for sound in ("audio=true", "audio_rate=8000"):
        with pytest.raises(InputError, match=f"give {needed}, or audio_seconds="):
            load_data(data(tmp_path, sound + options))
        clip = load_data(data(tmp_path, f"{sound}{options}&audio_seconds=0.5")).clip(0)
        assert clip.signal("audio").shape == (1, 1, 4000)
    load_data(data(tmp_path, f"views=1{options}"))  # without sound it can be had


def test_the_length_follows_from_the_frames_where_they_have_one_length() -> None:
    assert Sound(audio_rate=8000).seconds(Sampling(frames=16, stride=3, fps=24)) == 2.0
    assert Sound(audio_rate=8000, audio_seconds=1.5).seconds(Sampling(frames=16, stride=3, fps=24)) == 1.5


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "pcm_s16le"), ("mp4", "aac")])
@pytest.mark.parametrize(("native", "rate"), [(44100, 16000), (8000, 44100), (16000, 16000)])
def test_resampling_and_compression_do_not_shift(
    tmp_path: Path, suffix: str, codec: str, native: int, rate: int
) -> None:
    style = {"codec": "libx264", "pixels": "yuv420p"}
    path = film(
        tmp_path / f"a.{suffix}", numbered(40), sound=click(1.3, native), rate=native, audio_codec=codec, **style
    )
    found = onset(read(path, Sampling(frames=8, stride=1, start=10), Sound(audio_rate=rate, audio_seconds=0.8)))
    assert abs(found - 0.3 * rate) <= 0.001 * rate + 1


def test_a_video_that_starts_after_its_sound(tmp_path: Path) -> None:
    path = film(
        tmp_path / "a.mkv",
        numbered(20),
        times=[0.5 + i / 10 for i in range(20)],
        sound=click(1.3, 8000),
        rate=8000,
    )
    got = read(path, Sampling(frames=10, stride=1, start=0), Sound(audio_rate=8000, audio_seconds=1.0))
    assert got.video[0, 0, 0, 0] == 0  # shown at 0.5 s of the container's clock
    assert abs(onset(got) - round((1.3 - 0.5) * 8000)) <= 8


def test_sound_with_a_gap_stays_in_time(tmp_path: Path) -> None:
    sound = click(1.3, 8000)
    path = film(tmp_path / "a.mkv", numbered(40), sound=sound, rate=8000, sound_times=((0, 0.0), (8000, 1.5)))
    got = read(path, Sampling(frames=40, stride=1), Sound(audio_rate=8000, audio_seconds=4.0))
    assert abs(onset(got) - 1.8 * 8000) <= 8


def test_a_stretch_takes_its_own_sound(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", numbered(40), sound=click(2.3, 8000), rate=8000)
    got = read(path, Sampling(frames=10, stride=1), Sound(audio_rate=8000, audio_seconds=1.0), Stretch(2.0, 3.0))
    assert got.video[0, 0, 0, 0] == 20
    assert onset(got) == 2400


def test_a_silent_file_gives_zeros(tmp_path: Path) -> None:
    sound = Sound(audio_rate=8000, channels=2, audio_seconds=2)
    got = read(film(tmp_path / "a.mkv", numbered(20)), Sampling(4), sound)
    assert got.audio is not None
    assert got.audio.shape == (2, 16000)
    assert not got.audio.any()
    assert got.sample_rate == 8000


def test_channels(tmp_path: Path) -> None:
    sound = np.concatenate([click(0.5, 8000, 2.0), np.zeros((1, 16000), np.int16)])
    path = film(tmp_path / "a.mkv", numbered(20), sound=sound, rate=8000)
    both = read(path, Sampling(4), Sound(audio_rate=8000, channels=2, audio_seconds=2)).audio
    mixed = read(path, Sampling(4), Sound(audio_rate=8000, audio_seconds=2)).audio
    assert both is not None
    assert mixed is not None
    assert torch.equal(both, torch.from_numpy(sound))
    assert mixed.max() == CLICK // 2


def test_without_asking_there_is_no_sound(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", numbered(20), sound=click(0.5, 8000))
    assert read(path, Sampling(4), Sound()).audio is None


def data(folder: Path, options: str) -> str:
    return f"folder:{folder}?frames=4&size=16&{options}"


def test_the_rate_defaults_to_the_one_that_all_files_share(tmp_path: Path) -> None:
    film(tmp_path / "a/1.mkv", numbered(20), sound=click(0.5, 8000), rate=8000)
    film(tmp_path / "a/2.mkv", numbered(20))
    (tmp_path / "a/3.mkv").write_bytes(b"damaged")
    clip = load_data(data(tmp_path, "audio=true&audio_seconds=2")).clip(1)
    assert clip.sample_rate == 8000
    assert clip.audio is not None
    assert clip.audio.shape == (1, 1, 16000)
    film(tmp_path / "b/1.mkv", numbered(20), sound=click(0.5, 16000), rate=16000)
    with pytest.raises(InputError, match=r"1.mkv has 8000 Hz and 1.mkv has 16000 Hz\): choose one with audio_rate="):
        load_data(data(tmp_path, "audio=true&audio_seconds=2"))
    assert load_data(data(tmp_path, "audio_rate=4000&audio_seconds=2")).clip(0).sample_rate == 4000


def test_sound_that_no_file_has(tmp_path: Path) -> None:
    film(tmp_path / "a/1.mkv", numbered(20))
    with pytest.raises(InputError, match="No file of this data set has sound"):
        load_data(data(tmp_path, "audio=true&audio_seconds=2"))


@pytest.mark.parametrize("option", ["audio_rate=0", "audio_seconds=-1", "audio_seconds=nan", "channels=3"])
def test_impossible_options_are_refused(tmp_path: Path, option: str) -> None:
    film(tmp_path / "a/1.mkv", numbered(20))
    with pytest.raises(InputError, match=option.split("=")[0]):
        load_data(data(tmp_path, f"audio=true&{option}"))
