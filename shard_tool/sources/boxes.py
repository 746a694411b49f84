"""Turns the corners that a tool writes into boxes: zero-based, half-open, inside the picture.

Two conventions hide behind VOC's XML, and no file says which it follows. The devkit counts pixels
from 1 and includes both corners. Other tools (labelImg, CVAT, Label Studio, Roboflow) write the
corners of the box as they are, from zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from shard_tool.errors import BoxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shard_tool.format.sample import Box

Corners = tuple[float, float, float, float]
"""(xmin, ymin, xmax, ymax) as written."""

DEVKIT, CORNERS, NORMALIZED = "devkit", "corners", "normalized"
CONVENTIONS = {
    DEVKIT: "counted from 1 with both corners inside, as VOC's devkit does",
    CORNERS: "counted from 0, as labelImg, CVAT, Label Studio and Roboflow do",
    NORMALIZED: "in parts of the picture's width and height, as YOLO does",
}
_CLIPPED_PX = 1.0
"""A box may leave its picture by so many pixels; more is an error."""
_CLIPPED_PART = 0.01
"""The same of a normalized box, in parts of the picture: its writer rounds more coarsely."""
_DECIMALS = 9
"""Of normalized numbers in pixels. Multiplying leaves an error of 1e-11 px at most; without it what
was a whole pixel is one again."""


class Placed(NamedTuple):
    """A box, and what was done to it."""

    box: Box
    code: str | None = None
    """Code of what is to be reported: how it was clipped; None: it was not."""


def box_of(corners: Corners, convention: str) -> Box:
    """A zero-based, half-open box: only the near corner moves, and only by the devkit's rule.

    Fractions are kept.

    >>> box_of((1, 1, 500, 375), "devkit"), box_of((0, 0, 500, 375), "corners")
    ((0.0, 0.0, 500.0, 375.0), (0.0, 0.0, 500.0, 375.0))
    """
    xmin, ymin, xmax, ymax = corners
    first = 1 if convention == DEVKIT else 0
    return (float(xmin - first), float(ymin - first), float(xmax), float(ymax))


def scaled(box: Box, scale: tuple[float, float] | None) -> Box:
    """A box with its x and y multiplied by these factors; the same for None."""
    if scale is None:
        return box
    return (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])


def in_pixels(values: Sequence[float], size_wh: tuple[int, int]) -> tuple[float, ...]:
    """Normalized x, y, x, y, … in pixels.

    >>> in_pixels((0.1 + 0.2, 0.5), (500, 375))
    (150.0, 187.5)
    """
    return tuple([round(value * size_wh[at % 2], _DECIMALS) for at, value in enumerate(values)])


def placed(
    corners: Corners,
    *,
    convention: str,
    size_wh: tuple[int, int],
    scale: tuple[float, float] | None = None,
    clips: bool = False,
    place: str,
    object_index: int,
    name: str,
) -> Placed:
    """The box of an object inside its picture.

    Args:
        corners: As written.
        convention: A key of `CONVENTIONS`.
        size_wh: Width and height of the upright picture in pixels.
        scale: Factors of x and y, where the numbers belong to another size of the picture.
        clips: Whether a box that leaves the picture by more than a pixel is clipped, too.
        place: The annotation file.
        object_index: 0-based number of the object in its file.
        name: The object's class.

    Raises:
        BoxError: The box is inverted, empty, not finite, or leaves the picture by more than a pixel
            or, normalized, 1 % of its side (unless `clips`); or nothing of it is inside.
    """
    xmin, ymin, xmax, ymax = corners
    if convention == NORMALIZED:
        box: Box = in_pixels(corners, size_wh)  # type: ignore[assignment]  # four again
    else:
        box = scaled(box_of(corners, convention), scale)
    x0, y0, x1, y1 = box
    width, height = size_wh
    if 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height and xmin <= xmax and ymin <= ymax:
        return Placed(box)
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    leaves = max(-x0, -y0, x1 - width, y1 - height)
    is_box = xmin <= xmax and ymin <= ymax and inside[0] < inside[2] and inside[1] < inside[3]
    is_slight = leaves <= _CLIPPED_PX
    if convention == NORMALIZED:
        out = (-x0 / width, -y0 / height, (x1 - width) / width, (y1 - height) / height)
        is_slight = max(out) <= _CLIPPED_PART
    if is_box and (is_slight or (clips and math.isfinite(leaves))):
        return Placed(inside, "box-clipped" if is_slight else "bad-box-clipped")
    if convention == NORMALIZED:
        size_wh = (1, 1)
    elif scale is not None:  # the message gives the file's numbers
        size_wh = (round(width / scale[0]), round(height / scale[1]))
    raise BoxError(place, object_index, name, corners, size_wh, convention)
