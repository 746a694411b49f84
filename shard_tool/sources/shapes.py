"""Turns shapes that tools draw into what a sample holds: boxes, polygons and COCO's run lengths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from shard_tool.errors import AnnotationError
from shard_tool.format.sample import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shard_tool.format.sample import Polygon
    from shard_tool.sources.boxes import Corners

_GAP_PX = 0.1
"""Largest distance between a curve and the polygon in its place."""
_FEWEST_CORNERS = 12
_DECIMALS = 4
"""Of the corners of such a polygon: the last digits of sines differ between machines."""


def hull_of(polygon: Sequence[float]) -> Corners:
    """The box around x, y, x, y, ….

    >>> hull_of((3, 4, 1, 9, 2, 5))
    (1, 4, 3, 9)
    """
    xs, ys = polygon[::2], polygon[1::2]
    return (min(xs), min(ys), max(xs), max(ys))


def hull_of_turned(
    centre: tuple[float, float], size_wh: tuple[float, float], angle: float
) -> Corners:
    """The upright box around a box that is turned about its centre by radians, either way."""
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    half_width = (size_wh[0] * cosine + size_wh[1] * sine) / 2
    half_height = (size_wh[0] * sine + size_wh[1] * cosine) / 2
    (cx, cy) = centre
    return (cx - half_width, cy - half_height, cx + half_width, cy + half_height)


def hull_of_ellipse(
    centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> Corners:
    """The upright box around an ellipse that is turned by radians, either way.

    >>> hull_of_ellipse((10, 20), (3, 4))
    (7.0, 16.0, 13.0, 24.0)
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    half_width = math.hypot(radii[0] * cosine, radii[1] * sine)
    half_height = math.hypot(radii[0] * sine, radii[1] * cosine)
    (cx, cy) = centre
    return (cx - half_width, cy - half_height, cx + half_width, cy + half_height)


def polygon_of_ellipse(
    centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> Polygon:
    """Corners on an ellipse, so many that no edge is further from it than a tenth of a pixel.

    Args:
        centre: x and y.
        radii: Along x and y before it is turned; above 0.
        angle: In radians, clockwise as y runs down.
    """
    longest = max(radii)
    widest = 2 * math.acos(max(1 - _GAP_PX / longest, -1.0))
    count = max(_FEWEST_CORNERS, math.ceil(2 * math.pi / widest))
    turns = np.arange(count) * (2 * math.pi / count)
    along, across = radii[0] * np.cos(turns), radii[1] * np.sin(turns)
    cosine, sine = math.cos(angle), math.sin(angle)
    xs = centre[0] + along * cosine - across * sine
    ys = centre[1] + along * sine + across * cosine
    corners = np.round(np.stack([xs, ys], axis=1).ravel(), _DECIMALS)
    return tuple(corners.tolist())


def check_inside(corners: Corners, size_wh: tuple[int, int], where: str) -> None:
    """Refuse a mask before its picture's size takes memory.

    Raises:
        AnnotationError: It leaves its picture, or no picture may be so large.
    """
    width, height = size_wh
    if width * height > MAX_PIXELS:
        problem = f"has a mask for a picture of {width} x {height} px (most: {MAX_PIXELS} pixels)"
        raise AnnotationError(where, problem)
    if min(corners) < 0 or corners[2] > width or corners[3] > height:
        problem = f"has a mask that leaves its picture of {width} x {height} px"
        raise AnnotationError(where, problem)


def run_lengths(
    mask: NDArray[np.bool_], left_top: tuple[int, int], size_wh: tuple[int, int]
) -> dict[str, Any]:
    """COCO's run lengths of a mask of a part of a picture, which it must not leave: `check_inside`.

    Args:
        mask: [height, width] of the part.
        left_top: x and y of its first pixel in the picture.
        size_wh: Width and height of the picture.

    Returns:
        `size` [height, width] and `counts`: lengths of runs of 0 and 1 in turn, column by column.

    >>> run_lengths(np.array([[True, False], [True, True]]), (1, 1), (4, 3))
    {'size': [3, 4], 'counts': [4, 2, 2, 1, 3]}
    """
    (left, top), (width, height) = left_top, size_wh
    columns = np.zeros((mask.shape[1], height), np.bool_)
    columns[:, top : top + mask.shape[0]] = mask.T
    flat = np.concatenate([[False], columns.ravel(), [False]])
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + left * height
    if not len(ends) or ends[-1] < width * height:
        ends = np.append(ends, width * height)
    counts = np.diff(ends, prepend=0).tolist()
    return {"size": [height, width], "counts": counts}
