from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import disturbed, moving_square

from robustvideo.errors import InputError
from robustvideo.report.clips import amplification, choose, key_frames, load_preview, make_preview
from robustvideo.report.series import load_series


def decode(video: bytes) -> torch.Tensor:
    """(C, T, H, W) in [0, 1]."""
    with av.open(io.BytesIO(video)) as container:
        frames = [torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    return torch.stack(frames).permute(3, 0, 1, 2).float() / 255


@pytest.mark.parametrize(("height", "width"), [(32, 32), (45, 61), (112, 112), (180, 320)])
def test_the_three_panels_hold_clean_adversarial_and_amplified_difference(height: int, width: int) -> None:
    clean = torch.full((3, 6, height, width), 0.3)
    clean[:, :, :, width // 2 :] = 0.7
    adversarial = clean.clone()
    adversarial[:, 4, : height // 2] += 8 / 255
    adversarial[:, 4, height // 2 :] -= 8 / 255
    preview = make_preview(clean, adversarial)
    assert preview.factor == 15
    video = decode(preview.video)
    assert video.shape[1] == preview.frames == 6
    assert preview.height <= video.shape[2]
    panels = [video[:, :, : preview.height, i * preview.stride :][..., : preview.width] for i in range(3)]
    assert (panels[0][..., : preview.width // 3].mean() - 0.3).abs() < 0.03
    assert (panels[1][:, 0, :, -preview.width // 3 :].mean() - 0.7).abs() < 0.03
    still, disturbed_frame = panels[2][:, 0], panels[2][:, 4]
    assert (still.mean() - 0.5).abs() < 0.03
    third = preview.height // 3
    assert disturbed_frame[:, :third].mean() > 0.9
    assert disturbed_frame[:, -third:].mean() < 0.1
    assert 4 in preview.key_frames


def test_small_clips_keep_their_pixels() -> None:
    preview = make_preview(torch.rand(3, 2, 32, 32), torch.rand(3, 2, 32, 32))
    assert (preview.width, preview.height) == (128, 128)


def test_grey_clips_and_unchanged_clips_have_a_preview() -> None:
    clean = moving_square(0)[:1].float() / 255
    preview = make_preview(clean, clean)
    assert preview.factor == 0
    assert decode(preview.video).shape[1] == clean.shape[1]


@given(st.integers(1, 255))
def test_amplification_uses_the_range_without_leaving_it(levels: int) -> None:
    factor = amplification(levels / 255)
    assert factor == 1 or factor * levels / 255 <= 0.5 + 1e-5
    assert (factor + 1) * levels / 255 > 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=80))
def test_key_frames_rise_and_hold_the_most_disturbed_one(rms: list[float]) -> None:
    keys = key_frames(rms)
    assert len(keys) == min(4, len(rms))
    assert list(keys) == sorted(set(keys))
    assert rms.index(max(rms)) in keys


def test_chosen_clips_show_outcomes_attacks_and_clips_evenly(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    chosen = choose(series, ("linf", 8 / 255), 8)
    assert len(chosen) == len({(r.sample_id, r.attack, r.eps) for r in chosen}) == 8
    assert {r.success for r in chosen} == {True, False}
    assert len({r.attack for r in chosen}) >= 4
    assert len({r.sample_id for r in chosen}) >= 3
    assert all(r.eps == pytest.approx(8 / 255) for r in chosen)


def test_a_saved_clip_is_read_back(run_dir: Path) -> None:
    (series,) = load_series([run_dir])
    record = choose(series, None, 1)[0]
    preview = load_preview(run_dir, record)
    clean = moving_square(int(record.sample_id[5:8]))
    expected = make_preview(clean.float() / 255, disturbed(clean, round(record.eps * 255), 0).float() / 255)
    assert (preview.frames, preview.width) == (expected.frames, expected.width)
    assert preview.thumbnail.startswith(b"\xff\xd8")
    assert preview.sheet.startswith(b"\xff\xd8")


def test_a_clip_that_cannot_be_shown_says_why(run_dir: Path, tmp_path: Path) -> None:
    (series,) = load_series([run_dir])
    record = choose(series, None, 1)[0]
    with pytest.raises(InputError, match="missing"):
        load_preview(run_dir, replace(record, clip_file="clips/none/pgd.mkv"))
    with pytest.raises(InputError, match="outside the run"):
        load_preview(run_dir, replace(record, clip_file="../../../etc/passwd"))
    linked = tmp_path / "run" / "clips" / "linked"
    linked.mkdir(parents=True)
    (linked / "pgd.mkv").write_bytes((run_dir / record.clip_file).read_bytes())
    (linked / "clean.mkv").symlink_to((run_dir / record.clip_file).with_name("clean.mkv"))
    with pytest.raises(InputError, match="outside the run"):
        load_preview(tmp_path / "run", replace(record, clip_file="clips/linked/pgd.mkv"))
    broken = tmp_path / "clips" / "broken"
    broken.mkdir(parents=True)
    for name in ("clean.mkv", "pgd.mkv"):
        (broken / name).write_bytes((run_dir / record.clip_file).read_bytes()[:300])
    with pytest.raises(InputError, match="cannot be read"):
        load_preview(tmp_path, replace(record, clip_file="clips/broken/pgd.mkv"))
