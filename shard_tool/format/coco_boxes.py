"""Turns boxes into COCO's x, y, width, height and back, without losing a digit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shard_tool.format.sample import Box, Sample, SampleObject

_DECIMALS = 17
"""More do not change a double below 10."""


def coco_box(box: Box) -> tuple[float, float, float, float]:
    """x, y, width and height of a box: x + width is x1 again, and y + height y1, in doubles.

    Several widths may do this; the one with fewest decimals is nearly always the one that was
    written. Where none does, which never happens to boxes read from COCO, it is a nearest one.

    >>> coco_box((473.07, 395.93, 473.07 + 38.65, 395.93 + 28.67))
    (473.07, 395.93, 38.65, 28.67)
    """
    x0, y0, x1, y1 = box
    return x0, y0, _length(x0, x1), _length(y0, y1)


def _length(start: float, stop: float) -> float:
    found = stop - start
    for decimals in range(_DECIMALS + 1):
        if start + (rounded := round(found, decimals)) == stop:
            return rounded
    return found  # where it does not reach `stop`, no neighbour does: the sum is a tie


def box_in_raw(raw: dict[str, Any] | None) -> tuple[float, float, float, float] | None:
    """COCO's `bbox` in an object's raw values; None where it is none, as other tools may write.

    >>> box_in_raw({"bbox": [1, 2, 3, 4.5]}), box_in_raw({"bbox": "1 2 3 4"}), box_in_raw(None)
    ((1.0, 2.0, 3.0, 4.5), None, None)
    """
    written = (raw or {}).get("bbox")
    is_list = isinstance(written, list | tuple) and len(written) == 4
    if not is_list or any(type(value) not in (int, float) for value in written):  # type: ignore[union-attr]
        return None
    x, y, width, height = map(float, written)  # type: ignore[arg-type]
    return x, y, width, height


def written_box(item: SampleObject, sample: Sample) -> tuple[float, float, float, float]:
    """The box of an object as COCO's file has it, where the sample still tells; else `coco_box`.

    An object keeps in `raw` what its file says, where the box is another: it was clipped.
    """
    assert item.bbox is not None
    written = box_in_raw(item.raw)
    if written is None:
        return coco_box(item.bbox)
    x, y, width, height = written
    inside = (
        max(x, 0.0),
        max(y, 0.0),
        min(x + width, float(sample.width)),
        min(y + height, float(sample.height)),
    )
    return (x, y, width, height) if inside == item.bbox else coco_box(item.bbox)


def area_of(item: SampleObject, box: tuple[float, float, float, float]) -> float:
    """The area that COCO's file gives an object, in square pixels; else that of its box.

    Args:
        item: The object.
        box: What `written_box` returned.
    """
    area = _area((item.raw or {}).get("area"))
    return box[2] * box[3] if area is None else area


def with_scaled_area(raw: dict[str, Any] | None, factor: float) -> dict[str, Any] | None:
    """The raw values of an object whose picture is scaled: its area is in the new pixels.

    >>> with_scaled_area({"id": 7, "area": 230}, 0.25)
    {'id': 7, 'area': 57.5}
    """
    area = _area((raw or {}).get("area"))
    return raw if raw is None or area is None else {**raw, "area": area * factor}


def _area(area: Any) -> float | None:
    """An area as written; None where it is no finite number."""
    if type(area) not in (int, float) or not math.isfinite(area):
        return None
    return float(area)
