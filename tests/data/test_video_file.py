from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from films import film, numbered
from hypothesis import given
from hypothesis import strategies as st

from robustvideo.clip import Clip
from robustvideo.data import UnusableClip, read_lossless, write_lossless, write_preview
from robustvideo.data.picture import Picture
from robustvideo.data.reading import Reading, read_clip
from robustvideo.data.sampling import Sampling
from robustvideo.data.sound import Sound
from robustvideo.errors import InputError
from robustvideo.threat import GRID


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (1, *shape), generator=torch.Generator().manual_seed(seed)).float() / 255


def hiss(channels: int, samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-32768, 32768, (1, channels, samples), generator=generator).float() / 32768


def same(a: Clip, b: Clip) -> bool:
    sounds = (a.audio is None and b.audio is None) or (
        a.audio is not None and b.audio is not None and torch.equal(a.audio, b.audio)
    )
    return torch.equal(a.video, b.video) and sounds and a.sample_rate == b.sample_rate


@pytest.mark.parametrize(
    "shape", [(3, 4, 5, 7), (1, 3, 5, 8), (3, 1, 1, 1), (3, 2, 2, 1), (3, 2, 17, 2), (3, 8, 64, 64), (3, 1, 289, 353)]
)
@pytest.mark.parametrize("sound", [None, (1, 1, 8000), (2, 12345, 44100), (1, 48001, 16000)])
def test_a_stored_clip_comes_back_bit_for_bit(
    tmp_path: Path, shape: tuple[int, ...], sound: tuple[int, int, int] | None
) -> None:
    clip = Clip(noise(shape), *((None, None) if sound is None else (hiss(*sound[:2]), sound[2])))
    write_lossless(tmp_path / "deep" / "a.mkv", clip, 29.97)
    back = read_lossless(tmp_path / "deep" / "a.mkv")
    assert same(clip, back)
    assert back.video.dtype == torch.float32
    assert back.ids == ("a",)


