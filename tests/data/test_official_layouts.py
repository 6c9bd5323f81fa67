from __future__ import annotations

from pathlib import Path

import pytest
from films import film, numbered

from robustvideo.data import UnusableClip, load_data
from robustvideo.data.dataset import VideoDataset
from robustvideo.errors import InputError

SMALL = "frames=4&size=16"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found(data: VideoDataset) -> list[tuple[str, str]]:
    for index in range(len(data)):
        assert data.clip(index).video.shape == (1, 3, 4, 16, 16)
    return [(s.id, data.labels[s.label]) for s in data.samples]


def test_folder(tmp_path: Path) -> None:
    for name in ("walk/b.mkv", "walk/a.avi", "run/deep/c.mp4"):
        codec = {} if name.endswith("mkv") else {"codec": "mpeg4", "pixels": "yuv420p"}
        film(tmp_path / name, numbered(8), **codec)
    write(tmp_path / "walk/notes.txt", "no video")
    write(tmp_path / "walk/.hidden.mkv", "no video")
    (tmp_path / "empty").mkdir()
    data = load_data(f"folder:{tmp_path}?{SMALL}")
    assert found(data) == [("run/deep/c", "run"), ("walk/a", "walk"), ("walk/b", "walk")]
    assert load_data(f"folder:{tmp_path}?exclude=run").labels == ("walk",)
    assert load_data(f"folder:{tmp_path}", labels=("walk", "stand", "run")).samples[0].label == 2


