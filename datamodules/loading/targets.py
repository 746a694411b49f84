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
        mask: Stored or rendered: for segmentation uint8 [H, W], for instances uint8 [N, H, W]; else
            None.

    Returns:
        Detection and instances: a dict, see `_boxed_target`. Segmentation: the mask.
        Classification: the labels, float32 [K], one for each class.
    """
    if sample.boxes is not None:
        return _boxed_target(sample, mask)
    return mask if sample.labels is None else torch.from_numpy(sample.labels)


def _boxed_target(sample: Annotated, masks: torch.Tensor | None) -> dict[str, Any]:
    """Every object that has a box, and that the plan keeps.

    Returns:
        boxes: float32 [N, 4], xyxy pixels, half-open.
        labels: int64 [N], 1 … K.
        difficult: bool [N]; False where the source says nothing.
        iscrowd: int64 [N]: 1 for a group of objects that nobody told apart, else 0.
        image_id: int64 [], the sample id.
        orig_size: int64 [2], (height, width).
        key: str.
        masks: uint8 [N, H, W]: 1 in the object, else 0; for instances alone.
    """
    assert sample.boxes is not None
    corners, labels, difficult, iscrowd = sample.boxes
    if (plan := sample.planned) is not None:
        corners, is_kept = plan.boxes, plan.is_kept
        labels, difficult, iscrowd = labels[is_kept], difficult[is_kept], iscrowd[is_kept]
    target = {
        "boxes": torch.from_numpy(corners),
        "labels": torch.from_numpy(labels),
        "difficult": torch.from_numpy(difficult),  # a third of torch.tensor's time
        "iscrowd": torch.from_numpy(iscrowd),
        "image_id": torch.tensor(sample.sample_id),
        "orig_size": torch.from_numpy(np.array(sample.size_hw, np.int64)),
        "key": sample.raw.key,
    }
    return target if masks is None else {**target, "masks": masks}


def for_transform(target: Any, size_hw: tuple[int, int]) -> Any:
    """A plain target as a user's transform takes it: tv_tensors, and labels linked to their flags.

    Args:
        target: What `target_of` returned.
        size_hw: (height, width) of the picture.
    """
    if isinstance(target, dict):
        found = dict(target)
        found["boxes"] = tv_tensors.BoundingBoxes(
            target["boxes"], format="XYXY", canvas_size=size_hw
        )
        if "masks" in target:
            found["masks"] = tv_tensors.Mask(target["masks"])
        linked = {name: found.get(name) for name in ("iscrowd", "masks")}
        found["labels"] = LinkedLabels.of(target["labels"], target["difficult"], **linked)
        return found
    return tv_tensors.Mask(target) if target.ndim == 2 else target


def with_areas(target: dict[str, Any]) -> dict[str, Any]:
    """A target with boxes, with `area` float32 [N] in pixels: of the masks, else of the boxes."""
    if (masks := target.get("masks")) is not None:
        area = masks.flatten(1).sum(1, dtype=torch.float32)
    else:
        boxes = target["boxes"]
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return {**target, "area": area}
