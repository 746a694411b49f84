"""Makes the truth of a sample that evaluation compares with, from its annotation alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.evaluation.truth import Truth
from datamodules.pixels.geometry import View
from shard_tool.format.coco_boxes import area_of, written_box
from shard_tool.format.source_ids import category_ids, image_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from datamodules.pixels.geometry import Plan
    from shard_tool.format.manifest import Manifest
    from shard_tool.format.sample import Sample, SampleObject

_NEAR_PX = 0.05
"""Pixels by which a transform's boxes may differ from those of a plain resize."""


def category_ids_of(
    manifests: Sequence[Manifest], classes: Mapping[str, int]
) -> tuple[int | str, ...]:
    """COCO's id of each class, in the order of labels."""
    sources = [source for manifest in manifests for source in manifest.sources]
    by_label = {classes[name]: its for name, its in category_ids(classes, sources).items()}
    return tuple(by_label.get(label, label) for label in range(1, 1 + max(by_label, default=0)))


def truth_of(
    sample: Sample,
    objects: Sequence[SampleObject],
    labels: NDArray[np.int64],
    *,
    key: str,
    size_hw: tuple[int, int],
    categories: tuple[int | str, ...],
) -> Truth:
    """The truth of a sample.

    Args:
        sample: Its annotation.
        objects: Those of its objects that the target has; each has a box.
        labels: int64 [N], of these objects.
        key: Its key.
        size_hw: (height, width) of its upright picture.
        categories: What `category_ids_of` returned.
    """
    boxes = [written_box(item, sample) for item in objects]
    areas = [area_of(item, box) for item, box in zip(objects, boxes, strict=True)]
    raws = [(item.raw or {}).get("id") for item in objects]
    return Truth(
        key=key,
        image_id=image_id(sample),
        category_ids=categories,
        size_wh=(size_hw[1], size_hw[0]),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=labels,
        areas=np.array(areas, np.float64),
        are_ignored=np.array([bool(item.crowd or item.difficult) for item in objects], np.bool_),
        have_id_0=np.array([type(its) is int and its == 0 for its in raws], np.bool_),
        to_original=None,
    )


def seen_by_plan(truth: Truth, plan: Plan) -> Truth:
    """The truth of a picture that a recipe made.

    Where the recipe shows a part of the picture only, boxes of the rest cannot be found, and the
    way back stays unknown.
    """
    width, height = truth.size_wh
    if plan.view != View.whole((height, width)):
        return truth
    scaled_hw = plan.scaled_hw
    x, y = width / scaled_hw[1], height / scaled_hw[0]
    if plan.is_flipped:
        return truth._replace(to_original=(-x, plan.size_hw[1] * x, y, 0.0))
    return truth._replace(to_original=(x, 0.0, y, 0.0))


def seen_by_transform(truth: Truth, target: Mapping[str, Any], size_hw: tuple[int, int]) -> Truth:
    """The truth of a picture that some transform made.

    The way back is known if its boxes are where a resize of the whole picture puts them.

    Args:
        truth: The sample's.
        target: What the transform returned: boxes [N, 4] xyxy and labels [N].
        size_hw: (height, width) of the picture that it returned.
    """
    x, y = truth.size_wh[0] / size_hw[1], truth.size_wh[1] / size_hw[0]
    found = target["boxes"].numpy().astype(np.float64)
    expected = truth.boxes.copy()
    expected[:, 2:] += expected[:, :2]
    np.clip(expected.reshape(-1, 2, 2), 0, truth.size_wh, out=expected.reshape(-1, 2, 2))
    expected /= (x, y, x, y)
    is_resize = found.shape == expected.shape and np.array_equal(
        target["labels"].numpy(), truth.labels
    )
    if is_resize and np.abs(found - expected).max(initial=0) <= _NEAR_PX:
        return truth._replace(to_original=(x, 0.0, y, 0.0))
    return truth
