"""An evaluation on a Ray cluster of two nodes, one of which is lost on the way, has the records of one process."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor, nn

import robustvideo as rv
from robustvideo.attacks import PGD
from robustvideo.clip import Clip
from robustvideo.data import load_data
from robustvideo.data.dataset import Subset
from robustvideo.errors import InputError, RobustVideoError
from robustvideo.evaluation import evaluate
from robustvideo.evaluation.records import comparable, finished_items
from robustvideo.evaluation.run import Run

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


class Slow(Subset):
    """Clips that take their time to decode, so that a run lasts long enough to be disturbed."""

    def clip(self, index: int) -> Clip:
        time.sleep(0.3)
        return super().clip(index)


class Deadly(Subset):
    """A clip that ends the process that decodes it."""

    def clip(self, index: int) -> Clip:
        if index == 3 and ray.is_initialized():
            os._exit(1)
        return super().clip(index)


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, video: Tensor) -> Tensor:
        return video.mean((2, 3, 4)) * self.weight * torch.nan


@pytest.fixture
def cluster() -> Iterator[object]:
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    os.environ["OMP_NUM_THREADS"] = "1"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def network() -> rv.Model:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv3d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten())
    return rv.wrap(nn.Sequential(layers, nn.Linear(32, 8)), frames=16, size=48)


def run(out: Path, data: type[Subset] = Subset, model: rv.Model | None = None, **options: object) -> Run:
    clips = data(load_data("embedded:kinetic?split=test&clips=24"), range(24))
    attacks = [PGD(eps=8 / 255, steps=2)]
    return evaluate(model or network(), clips, attacks, out=out, batch_size=2, save_clips=2, quiet=True, **options)  # type: ignore[arg-type]


def test_a_node_that_is_lost_costs_nothing(cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustvideo.evaluation import ray_engine

    lost = []
    result = ray_engine._Crew.result

    def watched(crew: ray_engine._Crew) -> tuple[object, bool]:
        piece, is_done = result(crew)
        lost.extend([] if is_done else [piece])
        return piece, is_done

    monkeypatch.setattr(ray_engine._Crew, "result", watched)
    second = cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
    cluster.wait_for_nodes()  # type: ignore[attr-defined]
    assert ray.cluster_resources()["CPU"] == 2
    out = tmp_path / "run"
    seen = []

    def disturb() -> None:
        while len(finished_items(out)) < 4:
            time.sleep(0.02)
        raylet = second.all_processes["raylet"][0].process.pid
        workers = psutil.Process(raylet).children(recursive=True)
        cluster.remove_node(second, allow_graceful=False)  # type: ignore[attr-defined]
        for process in workers:  # without a raylet they go by themselves, but not at once as on a machine that fails
            with suppress(psutil.NoSuchProcess):
                process.kill()
        seen.append(len(finished_items(out)))

    thread = threading.Thread(target=disturb)
    thread.start()
    disturbed = run(out, Slow, engine="ray")
    thread.join()
    assert seen
    assert seen[0] < 24, "the node went before the run was over"
    assert len(lost) == 1, "the node went with a batch, which was tried again"
    assert disturbed.manifest.status == "finished"
    assert comparable(disturbed.records()) == comparable(run(tmp_path / "alone").records())


def test_work_that_ends_every_worker_ends_the_run_with_a_sentence(cluster: object, tmp_path: Path) -> None:
    with pytest.raises(RobustVideoError, match="3 workers were lost at batch 1"):
        run(tmp_path / "run", Deadly, engine="ray")


def test_what_a_worker_raises_reaches_the_caller(cluster: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NaN"):
        run(tmp_path / "run", model=rv.wrap(Failing(), frames=None, size=None), engine="ray")
