"""Optical flow: direction, order of x and y, and what becomes of it on another grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustvideo.flow.optical_flow import load_raft, on_grid, optical_flow, raft_flow


def textures(x: int, y: int, frames: int = 3, side: int = 64) -> Tensor:
    """A smooth random texture that moves by whole pixels, x to the right and y down."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, side // 8, side // 8, generator=random)
    scene = torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1)
    return torch.stack([scene.roll((t * y, t * x), (2, 3)) for t in range(frames)], 2)


def test_dis_finds_a_shift_in_its_direction() -> None:
    pytest.importorskip("cv2")
    flow = optical_flow(textures(2, -1), "dis")
    assert flow.shape == (1, 2, 2, 64, 64)
    inner = flow[..., 16:-16, 16:-16]
    assert inner[:, 0].median() == pytest.approx(2, abs=0.2)
    assert inner[:, 1].median() == pytest.approx(-1, abs=0.2)


def test_no_flow_is_zero_and_one_frame_has_none() -> None:
    assert not optical_flow(textures(2, 1), None).any()
    assert optical_flow(textures(2, 1, frames=1), "dis").shape == (1, 2, 0, 64, 64)


def test_on_another_grid_flow_is_in_its_cells() -> None:
    flow = torch.zeros(2, 2, 3, 32, 48)
    flow[:, 0], flow[:, 1] = 8, 4
    small = on_grid(flow, 4, 6)
    assert small.shape == (2, 2, 3, 4, 6)
    assert torch.allclose(small[:, 0], torch.tensor(1.0))
    assert torch.allclose(small[:, 1], torch.tensor(0.5))
    assert on_grid(flow[:, :, :0], 4, 6).shape == (2, 2, 0, 4, 6)


class Seen(nn.Module):
    """A flow network that answers one enlarged pixel to the right, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
        self.pairs.append((first, second))
        flow = torch.zeros_like(first[:, :2])
        flow[:, 0] = 2
        return [flow] * num_flow_updates


def test_small_frames_are_enlarged_for_raft_and_its_flow_scaled_back() -> None:
    network = Seen()
    video = textures(1, 0)
    flow = optical_flow(video, "raft", network)
    first, _ = network.pairs[0]
    assert first.shape == (2, 3, 128, 128)
    assert first.min() < -0.5
    assert torch.allclose(flow[:, 0], torch.tensor(1.0))
    assert not flow[:, 1].any()
    assert raft_flow(torch.rand(1, 3, 130, 200), torch.rand(1, 3, 130, 200), network).shape == (1, 2, 130, 200)
    assert network.pairs[-1][0].shape[2:] == (136, 200)


class Shifted(Seen):
    """Answers with what tells a pair from any other."""

    def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
        self.pairs.append((first, second))
        return [torch.stack([first[:, 0], 2 * second[:, 1]], 1)] * num_flow_updates


@pytest.mark.parametrize(("side", "frames", "calls"), [(64, 32, [62]), (256, 10, [16, 2]), (1040, 3, [1] * 4)])
def test_raft_gets_as_many_pairs_at_once_as_fit(side: int, frames: int, calls: list[int]) -> None:
    network = Shifted()
    video = torch.rand(2, 3, frames, side, side, generator=torch.Generator().manual_seed(0))
    flow = optical_flow(video, "raft", network)
    assert [len(first) for first, _ in network.pairs] == calls
    alone = [raft_flow(video[:, :, t], video[:, :, t + 1], network) for t in range(frames - 1)]
    assert torch.allclose(flow, torch.stack(alone, 2), atol=1e-5)


def test_raft_is_loaded_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models.optical_flow.raft_large", lambda **options: Seen().train())
    network = load_raft()
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_torchvision_s_raft_is_called_as_it_wants_to_be() -> None:
    """Untrained, for want of weights: the shapes it takes and gives."""
    from torchvision.models.optical_flow import raft_large

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = raft_large(weights=None).eval()
    video = textures(1, 0, frames=2, side=40)
    flow = optical_flow(video, "raft", network)
    assert flow.shape == (1, 2, 1, 40, 40)
    assert flow.isfinite().all()
