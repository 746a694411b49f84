"""Default transforms, each short enough to read as the recipe it is.

Plain `torchvision.transforms.v2` on tv_tensors: take them apart, or put your own before or after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torchvision.transforms import v2

if TYPE_CHECKING:
    from datamodules.targets import Transform


def _compose(*steps: object) -> Transform:
    return cast("Transform", v2.Compose(list(steps)))


def detection_train(size: int = 300) -> Transform:
    """SSD's geometry without its colours: IoU crop, flip, resize to size x size, sane boxes.

    Source: Liu et al., "SSD: Single Shot MultiBox Detector", 2016, section 2.2.
    """
    return _compose(
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.Resize((size, size), antialias=True),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(),
    )


def detection_eval(size: int = 300) -> Transform:
    """Resize to size x size; every box is kept."""
    return cast("Transform", v2.Resize((size, size), antialias=True))


def segmentation_train(size: int = 256) -> Transform:
    """Random resized crop of 0.5 to 1 of the picture and flip; masks by nearest neighbour."""
    return _compose(
        v2.RandomResizedCrop((size, size), scale=(0.5, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
    )


def segmentation_eval(size: int = 256) -> Transform:
    """Resize to size x size; masks by nearest neighbour."""
    return cast("Transform", v2.Resize((size, size), antialias=True))


IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])
"""RGB mean of ImageNet in [0, 1], which torchvision's classification backbones expect."""
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])
