"""A real detector small enough to train in a second: torchvision's SSD over four convolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

if TYPE_CHECKING:
    from datamodules import Batch

SIZE = 64
"""Height and width of its pictures."""
NUM_CLASSES = 2
"""Background, and an object of whatever class."""


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out_channels = [64]
        widths = [3, 16, 32, 64, 64]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers)

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"0": self.body(pictures)}


def tiny_detector() -> Any:
    """Untrained, always the same."""
    torch.manual_seed(0)
    anchors = DefaultBoxGenerator([[2]], scales=[0.4, 0.7])
    return SSD(
        _Backbone(), anchors, (SIZE, SIZE), NUM_CLASSES, score_thresh=0.05, detections_per_img=20
    )


def as_objects(batch: Batch) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """Float pictures, and targets whose labels are all 1."""
    images, targets = batch
    objects = [{**target, "labels": torch.ones_like(target["labels"])} for target in targets]
    return [image / 255 for image in images], objects


def trained_on(batch: Batch, *, steps: int) -> Any:
    """A detector that has seen a batch so many times."""
    model = tiny_detector().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        loss = torch.stack(list(model(*as_objects(batch)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