@given(frames=st.integers(1, 4), height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_any_shape_comes_back(
    tmp_path_factory: pytest.TempPathFactory, frames: int, height: int, width: int, seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.mkv"
    clip = Clip(noise((3, frames, height, width), seed))
    write_lossless(path, clip, 10)
    assert same(clip, read_lossless(path))


def test_all_levels_and_both_ends_of_the_sound_come_back(tmp_path: Path) -> None:
    levels = torch.arange(256).view(1, 1, 1, 16, 16).expand(1, 3, 2, 16, 16).float() / 255
    ends = torch.tensor([-32768, -1, 0, 1, 32767]).view(1, 1, 5).float() / 32768
    clip = Clip(levels, ends, 8000)
    write_lossless(tmp_path / "a.mkv", clip, 8)
    assert same(clip, read_lossless(tmp_path / "a.mkv"))


def test_what_a_threat_model_rounds_can_be_stored(tmp_path: Path) -> None:
    video = (torch.rand(1, 3, 4, 9, 9) * GRID["video"]).round() / GRID["video"]
    write_lossless(tmp_path / "a.mkv", Clip(video), 8)
    assert torch.equal(read_lossless(tmp_path / "a.mkv").video, video)


def test_the_data_sets_decoder_reads_the_same_values(tmp_path: Path) -> None:
    clip = Clip(noise((3, 6, 10, 12)), hiss(2, 6000), 8000)
    write_lossless(tmp_path / "a.mkv", clip, 8)
    sound = Sound(audio_rate=8000, channels=2, audio_seconds=0.75)
    reading = Reading(Sampling(frames=6, stride=1), Picture(size=None), sound)
    assert same(clip, read_clip(tmp_path / "a.mkv", reading).clip("a"))


def test_the_same_clip_is_the_same_file(tmp_path: Path) -> None:
    clip = Clip(noise((3, 4, 10, 12)), hiss(1, 4000), 8000)
    for name in ("a.mkv", "b.mkv"):
        write_lossless(tmp_path / name, clip, 8)
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mkv", "b.mkv"]


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip(noise((3, 2, 4, 4)) + 1e-4), "video is not on the grid"),
        (Clip(noise((3, 2, 4, 4)) * 0 + 256 / 255), "video is not on the grid"),
        (Clip(noise((3, 2, 4, 4)) * float("nan")), "video is not on the grid"),
        (Clip(noise((3, 2, 4, 4)), torch.ones(1, 1, 9), 8000), "audio is not on the grid"),
        (Clip(noise((3, 2, 4, 4)), torch.full((1, 1, 9), 0.1), 8000), "audio is not on the grid"),
        (Clip(noise((3, 2, 4, 4)), torch.zeros(1, 1, 0), 8000), "at least a sample"),
        (Clip(noise((3, 2, 4, 4)), torch.zeros(1, 3, 9), 8000), "mono or stereo"),
        (Clip(noise((2, 2, 4, 4))), "1 or 3 channels"),
        (Clip(torch.zeros(1, 3, 0, 4, 4)), "at least one pixel"),
        (Clip(torch.zeros(2, 3, 2, 4, 4)), "one clip"),
    ],
)
def test_what_no_file_holds_is_refused(tmp_path: Path, clip: Clip, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_lossless(tmp_path / "a.mkv", clip, 8)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    clip = Clip(noise((3, 2, 4, 4)))
    write_lossless(tmp_path / "a.mkv", clip, 8)
    with pytest.raises(InputError):
        write_lossless(tmp_path / "a.mkv", clip, 0)
    assert same(clip, read_lossless(tmp_path / "a.mkv"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mkv"]


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_lossless(path, Clip(noise((3, 4, 24, 24)), hiss(1, 2000), 8000), 8)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(content), 100):
        broken = bytearray(content)
        broken[at] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            back = read_lossless(path)
        except InputError:
            continue
        assert same(back, Clip(noise((3, 4, 24, 24)), hiss(1, 2000), 8000))  # a flip in padding or in a tag


def test_only_lossless_files_are_read_as_such(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", numbered(5), codec="libx264", pixels="yuv420p")
    for other in (path, film(tmp_path / "a.mkv", numbered(5))):
        with pytest.raises(InputError, match="not a lossless clip written by robustvideo"):
            read_lossless(other)
    with pytest.raises(UnusableClip, match="does not exist"):
        read_lossless(tmp_path / "none.mkv")


@pytest.mark.parametrize("shape", [(3, 5, 16, 16), (1, 5, 33, 17), (3, 5, 200, 301)])
def test_a_preview_can_be_seen(tmp_path: Path, shape: tuple[int, ...]) -> None:
    video = torch.zeros(shape)
    video[:, :, : shape[2] // 2] = 1.0
    content = write_preview(tmp_path / "a.mp4", video, 10, min_side=64)
    assert (tmp_path / "a.mp4").read_bytes() == content
    assert content.index(b"moov") < content.index(b"mdat")
    factor = -(-64 // min(shape[2:])) if min(shape[2:]) < 64 else 1
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
    assert len(frames) == 5
    height, width = (side * factor + side * factor % 2 for side in shape[2:])
    assert frames[0].shape == (height, width, 3)
    expected = video[:, 0].expand(3, -1, -1).permute(1, 2, 0).numpy().repeat(factor, 0).repeat(factor, 1) * 255
    seen = frames[0][: expected.shape[0], : expected.shape[1]].astype(float)
    assert np.abs(seen - expected).mean() < 6


def test_a_preview_of_bytes_and_of_fractions_is_the_same() -> None:
    video = noise((3, 4, 16, 16))[0]
    assert write_preview(None, video, 10) == write_preview(None, (video * 255).round().to(torch.uint8), 10)
    with pytest.raises(InputError, match=r"\(C, T, H, W\)"):
        write_preview(None, video[None], 10)
