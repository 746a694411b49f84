"""Builds a sample's target: what a transform is given beside the picture, and returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision import tv_tensors

from datamodules.transforms.linked_labels import LinkedLabels

if TYPE_CHECKING:
    from datamodules.loading.annotated import Annotated


def target_of(sample: Annotated, mask: torch.Tensor | None) -> Any:
    """The target as plain tensors; the boxes where the plan has put them, if there is one.

    Args:
        sample: The sample.
        mask: uint8 [H, W], stored or rendered; None but for segmentation.

    Returns:
        Detection: a dict, see `_detection_target`. Segmentation: the mask. Classification: the
        labels, float32 [K], one for each class.
    """
    if sample.boxes is not None:
        return _detection_target(sample)
    return mask if sample.labels is None else torch.from_numpy(sample.labels)


def _detection_target(sample: Annotated) -> dict[str, Any]:
    """Every object that has a box, and that the plan keeps.

    Returns:
        boxes: float32 [N, 4], xyxy pixels, half-open.
        labels: int64 [N], 1 … K.
        difficult: bool [N]; False where the source says nothing.
        image_id: int64 [], the sample id.
        orig_size: int64 [2], (height, width).
        key: str.
    """
    assert sample.boxes is not None
    corners, labels, difficult = sample.boxes
    if (plan := sample.planned) is not None:
        corners, labels, difficult = plan.boxes, labels[plan.is_kept], difficult[plan.is_kept]
    return {
        "boxes": torch.from_numpy(corners),
        "labels": torch.from_numpy(labels),
        "difficult": torch.from_numpy(difficult),  # a third of torch.tensor's time
        "image_id": torch.tensor(sample.sample_id),
        "orig_size": torch.from_numpy(np.array(sample.size_hw, np.int64)),
        "key": sample.raw.key,
    }


def for_transform(target: Any, size_hw: tuple[int, int]) -> Any:
    """A plain target as a user's transform takes it: tv_tensors, and labels linked to their flags.

    Args:
        target: What `target_of` returned.
        size_hw: (height, width) of the picture.
    """
    if isinstance(target, dict):
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size_hw)
        labels = LinkedLabels.of(target["labels"], target["difficult"])
        return {**target, "boxes": boxes, "labels": labels}
    return tv_tensors.Mask(target) if target.ndim == 2 else target


def with_areas(target: dict[str, Any]) -> dict[str, Any]:
    """A detection target with `area` float32 [N] in pixels, and `iscrowd` int64 [N] of zeros.

    VOC has no crowds: `difficult` is its own notion.
    """
    boxes = target["boxes"]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return {**target, "area": area, "iscrowd": torch.zeros_like(target["labels"])}
