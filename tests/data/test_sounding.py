"""Kinetics-Sounds and MIT-MUSIC, as they may lie on a disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from films import film, numbered

from robustvideo.data import load_data
from robustvideo.data.sounding import INSTRUMENTS, KINETICS_SOUNDS
from robustvideo.errors import InputError

SMALL = "frames=4&size=16&audio_rate=8000&audio_seconds=0.5"


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def ids(spec: str) -> list[str]:
    return [sample.id for sample in load_data(spec).samples]


def test_annotation_files_are_kinetics_own_cut_to_the_classes(tmp_path: Path) -> None:
    head = "label,youtube_id,time_start,time_end\n"
    (tmp_path / "val.csv").write_text(head + "abseiling,a,0,10\nplaying drums,b,0,10\nmowing lawn,c,0,10\n")
    (tmp_path / "train.csv").write_text(head + "tickling,d,0,10\n")
    sound = np.full((1, 8000), 1000, np.int16)
    film(tmp_path / "b_000000_000010.mkv", numbered(10), sound=sound, rate=8000)
    data = load_data(f"kinetics_sounds:{tmp_path}?split=val&{SMALL}")
    assert data.labels == ("playing drums", "tickling")
    assert [(s.id, s.label) for s in data.samples] == [("b_000000_000010", 0)]
    clip = data.clip(0)
    assert clip.audio is not None
    assert clip.audio.shape == (1, 1, 4000)
    assert clip.audio.abs().max() > 0.03
    more = load_data(f"kinetics_sounds:{tmp_path}?split=val&classes=31")
    assert more.labels == ("mowing lawn", "playing drums", "tickling")


def test_folders_are_divided_and_parts_of_a_video_stay_together(tmp_path: Path) -> None:
    for number in range(20):
        for start in (0, 10):
            touch(tmp_path / "playing_piano" / f"v{number}_{start:06d}_{start + 10:06d}.mp4")
    touch(tmp_path / "tap dancing" / "x.mp4")
    touch(tmp_path / "yodelling" / "y.mp4")
    splits = {s: ids(f"kinetics_sounds:{tmp_path}?split={s}") for s in ("train", "val", "test")}
    pianos = {s: {i for i in found if "piano" in i} for s, found in splits.items()}
    assert {s: len(found) for s, found in pianos.items()} == {"train": 28, "val": 8, "test": 4}
    assert len(set.union(*pianos.values())) == 40
    taken = [{i.rsplit("_", 2)[0] for i in found} for found in pianos.values()]
    assert not taken[0] & taken[1] | taken[1] & taken[2] | taken[0] & taken[2]
    assert [i for found in splits.values() for i in found if "tap" in i] == ["tap dancing/x"]
    assert not any("yodel" in i for found in splits.values() for i in found)
    assert load_data(f"kinetics_sounds:{tmp_path}?split=train").labels == tuple(sorted(KINETICS_SOUNDS))


@pytest.mark.parametrize("place", [".", "MUSIC_dataset"])
def test_the_list_of_music(tmp_path: Path, place: str) -> None:
    table = tmp_path / place / "MUSIC_solo_videos.json"
    table.parent.mkdir(exist_ok=True)
    listed = {"violin": [f"v{i}" for i in range(10)], "acoustic_guitar": ["g"], "drum": ["d"]}
    table.write_text(json.dumps({"videos": listed}))
    touch(tmp_path / "solo/violin/v3.mp4")
    splits = {s: load_data(f"music:{tmp_path}?split={s}") for s in ("train", "val", "test")}
    violins = {s: sum(x.id.startswith("v") for x in data.samples) for s, data in splits.items()}
    assert violins == {"train": 7, "val": 1, "test": 2}
    assert splits["train"].labels == INSTRUMENTS
    everything = [x for data in splits.values() for x in data.samples]
    assert {x.id for x in everything} == {*listed["violin"], "g"}
    assert next(x for x in everything if x.id == "v3").path == tmp_path / "solo/violin/v3.mp4"


def test_folders_of_music_without_duets(tmp_path: Path) -> None:
    for number in range(10):
        touch(tmp_path / "solo" / "tuba" / f"{number}.mp4")
    touch(tmp_path / "duet" / "tuba" / "0.mp4")
    found = [i for s in ("train", "val", "test") for i in ids(f"music:{tmp_path}?split={s}")]
    assert sorted(found) == [f"solo/tuba/{n}" for n in range(10)]


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        load_data(f"music:{tmp_path / 'none'}")
    touch(tmp_path / "other" / "a.mp4")
    with pytest.raises(InputError, match="named after one of the classes"):
        load_data(f"kinetics_sounds:{tmp_path}")
    (tmp_path / "MUSIC_solo_videos.json").write_text("[1]")
    with pytest.raises(InputError, match="no list of MIT-MUSIC"):
        load_data(f"music:{tmp_path}")
