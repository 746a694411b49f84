"""Parses one `<image>` of CVAT's XML.

| shape | becomes |
|---|---|
| `box` | a box; with a `rotation`, the upright box around it, counted |
| `polygon` | the polygon, and the box around it |
| `ellipse` | a polygon within 0.1 px of it, and the box around the ellipse itself, counted |
| `mask` | COCO's run lengths, and the box of its part of the picture |
| `polyline`, `points`, `cuboid`, `skeleton` | no object: it stays in the picture's `raw`, counted |
| `tag` | says something of the whole picture: it stays there, counted |

Attributes of the XML (`source`, `z_order`, `group_id` and more) and `<attribute>`s stay in the
object's `raw`, as they are written; so do the numbers of a shape that was read otherwise. A group
joins nothing: CVAT's other exporters keep its objects apart.

Source: cvat/apps/dataset_manager/formats/cvat.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError, fromstring

import numpy as np

from shard_tool.errors import AnnotationError
from shard_tool.format.sample import MAX_PIXELS
from shard_tool.sources.annotation import Annotation, BadObject, ObjectAnnotation
from shard_tool.sources.notes import Note
from shard_tool.sources.shapes import (
    check_inside,
    hull_of,
    hull_of_ellipse,
    hull_of_turned,
    polygon_of_ellipse,
    run_lengths,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from shard_tool.format.sample import Polygon
    from shard_tool.sources.boxes import Corners

_OF_IMAGE = {"name", "width", "height", "subset"}
_NUMBERS = {
    "box": {"xtl", "ytl", "xbr", "ybr"},
    "polygon": {"points"},
    "ellipse": {"cx", "cy", "rx", "ry"},
    "mask": {"rle", "left", "top", "width", "height"},
}
"""Shapes that are objects, and the attributes that draw them."""
_CORNERS = ("xtl", "ytl", "xbr", "ybr")

Size = tuple[int, int]


def parse_cvat(content: bytes, place: str) -> Annotation:
    """Parse one image.

    Args:
        content: The `<image>` in UTF-8, as `xml_file.CvatFile.document` cuts it out.
        place: Its name in errors and notes.

    Raises:
        AnnotationError: It is not well-formed.
    """
    try:
        image = fromstring(content)
    except (ParseError, ValueError) as exc:
        raise AnnotationError(place, f"not well-formed XML: {exc}") from exc
    notes, good, bad = list[Note](), list[ObjectAnnotation](), list[BadObject]()
    size_wh, unread = _size(image, place, notes), list[dict[str, Any]]()
    for index, node in enumerate(image):
        label = (node.get("label") or "").strip()
        where = f"{place}: object {index + 1}" + (f" {label!r}" if label else "")
        if node.tag not in _NUMBERS:
            code = "picture-tag" if node.tag == "tag" else "shape-without-area"
            notes.append(Note(code, where, node.tag, index))
            unread.append(_verbatim(node))
            continue
        try:
            good.append(_object(node, index, label, where, size_wh, notes))
        except AnnotationError as exc:
            problem = exc.with_traceback(None)
            bad.append(BadObject(index=index, name=label or None, problem=problem))
    raw: dict[str, Any] = {name: its for name, its in image.items() if name not in _OF_IMAGE}
    raw |= {"unread": unread} if unread else {}
    return Annotation(
        filename=image.get("name"),
        size_whd=None if size_wh is None else (*size_wh, None),
        objects=tuple(good),
        bad_objects=tuple(bad),
        notes=tuple(notes),
        raw=raw or None,
    )


def _size(image: Element, place: str, notes: list[Note]) -> Size | None:
    texts = image.get("width"), image.get("height")
    sides = [int(text) for text in texts if text and text.isdecimal() and len(text) < 10]
    if len(sides) == 2 and min(sides) > 0:
        return sides[0], sides[1]
    if any(texts):
        notes.append(Note("size-unusable", place, f"{texts[0]!r:.20} x {texts[1]!r:.20}"))
    return None


def _verbatim(node: Element) -> dict[str, Any]:
    """A shape that is no object, with all that it says."""
    found: dict[str, Any] = {"shape": node.tag, **node.attrib}
    if attributes := _attributes(node):
        found["attributes"] = attributes
    if parts := [_verbatim(child) for child in node if child.tag != "attribute"]:
        found["parts"] = parts
    return found


def _attributes(node: Element) -> dict[str, str]:
    its = node.findall("attribute")
    return {one.get("name", ""): (one.text or "").strip() for one in its}


def _object(
    node: Element, index: int, label: str, where: str, size_wh: Size | None, notes: list[Note]
) -> ObjectAnnotation:
    if not label:
        raise AnnotationError(where, f"is a <{node.tag}> without a label")
    occluded = node.get("occluded")
    if occluded not in (None, "0", "1"):
        raise AnnotationError(where, f"occluded is {occluded!r}, expected 0 or 1")
    corners, polygon, rle, code = _outline(node, where, size_wh)
    read = {"label", "occluded"} if code else {"label", "occluded", *_NUMBERS[node.tag]}
    raw: dict[str, Any] = {name: its for name, its in node.items() if name not in read}
    if attributes := _attributes(node):
        raw["attributes"] = attributes
    if code:
        raw["shape"] = node.tag
        notes.append(Note(code, where, node.tag, index))
    return ObjectAnnotation(
        index=index,
        name=label,
        corners=corners,
        occluded=None if occluded is None else occluded == "1",
        polygons=None if polygon is None else (polygon,),
        rle=rle,
        raw=raw or None,
    )


def _outline(
    node: Element, where: str, size_wh: Size | None
) -> tuple[Corners, Polygon | None, dict[str, Any] | None, str | None]:
    """Box, polygon and run lengths of a shape, and the code of how it was read otherwise."""
    angle = math.radians(_number(node, "rotation", where) if node.get("rotation") else 0.0)
    if node.tag == "polygon":
        polygon = _polygon(node, where)
        return hull_of(polygon), polygon, None, None
    if node.tag == "mask":
        return _mask(node, where, size_wh)
    if node.tag == "ellipse":
        cx, cy, rx, ry = [_number(node, name, where) for name in ("cx", "cy", "rx", "ry")]
        if rx <= 0 or ry <= 0:
            raise AnnotationError(where, f"is an ellipse with radii {rx:g} and {ry:g}")
        polygon = polygon_of_ellipse((cx, cy), (rx, ry), angle)
        return hull_of_ellipse((cx, cy), (rx, ry), angle), polygon, None, "curve-as-polygon"
    x0, y0, x1, y1 = [_number(node, name, where) for name in _CORNERS]
    if not angle or x0 > x1 or y0 > y1:  # an inverted box stays, for its own error
        return (x0, y0, x1, y1), None, None, None
    corners = hull_of_turned(((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0, y1 - y0), angle)
    return corners, None, None, "rotated-box"


def _number(node: Element, name: str, where: str) -> float:
    text = node.get(name)
    if text is None:
        raise AnnotationError(where, f"is a <{node.tag}> without {name}")
    return _finite(text, name, where)


def _finite(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise AnnotationError(where, f"{name} is {text[:40]!r}, expected a number")
    return value


def _polygon(node: Element, where: str) -> Polygon:
    pairs = [pair.split(",") for pair in (node.get("points") or "").split(";")]
    if len(pairs) < 3 or any(len(pair) != 2 for pair in pairs):
        problem = f"has points {node.get('points', '')[:40]!r}, expected x,y;x,y;x,y or more"
        raise AnnotationError(where, problem)
    return tuple([_finite(text, "points", where) for pair in pairs for text in pair])


def _mask(
    node: Element, where: str, size_wh: Size | None
) -> tuple[Corners, None, dict[str, Any] | None, str | None]:
    """A part of the picture, row by row: lengths of runs of 0 and 1 in turn."""
    left, top, width, height = [
        _whole(node.get(name), name, where) for name in ("left", "top", "width", "height")
    ]
    runs = [_whole(text, "rle", where) for text in (node.get("rle") or "").split(",")]
    if sum(runs) != width * height or width * height > MAX_PIXELS:
        problem = f"has runs of {sum(runs)} pixels for {width} x {height}"
        raise AnnotationError(where, problem)
    corners = (float(left), float(top), float(left + width), float(top + height))
    if size_wh is None:
        return corners, None, None, "mask-without-size"
    check_inside(corners, size_wh, where)
    values = np.arange(len(runs)) % 2 == 1
    pixels = np.repeat(values, runs).reshape(height, width)
    if not pixels.any():
        raise AnnotationError(where, "has a mask without a pixel")
    return corners, None, run_lengths(pixels, (left, top), size_wh), None


def _whole(text: str | None, name: str, where: str) -> int:
    plain = (text or "").strip()
    if not plain.isdecimal() or len(plain) > 9:
        found = "missing" if text is None else repr(text[:40])
        raise AnnotationError(where, f"{name} is {found}, expected a whole number")
    return int(plain)
