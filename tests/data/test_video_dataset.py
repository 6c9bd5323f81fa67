from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from films import film, numbered
from torch.utils.data import DataLoader

from robustvideo.clip import Clip
from robustvideo.data import Sample, VideoDataset, collate, file_dataset, load_data, schemes
from robustvideo.errors import InputError
from robustvideo.randomness import seed_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(["run/a", "run/b", "walk/c", "walk/d", "walk/e"]):
        sound = torch.randint(-9000, 9000, (1, 16000)).short().numpy()
        film(tmp_path / f"set/{name}.mkv", [f + number for f in numbered(20)], sound=sound)
    return tmp_path / "set"


def spec(folder: Path, options: str = "") -> str:
    return f"folder:{folder}?frames=4&size=16{options and '&' + options}"


def same(a: Clip, b: Clip) -> bool:
    sounds = a.audio is b.audio is None or (
        a.audio is not None and b.audio is not None and torch.equal(a.audio, b.audio)
    )
    return a.ids == b.ids and torch.equal(a.video, b.video) and sounds and a.sample_rate == b.sample_rate


def test_a_clip_is_on_the_grid_and_named_after_its_sample(folder: Path) -> None:
    data = load_data(spec(folder, "audio=true&audio_seconds=2"))
    for index, sample in enumerate(data.samples):
        clip = data.clip(index)
        assert clip.ids == (sample.id,)
        assert clip.video.dtype == torch.float32
        assert clip.video.shape == (1, 3, 4, 16, 16)
        assert torch.equal((clip.video * 255).round() / 255, clip.video)
        assert clip.audio is not None
        assert torch.equal((clip.audio * 32768).round() / 32768, clip.audio)
        clip.check_range()


def test_a_subset_keeps_ids_and_labels(folder: Path) -> None:
    data = load_data(spec(folder))
    part = data.subset([4, 0]).subset([1, 0])
    assert [s.id for s in part.samples] == ["run/a", "walk/e"]
    assert [part[i][1] for i in range(len(part))] == [0, 1]
    assert same(part.clip(1), data.clip(4))
    with pytest.raises(InputError, match="no clip 5 in folder:"):
        data.subset([5])
    with pytest.raises(InputError, match="no clip -1"):
        data.subset([-1])


def test_relabelling_by_a_model(folder: Path) -> None:
    data = load_data(spec(folder)).subset([1, 2]).relabelled(["walk", "sit", "run"])
    assert data.labels == ("walk", "sit", "run")
    assert [s.label for s in data.samples] == [2, 0]
    with pytest.raises(InputError, match=r"Class 'run' of folder:.* is none of the model's 2 classes"):
        load_data(spec(folder)).relabelled(["walk", "sit"])
    assert len(load_data(spec(folder)).subset([3]).relabelled(["walk"])) == 1


