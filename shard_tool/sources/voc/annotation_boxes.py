"""Reads the box of an object: a `bndbox`, or the upright box around another shape.

Numbers stay as written. The box of a rotated shape is the upright hull of its corners; both kinds
that tools write are noted:

- CVAT writes the box *before* rotation as `bndbox`, and the degrees about its centre as an
  attribute `rotation` (0.0 for upright boxes): its exporter to PASCAL VOC turns no boxes into
  polygons (cvat/apps/dataset_manager: bindings.py sets the attribute, formats/pascal_voc.py;
  datumaro/plugins/data_formats/voc/exporter.py writes it).
- roLabelImg writes `robndbox` with centre, width, height and the angle in radians, from 0 to π
  (libs/labelFile.py, convertPoints2RotatedBndBox). An angle beyond a turn is none of these, perhaps
  degrees, and refused.

Roboflow and supervision write a `polygon` of x1, y1, x2, y2, …, beside the `bndbox`. If it stands
alone, the box is its hull.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from shard_tool.errors import AnnotationError
from shard_tool.sources.shapes import hull_of_turned
from shard_tool.sources.voc.annotation_tags import (
    children,
    fields_of,
    number_of,
    plain_number,
    text_of,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from shard_tool.sources.voc.annotation_tags import Reading

Corners = tuple[float, float, float, float]
"""(xmin, ymin, xmax, ymax) as written."""

SHAPES = frozenset({"polygon", "robndbox", "segmentation", "segment"})
"""Tags of an object that draw it otherwise than by a box."""

_CORNER_TAGS = ("xmin", "ymin", "xmax", "ymax")
_CORNERS = frozenset(_CORNER_TAGS)
_ROTATED_TAGS = ("cx", "cy", "w", "h", "angle")


def box_of(
    node: Element, fields: dict[str, Element], where: str, reading: Reading
) -> Corners | None:
    """The box of an object.

    Args:
        node: The object.
        fields: Its children, see `fields_of`.
        where: Place of the object in errors.
        reading: Takes the notes.

    Returns:
        Corners in pixels as written; None if the object has no shape whose box is certain.

    Raises:
        AnnotationError: The shape cannot be read.
    """
    box = fields.get("bndbox")
    if box is not None:
        corners = corners_of(box, where, reading)
        if "attributes" in fields:
            corners = _turned(corners, node, reading)
        if not SHAPES.isdisjoint(fields):
            reading.note(
                "shape-dropped", " ".join(f"<{tag}>" for tag in sorted(SHAPES & {*fields}))
            )
        return corners
    rotated = fields.get("robndbox")
    if rotated is not None:
        return _rotated(rotated, where, reading)
    if "polygon" in fields:
        points = [point for one in children(node, "polygon") for point in _points(one, where)]
        reading.note("box-from-polygon", f"{len(points)} points")
        xs, ys = zip(*points, strict=True)
        return (min(xs), min(ys), max(xs), max(ys))
    return None


def corners_of(node: Element, where: str, reading: Reading) -> Corners:
    """The four numbers of a `bndbox`, in any order of its tags.

    Raises:
        AnnotationError: One is missing or no number.
    """
    fields = fields_of(node, _CORNERS, where, reading)
    xmin, ymin, xmax, ymax = [number_of(fields, tag, where, node) for tag in _CORNER_TAGS]
    return (xmin, ymin, xmax, ymax)


def _turned(corners: Corners, node: Element, reading: Reading) -> Corners:
    """The hull of a box that CVAT rotated; an inverted box stays, for its own error."""
    xmin, ymin, xmax, ymax = corners
    degrees = _rotation(node)
    if not degrees or xmin > xmax or ymin > ymax:
        return corners
    reading.note("rotated-box", f"bndbox turned by {degrees:g} degrees")
    centre = ((xmin + xmax) / 2, (ymin + ymax) / 2)
    return hull_of_turned(centre, (xmax - xmin, ymax - ymin), math.radians(degrees))


def _rotation(node: Element) -> float | None:
    """Degrees in `<attributes><attribute><name>rotation</name><value>…`."""
    for attributes in children(node, "attributes"):
        for attribute in attributes:
            if (attribute.findtext("name") or "").strip() == "rotation":
                return plain_number((attribute.findtext("value") or "").strip())
    return None


def _rotated(node: Element, where: str, reading: Reading) -> Corners:
    fields = fields_of(node, frozenset(_ROTATED_TAGS), where, reading)
    cx, cy, width, height, angle = [number_of(fields, tag, where, node) for tag in _ROTATED_TAGS]
    if width <= 0 or height <= 0:
        raise AnnotationError(where, f"<robndbox> has width {width:g} and height {height:g}")
    if abs(angle) > 2 * math.pi:
        problem = f"<angle> is {text_of(fields, 'angle')}, expected radians within a turn"
        raise AnnotationError(where, problem)
    reading.note("rotated-box", f"robndbox turned by {angle:g} radians")
    return hull_of_turned((cx, cy), (width, height), angle)


def _points(node: Element, where: str) -> list[tuple[float, float]]:
    """The points of a polygon; at least three, numbered from 1."""
    fields = {child.tag.lower(): child for child in node}
    count = len(fields) // 2
    wanted = {f"{axis}{number}" for number in range(1, count + 1) for axis in "xy"}
    if count < 3 or fields.keys() != wanted or len(fields) != len(node):
        found = ", ".join(f"<{child.tag}>" for child in node[:3]) or "nothing"
        problem = f"<polygon> holds {found}, expected <x1>, <y1>, <x2>, … of 3 points or more"
        raise AnnotationError(where, problem)
    return [
        (number_of(fields, f"x{i}", where, node), number_of(fields, f"y{i}", where, node))
        for i in range(1, count + 1)
    ]
