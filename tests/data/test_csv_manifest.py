from __future__ import annotations

from pathlib import Path

import pytest
from films import film, numbered

from robustvideo.data import UnusableClip, load_data
from robustvideo.data.dataset import VideoDataset
from robustvideo.errors import InputError

SMALL = "frames=4&size=16"


def manifest(folder: Path, text: str, options: str = "") -> VideoDataset:
    table = folder / "clips.csv"
    table.write_text(text, encoding="utf-8")
    return load_data(f"manifest:{table}?{SMALL}{options and '&' + options}")


THREE = """path,label,split,note
walk/a.mkv,walk,train,x
run/b.mkv,run,test,"a, b"
walk/c.mkv,walk,test,

stand/d.mkv,stand,train,x
"""


def names(data: VideoDataset) -> list[tuple[str, str]]:
    return [(s.id, data.labels[s.label]) for s in data.samples]


def test_rows_become_samples(tmp_path: Path) -> None:
    data = manifest(tmp_path, THREE)
    assert data.labels == ("run", "stand", "walk")
    assert names(data) == [("walk/a", "walk"), ("run/b", "run"), ("walk/c", "walk"), ("stand/d", "stand")]
    assert data.samples[1].path == tmp_path / "run/b.mkv"
    assert data.spec.startswith(f"manifest:{tmp_path}")


def test_a_split_keeps_the_numbering_of_the_whole_file(tmp_path: Path) -> None:
    data = manifest(tmp_path, THREE, "split=test")
    assert data.labels == ("run", "stand", "walk")
    assert names(data) == [("run/b", "run"), ("walk/c", "walk")]


def test_a_class_is_excluded_before_numbering(tmp_path: Path) -> None:
    data = manifest(tmp_path, THREE, "exclude=run,stand")
    assert data.labels == ("walk",)
    assert names(data) == [("walk/a", "walk"), ("walk/c", "walk")]


def test_labels_set_the_numbering(tmp_path: Path) -> None:
    assert manifest(tmp_path, THREE, "labels=walk,run,stand,jump").labels == ("walk", "run", "stand", "jump")
    table = tmp_path / "clips.csv"
    data = load_data(f"manifest:{table}?{SMALL}&labels=walk,run,stand", labels=["stand", "run", "walk"])
    assert data.labels == ("stand", "run", "walk")
    assert names(data)[0] == ("walk/a", "walk")


def test_a_label_may_be_an_index(tmp_path: Path) -> None:
    text = "path,label\na.mkv,2\nb.mkv,10\nc.mkv,0\n"
    data = manifest(tmp_path, text)
    assert data.labels == tuple(str(i) for i in range(11))
    assert [s.label for s in data.samples] == [2, 10, 0]
    data = manifest(tmp_path, "path,label\na.mkv,2\nb.mkv,run\n", "labels=run,walk,stand")
    assert [s.label for s in data.samples] == [2, 0]


def test_ids_and_roots(tmp_path: Path) -> None:
    film(tmp_path / "videos/a.mkv", numbered(40))
    text = "id,path,label,start,end\nfirst,a.mkv,x,0,2\nsecond,a.mkv,x,2,\n,a.mkv,x,,\n"
    data = manifest(tmp_path, text, f"root={tmp_path / 'videos'}&stride=1")
    assert [s.id for s in data.samples] == ["first", "second", "a"]
    middles = [round(float(data.clip(i).video[0, 0, 0, 0, 0] * 255)) for i in range(3)]
    assert middles == [8, 28, 18]