def test_the_fingerprint_changes_with_everything_that_changes_a_clip(folder: Path, tmp_path: Path) -> None:
    data = load_data(spec(folder))
    prints = [
        data.fingerprint(),
        load_data(spec(folder, "stride=2")).fingerprint(),
        load_data(spec(folder, "fit=stretch")).fingerprint(),
        load_data(spec(folder, "audio_rate=8000&audio_seconds=2")).fingerprint(),
        load_data(spec(folder), labels=("walk", "run")).fingerprint(),
        data.subset([0, 1]).fingerprint(),
        data.subset([1, 0]).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    (tmp_path / "moved").symlink_to(folder)
    assert load_data(spec(tmp_path / "moved", f"cache={tmp_path}/cache")).fingerprint() == data.fingerprint()
    assert len(prints[0]) == 16


def test_it_can_be_pickled(folder: Path) -> None:
    data = load_data(spec(folder)).subset([3, 1])
    again = pickle.loads(pickle.dumps(data))
    assert again.fingerprint() == data.fingerprint()
    assert same(again.clip(0), data.clip(0))


def test_a_loader_with_workers_gives_the_same_batches(folder: Path) -> None:
    data = load_data(spec(folder, "audio=true&audio_seconds=2"))
    loader = DataLoader(data, batch_size=2, collate_fn=collate, num_workers=2)
    batches = list(loader)
    assert [len(clip) for clip, _ in batches] == [2, 2, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 1, 1, 1]
    for number, (clip, _) in enumerate(batches):
        for row in range(len(clip)):
            assert same(clip.select([row]), data.clip(2 * number + row))


def test_a_cached_clip_is_the_decoded_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    plain = load_data(spec(folder, "audio=true&audio_seconds=2"))
    data = load_data(spec(folder, f"audio=true&audio_seconds=2&cache={cache}"))
    for _ in range(2):
        for index in range(len(data)):
            assert same(data.clip(index), plain.clip(index))
    entries = sorted(cache.rglob("*.safetensors"))
    assert len(entries) == 5
    assert sorted(p for p in cache.rglob("*") if p.is_file()) == entries
    monkeypatch.setattr(file_dataset, "read_clip", None)
    assert all(data.clip(i).ids for i in range(5))


def test_the_environment_may_name_a_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTVIDEO_CACHE", str(tmp_path / "everyone"))
    load_data(spec(folder)).clip(0)
    load_data(spec(folder, f"cache={tmp_path}/own")).clip(0)
    assert len(list((tmp_path / "everyone").rglob("*.safetensors"))) == 1
    assert len(list((tmp_path / "own").rglob("*.safetensors"))) == 1


def test_a_damaged_cache_entry_is_decoded_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    data = load_data(spec(folder, f"audio=true&audio_seconds=2&cache={cache}"))
    clip = data.clip(0)
    (entry,) = cache.rglob("*.safetensors")
    content = entry.read_bytes()
    flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    for damage in (b"", b"nothing", content[:-10], flipped, b"\xff" * 100):
        entry.write_bytes(damage)
        assert same(data.clip(0), clip)
        assert entry.stat().st_size == len(content)
        with monkeypatch.context() as patch:
            patch.setattr(file_dataset, "read_clip", None)
            assert same(data.clip(0), clip)


def test_a_changed_file_or_option_is_another_entry(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    data = load_data(spec(folder, f"cache={cache}"))
    before = data.clip(0)
    film(folder / "run/a.mkv", [f + 100 for f in numbered(20)])
    os.utime(folder / "run/a.mkv", ns=(1, 1))
    assert not torch.equal(data.clip(0).video, before.video)
    load_data(spec(folder, f"stride=2&cache={cache}")).clip(0)
    load_data(spec(folder, f"stride=2&views=2&cache={cache}")).clip(1)
    assert len(list(cache.rglob("*.safetensors"))) == 4
    (folder / "run/a.mkv").unlink()
    with pytest.raises(InputError, match="does not exist"):
        data.clip(0)


class Flat(VideoDataset):
    """What a user would write: grey clips that no file holds."""

    labels = ("dark", "bright")

    @property
    def spec(self) -> str:
        return "flat"

    @property
    def samples(self) -> list[Sample]:
        return [Sample(f"flat-{i}", i % 2) for i in range(6)]

    def clip(self, index: int) -> Clip:
        sample = self.samples[index]
        return Clip(torch.full((1, 3, 2, 4, 4), float(sample.label)), ids=(sample.id,))


def test_a_data_set_without_files() -> None:
    data = Flat()
    clip, labels = next(iter(DataLoader(data, batch_size=6, collate_fn=collate)))
    assert torch.equal(clip.video[:, 0, 0, 0, 0], labels.float())
    assert data.subset([1]).relabelled(["bright"]).samples[0] == Sample("flat-1", 0)
    assert len({seed_for(i) for i in clip.ids}) == 6


def test_names_that_stand_for_two_classes_number_nothing(folder: Path) -> None:
    twice = ["bright", "run", "dark", "walk", "bright"]
    for relabel in (Flat().relabelled, lambda labels: load_data(spec(folder), labels)):
        with pytest.raises(InputError, match="Two classes, 0 and 4, are named 'bright'"):
            relabel(twice)


def test_the_embedded_data_set(tmp_path: Path) -> None:
    data = load_data("embedded:kinetic?split=train&clips=9&audio=true")
    assert len(data) == 9
    assert data.clip(0).audio is not None
    turned = load_data("embedded:kinetic?clips=8", labels=data.labels[::-1])
    assert [s.label for s in turned.samples] == [7 - s.label for s in data.samples[:8]]
    assert turned.fingerprint() != load_data("embedded:kinetic?clips=8").fingerprint()
    with pytest.raises(InputError, match="option of embedded: 'clip': did you mean 'clips'"):
        load_data("embedded:kinetic?clip=9")
    with pytest.raises(InputError, match="clips=few: input should be a valid integer"):
        load_data("embedded:kinetic?clips=few")
    with pytest.raises(InputError, match="embedded data set 'kinetics': did you mean 'kinetic'"):
        load_data("embedded:kinetics")


def test_an_unknown_source() -> None:
    with pytest.raises(InputError, match="Unknown data source 'manifests': did you mean 'manifest'"):
        load_data("manifests:a.csv")
    with pytest.raises(InputError, match="write it like"):
        load_data("clips.csv")


def test_the_sources_are_listed_without_torch() -> None:
    known = schemes()
    files = ["folder", "hmdb51", "kinetics", "kinetics_sounds", "manifest", "music", "ucf101"]
    assert list(known) == ["embedded:kinetic", "embedded:moving_digits", *files]
    assert all(line.endswith(".") for line in known.values())
    code = "import sys; from robustvideo.data import schemes; schemes(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
