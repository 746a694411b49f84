"""A PNG of training pictures as a model gets them: augmented, with their boxes or masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from shard_tool.sample import VOC_CLASSES

if TYPE_CHECKING:
    from pathlib import Path

    from datamodules import Batch


def contact_sheet(batch: Batch, path: Path, *, columns: int = 6) -> None:
    """Draw a batch of equally sized uint8 pictures; difficult objects have a red box."""
    images, targets = batch
    draw = _with_boxes if batch.task == "detection" else _with_mask
    drawn = [draw(image, target) for image, target in zip(images, targets, strict=True)]
    sheet = make_grid(torch.stack(drawn), nrow=columns, padding=4, pad_value=255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(path)


def _with_boxes(image: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
    if not len(target["boxes"]):
        return image
    names = [VOC_CLASSES[label - 1] for label in target["labels"].tolist()]
    colors = ["red" if difficult else "yellow" for difficult in target["difficult"].tolist()]
    return draw_bounding_boxes(image, target["boxes"], names, colors=colors, width=2)


def _with_mask(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    labels = [label for label in mask.unique().tolist() if label]
    if not labels:
        return image
    return draw_segmentation_masks(image, torch.stack([mask == label for label in labels]))
