from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from films import LOSSLESS, REORDERED, film, numbered, rotate
from torchvision.transforms.v2 import functional as transforms

from robustvideo.data import container, decode
from robustvideo.data.dataset import UnusableClip
from robustvideo.data.decode import Stretch, decode_frames, probe
from robustvideo.data.picture import Picture
from robustvideo.data.reading import Reading, read_clip
from robustvideo.data.sampling import Sampling, Timeline
from robustvideo.data.sound import Sound

NATIVE = Picture(size=None)


def levels(path: Path, sampling: Sampling, stretch: Stretch = decode.WHOLE) -> list[int]:
    """The grey levels of a clip's frames, each of which must be one flat grey."""
    video = read_clip(path, Reading(sampling, NATIVE), stretch).video
    assert video.dtype == torch.uint8
    assert (video == video[:1, :, :1, :1]).all()
    return video[0, :, 0, 0].tolist()


def everything(path: Path) -> list[int]:
    return decode_frames(path, lambda t: range(len(t)), NATIVE).video[0, :, 0, 0].tolist()


@pytest.mark.parametrize(("suffix", "style"), [("mkv", LOSSLESS), ("mkv", REORDERED), ("avi", REORDERED)])
def test_sampling_meets_the_frames_it_means(tmp_path: Path, suffix: str, style: dict[str, str]) -> None:
    path = film(tmp_path / f"a.{suffix}", numbered(50), **style)
    assert everything(path) == list(range(50))
    assert levels(path, Sampling(frames=5)) == [5, 15, 25, 35, 45]
    assert levels(path, Sampling(frames=4, stride=3)) == [20, 23, 26, 29]
    assert levels(path, Sampling(frames=4, stride=3, start=40)) == [40, 43, 46, 49]


def test_probe_counts_and_measures(tmp_path: Path) -> None:
    sound = np.zeros((2, 4000), np.int16)
    facts = probe(film(tmp_path / "a.mkv", numbered(25, 24, 36), fps=12.5, sound=sound, rate=8000))
    assert (facts.frames, facts.width, facts.height, facts.rotation) == (25, 36, 24, 0)
    assert facts.fps == pytest.approx(12.5, rel=1e-3)
    assert facts.duration == pytest.approx(2.0, rel=1e-3)
    assert (facts.audio_rate, facts.audio_channels) == (8000, 2)


def test_variable_frame_rate_is_sampled_in_time_with_fps_and_in_order_without(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 1.0, 1.8, 1.9, 2.0, 2.1]
    path = film(tmp_path / "a.mkv", numbered(8), times=times)
    assert levels(path, Sampling(frames=8, stride=1)) == list(range(8))
    # on display at 0, 0.4, 0.8, 1.2, 1.6, 2.0 seconds
    assert levels(path, Sampling(frames=5, stride=1, start=0, fps=2.5)) == [0, 2, 2, 3, 3]
    assert levels(path, Sampling(frames=1, stride=1, start=5, fps=2.5)) == [6]


@pytest.mark.parametrize("style", [LOSSLESS, REORDERED])
def test_a_stretch_in_seconds(tmp_path: Path, style: dict[str, str]) -> None:
    path = film(tmp_path / "a.mkv", numbered(50), **style)
    assert levels(path, Sampling(frames=10, stride=1), Stretch(2.0, 3.0)) == list(range(20, 30))
    assert levels(path, Sampling(frames=2), Stretch(4.0)) == [42, 47]
    with pytest.raises(UnusableClip, match=r"from 2 s to 3 s has 10 frames, 11 are needed"):
        levels(path, Sampling(frames=11, stride=1), Stretch(2.0, 3.0))
    with pytest.raises(UnusableClip, match=r"from 6 s to its end holds no video frame"):
        levels(path, Sampling(frames=1), Stretch(6.0))


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi", "ts"])
def test_seeking_gives_what_decoding_from_the_start_gives(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = {"codec": "libx264", "pixels": "yuv420p", "options": {"g": "25", "bf": "2"}}
    path = film(tmp_path / f"a.{suffix}", numbered(250, step=5), **style)
    passed = []
    monkeypatch.setattr(decode, "decoded", lambda *a: (passed.append(f) or f for f in container.decoded(*a)))

    def read() -> tuple[list[int], int]:
        passed.clear()
        return levels(path, Sampling(frames=20, stride=1), Stretch(20.0, 22.0)), len(passed)

    sought, few = read()
    monkeypatch.setattr(decode, "_SEEK_BEYOND", 1e9)
    plain, many = read()
    assert sought == plain
    assert max(abs(a - (5 * i) % 256) for i, a in enumerate(plain, 200)) <= 2
    if suffix in ("mkv", "mp4"):
        assert few < 80 < 200 < many


def test_frames_that_do_not_fit_into_memory_are_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "a.mkv", numbered(50), **REORDERED)
    monkeypatch.setattr(decode, "_KEPT_BYTES", 3 * 24 * 32 * 7)
    assert levels(path, Sampling(frames=5)) == [5, 15, 25, 35, 45]
    assert levels(path, Sampling(frames=3, pad="loop", stride=30)) == [0, 30, 10]


