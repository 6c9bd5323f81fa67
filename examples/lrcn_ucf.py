"""A pretrained per-frame CNN + LSTM on five UCF classes: somebody else's model, brought to robustvideo.

    robustvideo evaluate --model file:examples/lrcn_ucf.py:build \
        --data 'manifest:../shared/data/ucf.csv?frames=20&size=128' --attack 'pgd(eps=8/255)' --out runs/lrcn
"""

import itertools
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import robustvideo as rv

WEIGHTS = Path(__file__).parent.parent.parent / "shared" / "weights" / "lrcn_ucf50_5c.safetensors"
LABELS = ("Biking", "Diving", "GolfSwing", "Punch", "Rowing")


class LRCN(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.lstm = nn.LSTM(256, 32, batch_first=True)
        self.fc = nn.Linear(32, len(LABELS))

    def forward(self, video: torch.Tensor) -> torch.Tensor:  # (B, T, C, H, W)
        x = video.flatten(0, 1)
        for conv, pool in zip(self.convs, (4, 4, 2, 2), strict=True):
            x = torch.max_pool2d(torch.relu(conv(x)), pool)
        x = x.permute(0, 2, 3, 1).flatten(1).view(*video.shape[:2], -1)  # features in H, W, C order
        return self.fc(self.lstm(x)[0][:, -1])


def build(weights: str = str(WEIGHTS)) -> rv.Model:
    network = LRCN()
    network.load_state_dict(load_file(weights))
    return rv.wrap(network, frames=20, size=128, channel_order="bgr", layout="btchw", labels=LABELS)
