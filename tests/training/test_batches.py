"""Batch order and the integer store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustvideo.clip import Clip
from robustvideo.data import load_data
from robustvideo.data.dataset import Subset, UnusableClip, VideoDataset
from robustvideo.errors import InputError
from robustvideo.training.batches import Clips, Plan, Stored, join, read

CPU = torch.device("cpu")


def test_every_epoch_visits_every_clip_once_in_its_own_order() -> None:
    plan = Plan(clips=24, batch_size=6, parts=1, seed=3)
    epochs = [[i for batch in plan.parts_of(epoch, 0, [0]) for i in batch] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(24))
    assert epochs[0] != epochs[1]
    assert epochs[0] == [i for batch in Plan(24, 6, 1, 3).parts_of(0, 0, [0]) for i in batch]
    assert epochs[0] != [i for batch in Plan(24, 6, 1, 4).parts_of(0, 0, [0]) for i in batch]


def test_processes_and_accumulated_parts_share_the_batches_of_one() -> None:
    whole = Plan(clips=50, batch_size=12, parts=1, seed=0).parts_of(0, 0, [0])
    plan = Plan(clips=50, batch_size=12, parts=4, seed=0)
    shares = [plan.parts_of(0, 0, own) for own in ([0, 2], [1, 3])]  # two processes of two parts each
    for number, batch in enumerate(whole):
        parts = [share[2 * number + k] for share in shares for k in (0, 1)]
        assert {len(part) for part in parts} == {3}
        assert sorted(i for part in parts for i in part) == sorted(batch)


def test_an_epoch_can_be_entered_anywhere() -> None:
    plan = Plan(clips=40, batch_size=8, parts=2, seed=1)
    assert plan.parts_of(2, 3, [0, 1]) == plan.parts_of(2, 0, [0, 1])[6:]


def test_batches_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(InputError, match="more than the 4 clips"):
        Plan(clips=4, batch_size=8, parts=1, seed=0)
    with pytest.raises(InputError, match="3 equal parts"):
        Plan(clips=16, batch_size=8, parts=3, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_come_back_bit_for_bit_also_from_memory(workers: int) -> None:
    data = load_data("embedded:kinetic?split=val&clips=6&audio=true")
    clips = Clips(data, shared=workers > 0)
    for _ in range(2):  # read, then remembered
        (first, second) = (stored.restore(CPU) for stored in read(clips, [[4, 0], [5]], CPU, workers))
        for (clip, labels), indices in ((first, [4, 0]), (second, [5])):
            assert clip.ids == tuple(data.samples[i].id for i in indices)
            assert labels.tolist() == [data.samples[i].label for i in indices]
            assert torch.equal(clip.video, torch.cat([data.clip(i).video for i in indices]))
            assert torch.equal(clip.signal("audio"), torch.cat([data.clip(i).signal("audio") for i in indices]))
    assert clips._filled.tolist() == [True, False, False, False, True, True]


class Holed(Subset):
    """A data set some of whose files are damaged."""

    def __init__(self, parent: VideoDataset, damaged: set[int]):
        super().__init__(parent, range(len(parent)))
        self.damaged = damaged

    def clip(self, index: int) -> Clip:
        if index in self.damaged:
            raise UnusableClip(f"{self.samples[index].id} is damaged.")
        return super().clip(index)


@pytest.mark.filterwarnings("ignore:.*takes its place")
def test_the_next_clip_of_its_class_stands_in_for_one_that_cannot_be_read() -> None:
    data = load_data("embedded:kinetic?split=val&clips=24")
    label = data.samples[0].label
    same = [i for i, sample in enumerate(data.samples) if sample.label == label]
    wanted = [same[0], same[1], same[2]]
    with pytest.warns(UserWarning, match=f"{data.samples[same[0]].id} is damaged. It is left out; "):
        clips = Clips(Holed(data, {same[0], same[1]}), shared=False)
    (batch,) = read(clips, [wanted], CPU, 0)
    clip, labels = batch.restore(CPU)
    assert clip.ids == (data.samples[same[2]].id,) * 3
    assert labels.tolist() == [label] * 3
    assert torch.equal(clip.video, data.clip(same[2]).video.expand(3, -1, -1, -1, -1))
    assert clips.asked(wanted, clip) == [2]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*takes its place")
def test_a_clip_that_cannot_be_read_is_tried_once_in_all_epochs(workers: int, tmp_path: Path) -> None:
    class Counted(Holed):
        def clip(self, index: int) -> Clip:
            with (tmp_path / "tried").open("a") as file:
                file.write(f"{index} ")
            return super().clip(index)

    data = load_data("embedded:kinetic?split=val&clips=4")
    clips = Clips(Counted(data, {2}), shared=workers > 0)
    for _ in range(3):  # epochs, each with workers of its own
        (batch,) = read(clips, [[2, 1]], CPU, workers)
        assert batch.ids == (data.samples[3].id, data.samples[1].id)
    assert (tmp_path / "tried").read_text().split().count("2") == 1


def test_a_class_without_a_readable_clip_is_stood_in_for_by_another() -> None:
    data = load_data("embedded:kinetic?split=val&clips=24")
    first = {i for i, sample in enumerate(data.samples) if sample.label == data.samples[0].label}
    with pytest.warns(UserWarning, match="takes its place"):
        clip, labels = Clips(Holed(data, first), shared=False)[0].restore(CPU)
    stand_in = [i for i, sample in enumerate(data.samples) if sample.id == clip.ids[0]]
    assert labels.tolist() == [data.samples[stand_in[0]].label]
    with pytest.raises(UnusableClip, match="is damaged"):
        Clips(Holed(data, set(range(24))), shared=False)


def test_reading_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    list(read(Clips(load_data("embedded:kinetic?clips=2"), shared=False), [[0], [1]], CPU, 0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_clips_of_different_shapes_cannot_share_a_batch() -> None:
    items = [Stored.of(Clip(torch.zeros(1, 3, frames, 4, 4), ids=(f"c{frames}",)), 0) for frames in (2, 3)]
    with pytest.raises(InputError, match="c2 and c3"):
        join(items)
