"""Reads the outline of one shape of labelme, AnyLabeling or X-AnyLabeling.

| `shape_type` | points | becomes |
|---|---|---|
| `rectangle` | two corners in any order, or all four | a box; if it is turned, as `rotation` |
| `polygon`, `quadrilateral`; none | three or more | the polygon, and the box around it |
| `circle` | centre and a point of the rim | a polygon within 0.1 px of it, and its own box |
| `rotation`, `oriented_rectangle` | four corners | the polygon, and the box around it |
| `mask` | first and last pixel, and a PNG of what lies between (labelme 5.3) | run lengths, a box |
| `point`, `points`, `line`, `linestrip` | | no area: it stays in `raw`, counted |

Sources: labelme/utils/shape.py (shape_to_mask, shapes_to_label), labelme/_label_file.py;
anylabeling/views/labeling/label_file.py and shape.py. A mask whose points are fractions begins at
the nearest pixel and is as large as its PNG, as shapes_to_label takes it.
"""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from shard_tool.errors import AnnotationError, DataError
from shard_tool.pictures.size import picture_size
from shard_tool.sources.shapes import hull_of, hull_of_ellipse, polygon_of_ellipse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shard_tool.format.sample import Polygon
    from shard_tool.sources.boxes import Corners

WITHOUT_AREA = ("point", "points", "line", "linestrip", "lines", "multipoints")


class Mask(NamedTuple):
    """The pixels of a shape, as a part of the picture."""

    pixels: NDArray[np.bool_]
    """[height, width] of the part."""
    left: int
    top: int


class Outline(NamedTuple):
    """What a shape covers."""

    corners: Corners
    polygon: Polygon | None
    """None: the box itself, or a mask."""
    mask: Mask | None
    code: str | None
    """Of a note: in which other way than drawn the shape was read."""

    @property
    def as_polygon(self) -> Polygon | None:
        """Its polygon, which a box has too; None for a mask."""
        if self.polygon is not None or self.mask is not None:
            return self.polygon
        xmin, ymin, xmax, ymax = self.corners
        return (xmin, ymin, xmax, ymin, xmax, ymax, xmin, ymax)


def outline_of(shape: dict[str, Any], where: str) -> Outline:
    """The outline of a shape that has an area.

    Args:
        shape: As written.
        where: Place of the shape in errors.

    Raises:
        AnnotationError: It is of no known type, or its points do not suit its type.
    """
    kind, points = type_of(shape), _points(shape, where)
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return Outline((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), None, None, None)
    if kind in ("rectangle", "rotation", "oriented_rectangle"):
        return _four_corners(points, where)
    if kind in ("polygon", "quadrilateral"):
        if len(points) < 3:
            raise _wrong_points(kind, points, "3 or more", where)
        polygon = tuple([value for point in points for value in point])
        return Outline(hull_of(polygon), polygon, None, None)
    if kind == "circle":
        return _circle(points, where)
    if kind == "mask":
        return _mask(shape, points, where)
    raise AnnotationError(where, f"has the unknown shape_type {kind!r}")


def type_of(shape: dict[str, Any]) -> str:
    """The `shape_type`; early versions of labelme knew polygons alone."""
    kind = shape.get("shape_type")
    return "polygon" if kind is None else str(kind)


def _points(shape: dict[str, Any], where: str) -> list[tuple[float, float]]:
    points = shape.get("points")
    if type(points) is not list:
        raise AnnotationError(where, "has no points")
    try:
        return [(_number(x), _number(y)) for x, y in points]
    except (TypeError, ValueError, OverflowError) as exc:
        problem = "has points that are not pairs of finite numbers"
        raise AnnotationError(where, problem) from exc


def _number(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError
    return float(value)  # type: ignore[arg-type]


def _four_corners(points: list[tuple[float, float]], where: str) -> Outline:
    if len(points) != 4:
        raise _wrong_points("rectangle", points, "2 or 4", where)
    polygon = tuple([value for point in points for value in point])
    corners = hull_of(polygon)
    xmin, ymin, xmax, ymax = corners
    if {*points} == {(xmin, ymin), (xmax, ymin), (xmax, ymax), (xmin, ymax)}:
        return Outline(corners, None, None, None)
    return Outline(corners, polygon, None, "rotated-box")


def _circle(points: list[tuple[float, float]], where: str) -> Outline:
    if len(points) != 2:
        raise _wrong_points("circle", points, "2", where)
    centre, rim = points
    radius = math.dist(centre, rim)
    if not 0 < radius < math.inf:
        raise AnnotationError(where, f"is a circle with radius {radius:g}")
    polygon = polygon_of_ellipse(centre, (radius, radius))
    return Outline(hull_of_ellipse(centre, (radius, radius)), polygon, None, "curve-as-polygon")


def _mask(shape: dict[str, Any], points: list[tuple[float, float]], where: str) -> Outline:
    """The pixels of a mask; its points count as pixels, both of them inside."""
    if len(points) != 2:
        raise _wrong_points("mask", points, "2", where)
    (x0, y0), (x1, y1) = [(round(x), round(y)) for x, y in points]
    try:
        content = base64.b64decode(shape.get("mask") or "", validate=True)
        width, height = picture_size(content, "PNG", where)
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            pixels = np.asarray(image) > 0
    except (DataError, TypeError, OSError, ValueError, SyntaxError) as exc:
        raise AnnotationError(where, "has a mask that is no PNG in base64") from exc
    is_whole = points == [(x0, y0), (x1, y1)]
    expected = (x1 - x0 + 1, y1 - y0 + 1) if is_whole else (width, height)
    if (width, height) != expected or pixels.ndim != 2:
        told = f"{width} x {height} px{'' if pixels.ndim == 2 else ' in colours'}"
        problem = f"has a mask of {told}, expected {expected[0]} x {expected[1]} by its points"
        raise AnnotationError(where, problem)
    corners = (float(x0), float(y0), float(x0 + width), float(y0 + height))
    return Outline(corners, None, Mask(pixels, x0, y0), None if is_whole else "mask-rounded")


def _wrong_points(
    kind: str, points: list[tuple[float, float]], expected: str, where: str
) -> AnnotationError:
    return AnnotationError(where, f"is a {kind} of {len(points)} points, expected {expected}")
