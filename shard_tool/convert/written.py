"""Decides what a sample keeps of an object as its file writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shard_tool.errors import AnnotationError
from shard_tool.format.coco_boxes import box_in_raw, coco_box, with_scaled_area

if TYPE_CHECKING:
    from shard_tool.format.sample import Box
    from shard_tool.sources.annotation import ObjectAnnotation


def raw_named(raw: dict[str, Any] | None, format_: str) -> dict[str, Any] | None:
    """Raw values under the name of their format: `id` and `area` of others are none of COCO's."""
    return raw if raw is None or format_ == "coco" else {format_: raw}


def raw_of(
    item: ObjectAnnotation, box: Box | None, scale: tuple[float, float] | None, format_: str
) -> dict[str, Any] | None:
    """The raw values of an object; COCO's `bbox` only if the sample's box does not tell it.

    Args:
        item: The object.
        box: Its box in the sample.
        scale: What its numbers are multiplied by, along x and y; None: nothing.
        format_: Format of its source.
    """
    if format_ != "coco":
        return raw_named(item.raw, format_)
    raw = item.raw if scale is None else with_scaled_area(item.raw, scale[0] * scale[1])
    if raw is None or "bbox" not in raw:
        return raw
    if box is None or coco_box(box) != box_in_raw(raw):
        return raw
    return {name: value for name, value in raw.items() if name != "bbox"} or None


def run_lengths_of(
    item: ObjectAnnotation, size_wh: tuple[int, int], place: str
) -> dict[str, Any] | None:
    """The run lengths of an object; None if it has none.

    Args:
        item: The object.
        size_wh: Width and height of the picture that its numbers belong to.
        place: The annotation file.

    Raises:
        AnnotationError: They are of a picture of another size, and no run can be scaled.
    """
    if item.rle is not None and item.rle["size"] != [*size_wh[::-1]]:
        height, width = item.rle["size"]
        told = f"run lengths of {width} x {height} px, its picture has {size_wh[0]} x {size_wh[1]}"
        where = f"{place}: object {item.index + 1} {item.name!r}"
        raise AnnotationError(where, told, "leave the object out by --on-bad-record skip")
    return item.rle