def test_views_are_samples_of_their_own(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", numbered(40))
    data = manifest(tmp_path, "path,label\na.mkv,x\n", "stride=2&views=3")
    assert [s.id for s in data.samples] == ["a#v0", "a#v1", "a#v2"]
    assert [round(float(data.clip(i).video[0, 0, 0, 0, 0] * 255)) for i in range(3)] == [0, 16, 33]
    assert data.clip(2).ids == ("a#v2",)


def test_a_missing_video_is_told_when_it_is_read(tmp_path: Path) -> None:
    film(tmp_path / "run/b.mkv", numbered(10))
    data = manifest(tmp_path, THREE)
    assert data.clip(1).video.shape == (1, 3, 4, 16, 16)
    with pytest.raises(UnusableClip, match=r"walk/a.mkv does not exist"):
        data.clip(0)


def test_ids_that_files_or_parts_would_share_are_told_apart(tmp_path: Path) -> None:
    text = "id,path,label,start,end\n,a.mkv,x,,\n,a.avi,x,,\n,b.mkv,x,0,2.5\n,b.mkv,x,2.5,\n,c.mkv,x,1,2\nd,e.mkv,x,,\n"
    expected = ["a.mkv", "a.avi", "b#0-2.5", "b#2.5-", "c", "d"]
    assert [s.id for s in manifest(tmp_path, text).samples] == expected
    header, *rows = text.splitlines()
    turned = manifest(tmp_path, "\n".join([header, *reversed(rows)]))
    assert [s.id for s in turned.samples] == expected[::-1]
    text = "id,path,label\n,a.mkv,x\na,b.mkv,x\n"
    assert [s.id for s in manifest(tmp_path, text).samples] == ["a.mkv", "a"]


def test_an_absolute_path_inside_the_root_is_as_good_as_a_relative_one(tmp_path: Path) -> None:
    film(tmp_path / "run/b.mkv", numbered(10))
    data = manifest(tmp_path, f"path,label\n{tmp_path}/run/b.mkv,x\n")
    assert data.clip(0).ids == ("run/b",)


def test_blanks_around_names_and_values_do_not_matter(tmp_path: Path) -> None:
    data = manifest(tmp_path, 'path, label , note\n a.mkv, walk, "a, b"\n')
    assert names(data) == [("a", "walk")]


def test_a_manifest_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clips.csv").write_text("path,label\na.mkv,x\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read whatever its mode says
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        load_data(f"manifest:{tmp_path / 'clips.csv'}")


def test_a_link_to_the_whole_folder_is_no_escape(tmp_path: Path) -> None:
    film(tmp_path / "real/a.mkv", numbered(10))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real/clips.csv").write_text("path,label\na.mkv,x\n")
    assert load_data(f"manifest:{tmp_path}/link/clips.csv?{SMALL}").clip(0).ids == ("a",)


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("path,label\na.mkv,x\n", encoding="utf-8-sig")
    assert len(load_data(f"manifest:{tmp_path}/clips.csv")) == 1


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,klass\na.mkv,x\n", "", r"no column 'label': its first line is 'path,klass'"),
        ("file,label\na.mkv,x\n", "", "no column 'path'"),
        ("path,label\n", "", "has no rows"),
        ("", "", "no column 'path'"),
        ("path,label\na.mkv,\n", "", "clips.csv, line 2 has no label"),
        ("path,label\n,x\n", "", "line 2 has no path"),
        ("path,label\na.mkv\n", "", "line 2 has no label"),
        ("path,label\na.mkv,x,y\n", "", "line 2 has more values than there are columns"),
        ("path,label\na.mkv,x\nb/../../c.mkv,x\n", "", r"line 3: the path 'b/\.\./\.\./c.mkv' leads out"),
        ("path,label\n/etc/passwd,x\n", "", "line 2: the path '/etc/passwd' leads out"),
        ("path,label\nout/a.mkv,x\n", "", "line 2: the path 'out/a.mkv' leads out"),
        ("path,label\n.,x\n", "", r"line 2: '\.' is no path of a file"),
        ("path,label\na\0.mkv,x\n", "", "line 2: .* is no path|not a CSV file"),
        ("path,label\na.mkv,x\na.mkv,x\n", "", "id 'a' is given twice .clips.csv, line 2 and clips.csv, line 3"),
        ("id,path,label\no,a.mkv,x\no,a.avi,x\n", "", "id 'o' is given twice .*a manifest's column id"),
        ("path;label\na.mkv;x\n", "", "no column 'path': .*with semicolons between the columns, where commas"),
        ("path\tlabel\na.mkv\tx\n", "", "no column 'path': .*with tabs between the columns, where commas"),
        ("path,label\na.mkv,run\nb.mkv,walk\n", "labels=run,wolk", r"label \(clips.csv, line 3\) 'walk': did you mean"),
        ("path,label\na.mkv,7\n", "labels=run,walk", r"label \(clips.csv, line 2\) '7'"),
        ("path,label\na.mkv,99999999999\n", "", "no class index"),
        (THREE, "split=tset", "Unknown split of .*'tset': did you mean 'test'"),
        ("path,label\na.mkv,x\n", "split=test", "no column 'split'"),
        (THREE, "exclude=wlak", "class to exclude: 'wlak': did you mean 'walk'"),
        (THREE, "exclude=run,walk,stand", "selects no clip"),
        ("path,label,start\na.mkv,x,soon\n", "", "line 2: start is 'soon', not a time"),
        ("path,label,end\na.mkv,x,nan\n", "", "line 2: end is 'nan', not a time"),
        ("path,label,start,end\na.mkv,x,3,2\n", "", "line 2: the clip ends at 2 s"),
        (THREE, "framez=4", "Unknown option of manifest: 'framez': did you mean 'frames'"),
        (THREE, "stride=x", r"manifest:\.\.\.\?stride=x: input should be a valid integer"),
        (THREE, "fit=crop", "fit=crop: input should be 'square', 'letterbox' or 'stretch'"),
        (THREE, "views=0", "views= must be positive"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, options: str, message: str) -> None:
    outside = tmp_path / "outside"
    film(outside / "a.mkv", numbered(2))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/out").symlink_to(outside)
    with pytest.raises(InputError, match=message) as caught:
        manifest(tmp_path / "set", text, options)
    assert "\n" not in str(caught.value)


def test_what_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    (tmp_path / "b.csv").write_text('path,label\n"a.mkv,x\n')
    for name, message in (("a.csv", "UTF-8"), ("b.csv", "not a CSV"), ("c.csv", "does not exist"), ("", "not exist")):
        with pytest.raises(InputError, match=message):
            load_data(f"manifest:{tmp_path / name}")


LOUD = "path,label,rms,person\n" + "".join(f"{c}/{i:02d}.mkv,{c},{0.1 * (i % 2)},\n" for c in "ab" for i in range(20))


def test_rows_below_a_number_are_left_out_and_the_others_divided_in_blocks(tmp_path: Path) -> None:
    parts = {
        split: [s.id for s in manifest(tmp_path, LOUD, f"at_least=rms:0.05&divide=7,1,2&split={split}").samples]
        for split in ("train", "val", "test")
    }
    odd = [[f"{c}/{i:02d}" for i in range(1, 20, 2)] for c in "ab"]
    assert parts["train"] == odd[0][:7] + odd[1][:7]
    assert parts["val"] == odd[0][7:8] + odd[1][7:8]
    assert parts["test"] == odd[0][8:] + odd[1][8:]


def test_a_number_of_clips_is_spread_over_the_list(tmp_path: Path) -> None:
    assert [s.id for s in manifest(tmp_path, LOUD, "clips=4").samples] == ["a/05", "a/15", "b/05", "b/15"]
    assert len(manifest(tmp_path, LOUD, "clips=39").samples) == 39
    assert len(manifest(tmp_path, LOUD, "clips=41").samples) == 40, "no more than there are"
    assert [s.id for s in manifest(tmp_path, LOUD, "clips=1&views=2&stride=1").samples] == ["b/00#v0", "b/00#v1"]
    assert manifest(tmp_path, LOUD, "clips=1").labels == ("a", "b")
    with pytest.raises(InputError, match="clips= is at least 1"):
        manifest(tmp_path, LOUD, "clips=0")


PARTS = ("train", "val", "test")


def divided(folder: Path, rows: list[str], options: str = "divide=6,1,3") -> dict[str, list[tuple[str, str]]]:
    """Of every part the files and the labels of its rows."""
    text = "path,label,person,start,end\n" + "\n".join(rows)
    parts = {split: manifest(folder, text, f"{options}&split={split}") for split in PARTS}
    return {split: [(s.path.name, data.labels[s.label]) for s in data.samples] for split, data in parts.items()}


def test_rows_of_one_file_are_never_divided(tmp_path: Path) -> None:
    parts = divided(tmp_path, [f"v{i // 5:02d}.mkv,x,,{i % 5},{i % 5 + 1}" for i in range(60)])
    files = [sorted({name for name, _ in part}) for part in parts.values()]
    assert [len(own) for own in files] == [7, 1, 4], "12 files in the shares 6 : 1 : 3"
    assert [name for own in files for name in own] == [f"v{i:02d}.mkv" for i in range(12)]


def test_a_file_of_two_classes_is_not_divided_either(tmp_path: Path) -> None:
    rows = [f"v{i}.mkv,y,,0,1" for i in range(20)] + [f"./v{i}.mkv,x,,1,2" for i in reversed(range(20))]
    parts = divided(tmp_path, rows)
    assert sum(len(part) for part in parts.values()) == 40
    files = [{name for name, _ in part} for part in parts.values()]
    assert [len(own) for own in files] == [12, 2, 6], "every file once, with both of its rows"


def test_a_column_names_what_is_not_divided(tmp_path: Path) -> None:
    rows = [f"{c}{i}.mkv,{c},p{i % 10},," for c in "ab" for i in range(20)]
    parts = divided(tmp_path, rows, "divide=6,1,3&group=person")
    persons = [{int(name[1:-4]) % 10 for name, _ in part} for part in parts.values()]
    assert persons == [set(range(6)), {6}, {7, 8, 9}]
    # a file of two persons ties them and all their other files together
    tied = divided(tmp_path, ["a0.mkv,a,p0,0,1", "a0.mkv,a,p9,1,2", *rows[1:]], "divide=6,1,3&group=person")
    with_9 = next(part for part in tied.values() if ("b9.mkv", "b") in part)
    assert {("a0.mkv", "a"), ("a10.mkv", "a"), ("a19.mkv", "a"), ("b0.mkv", "b")} <= set(with_9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("at_least=rms", "a column and a number"),
        ("group=rms", "group= says which rows divide= must not separate"),
        ("divide=7,1,2&group=rsm", "column of group=rsm.*did you mean 'rms'"),
        ("divide=7,1,2&group=person", "line 2 has no person"),
        ("at_least=label:1", "line 2: label is 'a', not a number"),
        ("divide=7,3", "three whole shares"),
        ("divide=7,-1,2", "three whole shares"),
    ],
)
def test_a_choice_of_rows_that_makes_no_sense(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        manifest(tmp_path, LOUD, options)
