"""Parses VOC annotation XML into typed values, as strictly as the official files allow.

Numbers stay as written (1-based, both corners inside) until `box_from_corners` converts them to the
project's convention. An object needs a `name` and a `bndbox` (or a `point`, on action pictures);
any other tag may be missing and is then None. Tags may come in any order, and the `bndbox` of a
`part` is never taken for that of its object.

defusedxml refuses entities, DTDs and external references. A file without the keyword of a DTD can
hold none of them and goes to the standard library, which is five times as fast.

Source: the devkits' documentation 2007-2012, and the files themselves (docs/reference/format.md).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError
from xml.etree.ElementTree import fromstring as fast_fromstring

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from shard_tool.errors import AnnotationError, BoxError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from shard_tool.format.sample import Box

Corners = tuple[float, float, float, float]
"""(xmin, ymin, xmax, ymax) as VOC writes them: 1-based, both corners inside the box."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_CORNER_TAGS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAnnotation:
    """A `part` of a person."""

    name: str
    corners: Corners


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectAnnotation:
    """An `object`, as written."""

    name: str
    corners: Corners | None
    pose: str | None
    truncated: bool | None
    occluded: bool | None
    difficult: bool | None
    parts: tuple[PartAnnotation, ...] | None
    actions: dict[str, bool] | None
    point: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """The `source` tag."""

    database: str | None
    annotation: str | None
    image: str | None
    flickrid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The `owner` tag of the 2007 files."""

    flickrid: str | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One annotation file, as written.

    `filename` and `size_whd` may be wrong: trust the file's own name and the JPEG header.
    """

    folder: str | None
    filename: str | None
    source: ImageSource | None
    owner: Owner | None
    size_whd: tuple[int, int, int | None] | None
    """Width and height in pixels, and depth in channels (None if its tag is missing)."""
    segmented: bool | None
    objects: tuple[ObjectAnnotation, ...]


def box_from_corners(corners: Corners) -> Box:
    """Convert VOC corners to a zero-based, half-open box: only the near corner moves.

    VOC counts pixels from 1 and includes both corners, so a box over a whole 500 x 375 picture is
    (1, 1, 500, 375). Fractions are kept.

    >>> box_from_corners((1, 1, 500, 375))
    (0.0, 0.0, 500.0, 375.0)
    """
    xmin, ymin, xmax, ymax = corners
    return (float(xmin - 1), float(ymin - 1), float(xmax), float(ymax))


def check_corners(
    corners: Corners, *, size_wh: tuple[int, int], place: str, object_index: int, name: str
) -> None:
    """Refuse a box that is empty, inverted, not finite or not inside the picture.

    Raises:
        BoxError: Names the file, the object and the first value that breaks the rule.
    """
    x0, y0, x1, y1 = box_from_corners(corners)
    width, height = size_wh
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):  # also False for NaN
        raise BoxError(place, object_index, name, corners, size_wh)


def parse_annotation(content: bytes, *, place: str) -> Annotation:
    """Parse one annotation file.

    Args:
        content: The file's bytes.
        place: Name of the file in errors.

    Raises:
        AnnotationError: The file is not well-formed XML or not an annotation, an object has no
            name or neither box nor point, or a value does not suit its tag. `check_corners` checks
            boxes, against the picture's true size.
    """
    try:
        root = _parsed(content)
    except DefusedXmlException as exc:
        raise AnnotationError(place, f"refused for safety: {type(exc).__name__}") from exc
    except (ParseError, ValueError, LookupError) as exc:  # LookupError: an unknown encoding
        raise AnnotationError(place, f"not well-formed XML: {exc}") from exc
    if root.tag != "annotation":
        raise AnnotationError(place, f"the root tag is {root.tag!r}, expected 'annotation'")
    fields, objects = _fields(root), root.findall("object")
    return Annotation(
        folder=_text(fields, "folder"),
        filename=_text(fields, "filename"),
        source=_source(fields.get("source")),
        owner=_owner(fields.get("owner")),
        size_whd=_size(fields.get("size"), place),
        segmented=_flag(fields, "segmented", place),
        objects=tuple([_object(node, place, index) for index, node in enumerate(objects)]),
    )


def _parsed(content: bytes) -> Element:
    # All encodings that expat reads write the keyword in ASCII, except UTF-16, which has zeros.
    if b"<!DOCTYPE" in content or b"\0" in content:
        root: Element = fromstring(content, forbid_dtd=True)
        return root
    return fast_fromstring(content)


