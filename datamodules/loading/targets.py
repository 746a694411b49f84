"""Makes the targets of samples: what a transform is given beside the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision import tv_tensors

from datamodules.transforms.linked_labels import PerBox

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datamodules.loading.annotated import Annotated
    from datamodules.transforms.fused import Planned


def detection_target(sample: Annotated) -> dict[str, Any]:
    """The target of a picture: every object that has a box.

    Returns:
        boxes: tv_tensors.BoundingBoxes float32 [N, 4], xyxy pixels, half-open.
        labels: int64 [N], 1 … 20.
        difficult: bool [N]; False where the source says nothing.
        image_id: int64 [], the sample id.
        orig_size: int64 [2], (height, width).
        key: str.
    """
    boxes = sample.boxes
    assert boxes is not None
    corners = tv_tensors.BoundingBoxes(
        torch.from_numpy(boxes.corners), format="XYXY", canvas_size=sample.size_hw
    )
    return _target(sample, corners, torch.from_numpy(boxes.labels), boxes.difficult)


def _target(
    sample: Annotated, corners: torch.Tensor, labels: torch.Tensor, difficult: NDArray[np.bool_]
) -> dict[str, Any]:
    return {
        "boxes": corners,
        "labels": labels,
        "difficult": torch.from_numpy(difficult),  # a third of torch.tensor's time
        "image_id": torch.tensor(sample.sample_id),
        "orig_size": torch.from_numpy(np.array(sample.size_hw, np.int64)),
        "key": sample.raw.key,
    }


def planned_target(sample: Annotated, planned: Planned, *, is_final: bool) -> dict[str, Any]:
    """The target with its boxes moved; plain tensors where no transform comes after."""
    boxes, is_kept = sample.boxes, planned.is_kept
    assert boxes is not None
    corners = torch.from_numpy(planned.boxes)
    if is_final:
        labels = torch.from_numpy(boxes.labels[is_kept])
        return _target(sample, corners, labels, boxes.difficult[is_kept])
    size_hw = planned.drawn.plan.size_hw
    corners = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size_hw)
    target = _target(
        sample, corners, torch.from_numpy(boxes.labels[is_kept]), boxes.difficult[is_kept]
    )
    return {**target, "labels": PerBox.of(target["labels"], target["difficult"])}


def with_areas(target: dict[str, Any]) -> dict[str, Any]:
    """A detection target with `area` float32 [N] in pixels, and `iscrowd` int64 [N] of zeros.

    VOC has no crowds: `difficult` is its own notion.
    """
    boxes = target["boxes"]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return {**target, "area": area, "iscrowd": torch.zeros_like(target["labels"])}