@pytest.mark.parametrize(
    ("matrix", "turns"), [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_rotation_in_the_header_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int], turns: int) -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :16] = 255  # x' = a x + c y moves this corner
    path = film(tmp_path / "a.mp4", [image] * 3, codec="libx264", pixels="yuv420p", options={"crf": "1"})
    rotate(path, matrix)
    shown = np.rot90(image, turns)
    video = decode_frames(path, lambda _: [0], NATIVE).video[:, 0].permute(1, 2, 0).numpy()
    assert video.shape == shown.shape
    assert np.abs(video.astype(int) - shown.astype(int)).mean() < 4
    facts = probe(path)
    assert (facts.height, facts.width) == shown.shape[:2]
    assert facts.rotation % 360 == (turns * 90) % 360


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[...] = (250, 100, 20)
    video = decode_frames(film(tmp_path / "a.mkv", [image]), lambda _: [0], NATIVE).video
    assert video[:, 0, 3, 3].tolist() == [250, 100, 20]


def test_fit(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    path = film(tmp_path / "a.mkv", [image])
    frame = torch.from_numpy(image).permute(2, 0, 1)

    def fitted(picture: Picture) -> torch.Tensor:
        return decode_frames(path, lambda _: [0], picture).video[:, 0]

    def close(a: torch.Tensor, b: torch.Tensor) -> bool:
        return a.shape == b.shape and int((a.int() - b.int()).abs().max()) <= 1

    assert torch.equal(fitted(NATIVE), frame)
    assert torch.equal(fitted(Picture(60)), frame[:, :, 15:75])
    assert close(fitted(Picture(24)), transforms.resize(frame[:, :, 15:75], [24, 24], antialias=True))
    assert close(fitted(Picture(24, "stretch")), transforms.resize(frame, [24, 24], antialias=True))
    boxed = fitted(Picture(45, "letterbox"))
    assert close(boxed[:, 7:37], transforms.resize(frame, [30, 45], antialias=True))
    assert not boxed[:, :7].any()
    assert not boxed[:, 37:].any()


def test_letterbox_keeps_a_line_of_an_extreme_frame(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", [np.full((2, 200, 3), 255, np.uint8)])
    video = decode_frames(path, lambda _: [0], Picture(10, "letterbox")).video[0, 0]
    assert (video == 255).all(1).sum() == 1


def damaged(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.mp4"
    style = {"codec": "libx264", "pixels": "yuv420p"}
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(20)]
    match kind:
        case "missing":
            pass
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "garbage":
            path.write_bytes(rng.bytes(300_000))
        case "text":
            path.write_text("path,label\nclip.mp4,run\n" * 2000)
        case "playlist":
            film(tmp_path / "other.mp4", numbered(20), **style)
            path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n")
        case "script":
            film(tmp_path / "other.mp4", numbered(20), **style)
            path.write_text("ffconcat version 1.0\nfile other.mp4\n")
        case "truncated":  # the index is at the end
            film(path, noise, **style)
            path.write_bytes(path.read_bytes()[:-2000])
        case "flipped":
            film(path, noise, **style)
            content = bytearray(path.read_bytes())
            for at in rng.integers(len(content) // 3, len(content) // 2, 40):
                content[at] ^= 0xFF
            path.write_bytes(content)
        case "sound_only":
            import av

            with av.open(str(path), "w") as target:
                track = target.add_stream("aac", rate=8000)
                piece = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
                piece.sample_rate = 8000
                target.mux(track.encode(piece))
                target.mux(track.encode())
    return path


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("folder", "is not a file"),
        ("empty", "damaged, or no video"),
        ("garbage", "damaged, or no video"),
        ("text", "damaged, or no video"),
        ("playlist", "damaged, or no video"),
        ("script", "damaged, or no video"),
        ("truncated", "holds no video|damaged"),
        ("flipped", "damaged"),
        ("sound_only", "holds only sound"),
    ],
)
def test_a_file_that_gives_no_clip_is_told_in_one_sentence(tmp_path: Path, kind: str, message: str) -> None:
    path = damaged(tmp_path, kind)
    for read in (probe, lambda p: read_clip(p, Reading(Sampling(4), sound=Sound(audio_rate=8000, audio_seconds=2)))):
        with pytest.raises(UnusableClip, match=message) as caught:
            read(path)
        text = str(caught.value)
        assert str(path) in text
        assert "\n" not in text
        assert text.endswith(".")


def test_a_file_cut_short_between_frames_gives_the_frames_it_has(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", numbered(40))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    count = probe(path).frames
    assert 10 < count < 40
    assert everything(path) == list(range(count))
    with pytest.raises(UnusableClip, match=f"has {count} frames, 40 are needed: ask for fewer, or give pad=loop"):
        levels(path, Sampling(frames=40, stride=1))


def test_one_frame_is_told_as_one(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", numbered(1))
    with pytest.raises(UnusableClip, match="has 1 frame, 2 are needed"):
        levels(path, Sampling(frames=2, stride=1))


@pytest.mark.timeout(60)
def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sound = rng.integers(-9000, 9000, (1, 8000)).astype(np.int16)
    whole = [
        film(tmp_path / "a.mp4", numbered(10), codec="libx264", pixels="yuv420p", sound=sound, audio_codec="aac"),
        film(tmp_path / "a.mkv", numbered(10), sound=sound),
        film(tmp_path / "a.avi", numbered(10), codec="mpeg4", pixels="yuv420p", sound=sound),
    ]
    for path in whole:
        content = path.read_bytes()
        for _ in range(40):
            broken = bytearray(content[: rng.integers(1, len(content) + 1)])
            for at in rng.integers(0, len(broken), rng.integers(0, 20)):
                broken[at] = rng.integers(256)
            path.write_bytes(broken)
            try:
                clip = read_clip(path, Reading(Sampling(8), Picture(16), Sound(audio_rate=4000, audio_seconds=2)))
            except UnusableClip:
                continue
            assert clip.video.shape == (3, 8, 16, 16)
            assert clip.audio is not None
            assert clip.audio.shape == (1, 8000)


def test_frames_without_end_or_measure_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "a.mkv", numbered(10))
    monkeypatch.setattr(container, "MAX_FRAMES", 9)
    with pytest.raises(UnusableClip, match="more than 9 frames"):
        everything(path)
    monkeypatch.setattr(container, "MAX_PIXELS", 24 * 32 - 1)
    with pytest.raises(UnusableClip, match="32x24 pixels, more than the 767 allowed"):
        everything(path)


def test_a_tag_in_an_old_encoding_does_not_matter(tmp_path: Path) -> None:
    import av

    path = film(tmp_path / "a.mkv", numbered(3))
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        target.metadata["title"] = "Zuerich"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "b.mkv").read_bytes()
    assert b"Zuerich" in content
    (tmp_path / "b.mkv").write_bytes(content.replace(b"Zuerich", b"Z\xfcrich\xe9"))
    assert everything(tmp_path / "b.mkv") == [0, 1, 2]


def test_every_container_is_closed(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", numbered(30), sound=np.zeros((1, 8000), np.int16))
    bad = damaged(tmp_path, "garbage")
    reading = Reading(Sampling(4, stride=1, fps=10), Picture(8), Sound(audio_rate=8000))
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        read_clip(path, reading, Stretch(0.0, 1.0))
        with pytest.raises(UnusableClip):
            read_clip(bad, reading)
    assert len(list(descriptors.iterdir())) <= before


def test_choose_is_given_the_times(tmp_path: Path) -> None:
    seen: list[Timeline] = []

    def choose(timeline: Timeline) -> list[int]:
        seen.append(timeline)
        return [0]

    decode_frames(film(tmp_path / "a.mkv", numbered(20), times=[i / 8 for i in range(20)]), choose, NATIVE)
    assert len(seen) == 1
    assert seen[0].times == pytest.approx([i / 8 for i in range(20)])
    assert seen[0].end == pytest.approx(20 / 8, abs=0.06)