def _fields(node: Element) -> dict[str, Element]:
    """Map each tag to the node's first direct child of that tag."""
    found: dict[str, Element] = {}
    for child in node:
        found.setdefault(child.tag, child)
    return found


def _object(node: Element, place: str, index: int) -> ObjectAnnotation:
    fields = _fields(node)
    name = _text(fields, "name")
    if name is None:
        raise AnnotationError(place, f"object {index + 1} has no <name>")
    where = f"{place}: object {index + 1} {name!r}"
    box, point, actions = fields.get("bndbox"), fields.get("point"), fields.get("actions")
    if box is None and point is None:
        raise AnnotationError(where, "has no <bndbox> (nor a <point>)")
    parts = node.findall("part") if "part" in fields else []
    return ObjectAnnotation(
        name=name,
        corners=None if box is None else _corners(box, where),
        pose=_text(fields, "pose"),
        truncated=_flag(fields, "truncated", where),
        occluded=_flag(fields, "occluded", where),
        difficult=_flag(fields, "difficult", where),
        parts=tuple([_part(part, where, number) for number, part in enumerate(parts)]) or None,
        actions=None if actions is None else {a.tag: _is_one(a, where) for a in actions},
        point=None if point is None else _point(point, where),
    )


def _part(node: Element, where: str, index: int) -> PartAnnotation:
    fields = _fields(node)
    name, box = _text(fields, "name"), fields.get("bndbox")
    here = f"{where}: part {index + 1}"
    if name is None or box is None:
        raise AnnotationError(here, "needs a <name> and a <bndbox>")
    corners = _corners(box, here)
    x0, y0, x1, y1 = box_from_corners(corners)
    if not (x0 < x1 and y0 < y1):
        raise AnnotationError(here, f"{name!r} has an empty or inverted box {corners}")
    return PartAnnotation(name=name, corners=corners)


def _source(node: Element | None) -> ImageSource | None:
    if node is None:
        return None
    fields = _fields(node)
    return ImageSource(
        database=_text(fields, "database"),
        annotation=_text(fields, "annotation"),
        image=_text(fields, "image"),
        flickrid=_text(fields, "flickrid"),
    )


def _owner(node: Element | None) -> Owner | None:
    if node is None:
        return None
    fields = _fields(node)
    return Owner(flickrid=_text(fields, "flickrid"), name=_text(fields, "name"))


def _size(node: Element | None, place: str) -> tuple[int, int, int | None] | None:
    fields = {} if node is None else _fields(node)
    if node is None or _text(fields, "width") is None or _text(fields, "height") is None:
        return None
    has_depth = _text(fields, "depth") is not None
    depth = int(_number(fields, "depth", place, node)) if has_depth else None
    width, height = (int(_number(fields, tag, place, node)) for tag in ("width", "height"))
    return width, height, depth


def _corners(node: Element, where: str) -> Corners:
    fields = _fields(node)
    xmin, ymin, xmax, ymax = [_number(fields, tag, where, node) for tag in _CORNER_TAGS]
    return (xmin, ymin, xmax, ymax)


def _point(node: Element, where: str) -> tuple[float, float]:
    fields = _fields(node)
    return _number(fields, "x", where, node), _number(fields, "y", where, node)


def _text(fields: dict[str, Element], tag: str) -> str | None:
    """The stripped text of a child; None if missing or empty."""
    child = fields.get(tag)
    return ((child.text or "").strip() or None) if child is not None else None


def _number(fields: dict[str, Element], tag: str, where: str, node: Element) -> float:
    text = _text(fields, tag)
    if text is None:
        raise AnnotationError(where, f"<{node.tag}> has no <{tag}>")
    # float() alone would accept '1_0' and digits of other scripts
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise AnnotationError(where, f"<{tag}> is {text!r}, expected a number")
    return value


def _flag(fields: dict[str, Element], tag: str, where: str) -> bool | None:
    child = fields.get(tag)
    return None if child is None or not (child.text or "").strip() else _is_one(child, where)


def _is_one(node: Element, where: str) -> bool:
    text = (node.text or "").strip()
    if text not in {"0", "1"}:
        raise AnnotationError(where, f"<{node.tag}> is {text!r}, expected 0 or 1")
    return text == "1"