def test_a_folder_without_classes(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", numbered(2))
    with pytest.raises(InputError, match="no video files in sub-folders"):
        load_data(f"folder:{tmp_path}")
    with pytest.raises(InputError, match="is not a folder"):
        load_data(f"folder:{tmp_path}/none")


def test_files_of_one_name_keep_their_suffix_in_the_id(tmp_path: Path) -> None:
    film(tmp_path / "x/a.mkv", numbered(8))
    film(tmp_path / "x/a.avi", numbered(8), codec="mpeg4", pixels="yuv420p")
    data = load_data(f"folder:{tmp_path}?{SMALL}")
    assert found(data) == [("x/a.avi", "x"), ("x/a.mkv", "x")]


@pytest.mark.parametrize("home", ["UCF-101", "."])
@pytest.mark.parametrize("lists", ["ucfTrainTestlist", "."])
def test_ucf101(tmp_path: Path, home: str, lists: str) -> None:
    write(tmp_path / lists / "classInd.txt", "1 Biking\r\n2 Diving\r\n3 Rowing\r\n")
    write(
        tmp_path / lists / "trainlist01.txt",
        "Biking/v_Biking_g08_c01.avi 1\nDiving/v_Diving_g08_c01.avi 2\n",
    )
    write(tmp_path / lists / "testlist01.txt", "Diving/v_Diving_g01_c01.avi\r\nBiking/v_Biking_g01_c01.avi\r\n")
    write(tmp_path / lists / "testlist02.txt", "Biking/v_Biking_g08_c01.avi\n")
    for name in ("Biking/v_Biking_g08_c01", "Diving/v_Diving_g08_c01", "Diving/v_Diving_g01_c01"):
        film(tmp_path / home / f"{name}.avi", numbered(8), codec="mpeg4", pixels="yuv420p")
    train = load_data(f"ucf101:{tmp_path}?fold=1&split=train&{SMALL}")
    assert train.labels == ("Biking", "Diving", "Rowing")
    assert found(train) == [("Biking/v_Biking_g08_c01", "Biking"), ("Diving/v_Diving_g08_c01", "Diving")]
    test = load_data(f"ucf101:{tmp_path}?{SMALL}")
    assert [s.label for s in test.samples] == [1, 0]
    with pytest.raises(UnusableClip, match="does not exist"):
        test.clip(1)
    assert found(load_data(f"ucf101:{tmp_path}?fold=2&{SMALL}")) == [("Biking/v_Biking_g08_c01", "Biking")]
    with pytest.raises(InputError, match=r"testlist03.txt is missing"):
        load_data(f"ucf101:{tmp_path}?fold=3")
    with pytest.raises(InputError, match=r"no validation part.*hold_out="):
        load_data(f"ucf101:{tmp_path}?split=val")


def lists_of_ucf101(folder: Path, train: dict[str, list[str]], test: dict[str, list[str]]) -> Path:
    """The official lists alone: of every class the groups and clips that are in them."""
    write(folder / "classInd.txt", "".join(f"{n} {label}\n" for n, label in enumerate(train, 1)))
    for name, clips in (("train", train), ("test", test)):
        lines = [f"{label}/v_{label}_{clip}.avi\n" for label, own in clips.items() for clip in own]
        write(folder / f"{name}list01.txt", "".join(lines))
    return folder


def test_groups_of_ucf101_are_held_out_of_training(tmp_path: Path) -> None:
    """The last ones of every class, by number, whole; the list has no gap and no doubles."""
    train = {
        "Biking": [f"g{g:02d}_c{c:02d}" for g in (10, 8, 9, 25) for c in (1, 2, 3)],
        "Diving": [f"g{g:02d}_c{c:02d}" for g in (8, 9, 12) for c in (1, 2)],
    }
    lists_of_ucf101(tmp_path, train, {"Biking": ["g01_c01"], "Diving": ["g02_c01"]})

    def ids(options: str) -> list[str]:
        return [s.id.partition("/v_")[2] for s in load_data(f"ucf101:{tmp_path}?{options}").samples]

    whole, rest, held = ids("split=train"), ids("split=train&hold_out=2"), ids("split=val&hold_out=2")
    assert held == [
        *(f"Biking_g{g}_c{c:02d}" for g in ("10", "25") for c in (1, 2, 3)),
        *(f"Diving_g{g}_c{c:02d}" for g in ("09", "12") for c in (1, 2)),
    ]
    assert rest == [clip for clip in whole if clip not in held]
    assert len(ids("split=val&hold_out=1")) == 3 + 2
    assert ids("hold_out=2") == ids("split=test") == ["Biking_g01_c01", "Diving_g02_c01"]
    assert load_data(f"ucf101:{tmp_path}?split=val&hold_out=2").labels == ("Biking", "Diving")


def test_what_cannot_be_held_out_of_ucf101(tmp_path: Path) -> None:
    lists_of_ucf101(tmp_path, {"Biking": ["g08_c01", "g09_c01"]}, {"Biking": ["g01_c01"]})
    with pytest.raises(InputError, match="hold_out=2 leaves nothing of Biking to train on: it has 2 groups"):
        load_data(f"ucf101:{tmp_path}?split=train&hold_out=2")
    with pytest.raises(InputError, match="a number of groups, at least 0"):
        load_data(f"ucf101:{tmp_path}?split=train&hold_out=-1")
    write(tmp_path / "trainlist01.txt", "Biking/somebody.avi 1\n")
    assert len(load_data(f"ucf101:{tmp_path}?split=train")) == 1
    with pytest.raises(InputError, match=r"trainlist01.txt, line 1: somebody is of no group"):
        load_data(f"ucf101:{tmp_path}?split=val&hold_out=1")


def test_hmdb51(tmp_path: Path) -> None:
    lists = tmp_path / "testTrainMulti_7030_splits"
    write(lists / "hug_test_split1.txt", "a (1).avi 1 \nb.avi 2 \nc.avi 0 \n")
    write(lists / "kick_ball_test_split1.txt", "d.avi 2 \n")
    write(lists / "hug_test_split2.txt", "b.avi 1 \n")
    for name in ("hug/a (1)", "hug/b", "kick_ball/d"):
        film(tmp_path / f"hmdb51_org/{name}.avi", numbered(8), codec="mpeg4", pixels="yuv420p")
    assert found(load_data(f"hmdb51:{tmp_path}?split=train&{SMALL}")) == [("hug/a (1)", "hug")]
    test = load_data(f"hmdb51:{tmp_path}?{SMALL}")
    assert test.labels == ("hug", "kick_ball")
    assert found(test) == [("hug/b", "hug"), ("kick_ball/d", "kick_ball")]
    with pytest.raises(InputError, match=r"Found no \*_test_split3.txt"):
        load_data(f"hmdb51:{tmp_path}?fold=3")


ANNOTATIONS = """label,youtube_id,time_start,time_end,split
abseiling,-abc_DEF,10,20,{split}
"air drumming",xyz,3.0,13.0,{split}
gone,nothere,0,10,{split}
"""


@pytest.mark.parametrize("table", ["val.csv", "validate.csv", "annotations/val.csv"])
@pytest.mark.parametrize("place", ["{stem}.mp4", "val/{label}/{stem}.mp4"])
def test_kinetics(tmp_path: Path, table: str, place: str) -> None:
    write(tmp_path / table, ANNOTATIONS.format(split="val"))
    write(tmp_path / "train.csv", "label,youtube_id,time_start,time_end,split\nzumba,q,0,10,train\n")
    for label, stem in (("abseiling", "-abc_DEF_000010_000020"), ("air_drumming", "xyz_000003_000013")):
        path = tmp_path / place.format(label=label, stem=stem)
        film(path, numbered(8), codec="libx264", pixels="yuv420p")
    data = load_data(f"kinetics:{tmp_path}?{SMALL}")
    assert data.labels == ("abseiling", "air drumming", "gone", "zumba")
    assert found(data.subset([0, 1])) == [
        ("-abc_DEF_000010_000020", "abseiling"),
        ("xyz_000003_000013", "air drumming"),
    ]
    with pytest.raises(UnusableClip, match=r"nothere_000000_000010\.mp4 does not exist"):
        data.clip(2)
    assert len(load_data(f"kinetics:{tmp_path}?split=train")) == 1
    with pytest.raises(InputError, match=r"has no test.csv"):
        load_data(f"kinetics:{tmp_path}?split=test")


def test_kinetics_with_a_broken_time(tmp_path: Path) -> None:
    write(tmp_path / "val.csv", "label,youtube_id,time_start,time_end\nx,y,now,later\n")
    with pytest.raises(InputError, match=r"val.csv, line 2: time_start and time_end must be numbers"):
        load_data(f"kinetics:{tmp_path}")
