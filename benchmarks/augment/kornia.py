"""Kornia: pictures decoded by simplejpeg and made equal in size, then changed as a batch.

It works on float batches of one size. So pictures are scaled to 300 x 300 first, and zooming out is
an affine map; in place of the IoU crop there is a random resized crop, which looks at no boxes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kornia.augmentation as K  # noqa: N812  (its documentation's name)
import torch
from torchvision.transforms.v2.functional import resize

from benchmarks.augment import SSD_PX
from benchmarks.work import decoded, objects_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.work import Prepared

SSD = K.AugmentationSequential(
    K.ColorJiggle((0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.05, 0.05), p=0.5),
    K.RandomChannelShuffle(p=0.5),
    K.RandomAffine(degrees=0.0, scale=(0.25, 1.0), translate=(0.3, 0.3), p=0.5),
    K.RandomResizedCrop((SSD_PX, SSD_PX), scale=(0.3, 1.0), ratio=(0.5, 2.0)),
    K.RandomHorizontalFlip(p=0.5),
    data_keys=["input", "bbox_xyxy"],
)


def ssd(jpeg: bytes, text: bytes) -> Prepared:
    """What comes before the batch: decoded and scaled, with its boxes."""
    corners, labels = objects_of(text)
    pixels = decoded(jpeg)
    height, width = pixels.shape[1:]
    scale = torch.tensor([SSD_PX / width, SSD_PX / height] * 2)
    picture: torch.Tensor = resize(pixels, [SSD_PX, SSD_PX], antialias=True)
    return picture, {"boxes": torch.from_numpy(corners) * scale, "labels": torch.from_numpy(labels)}


def ssd_batch(
    samples: Sequence[Prepared],
) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """A batch of what `ssd` made: uint8 [B, 3, 300, 300], and targets of the boxes still seen."""
    pictures = torch.stack([picture for picture, _ in samples]).float() / 255
    changed, boxes = SSD(pictures, [target["boxes"] for _, target in samples])
    targets = [
        _clipped(moved, target["labels"]) for moved, (_, target) in zip(boxes, samples, strict=True)
    ]
    return (changed * 255).round().to(torch.uint8), targets


def _clipped(boxes: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Boxes inside the picture, of a pixel at least."""
    boxes = boxes[: len(labels)].clamp(0, SSD_PX)
    is_kept = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    return {"boxes": boxes[is_kept], "labels": labels[is_kept]}
