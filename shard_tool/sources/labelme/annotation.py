"""Parses labelme's annotations, and those of AnyLabeling and X-AnyLabeling, which write the same.

Shapes of one label and one `group_id` are one object, as labelme's own exporters take them: its
polygons together, and the box around all. `flags`, or members of a shape, that are called
difficult, truncated or occluded are the object's; all else that a shape says stays in its `raw`.
What has no area (points, lines), and regions labelled ``__ignore__``, are no objects: they stay in
the picture's `raw` as `unread`, and are counted. Colours of lines and fillings are left out.

Sources: labelme's label file; examples/instance_segmentation/labelme2coco.py.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shard_tool.errors import AnnotationError
from shard_tool.sources.annotation import Annotation, BadObject, ObjectAnnotation
from shard_tool.sources.labelme.shapes import WITHOUT_AREA, Mask, outline_of, type_of
from shard_tool.sources.notes import Note
from shard_tool.sources.shapes import check_inside, run_lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shard_tool.sources.boxes import Corners
    from shard_tool.sources.labelme.shapes import Outline

_IGNORED = "__ignore__"
_FLAGS = ("difficult", "truncated", "occluded")
_READ = {"shapes", "imagePath", "imageHeight", "imageWidth", "version"}
_COLORS = {"lineColor", "fillColor", "line_color", "fill_color"}
_OF_SHAPE = {"label", "points", "shape_type", "mask", *_FLAGS}
_DEEPEST = 32
"""How deep lists and objects may be nested in what becomes `raw`."""

Size = tuple[int, int]
Shape = dict[str, Any]


class _Part(NamedTuple):
    """A shape of an object."""

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    shape: Shape


def parse_labelme(content: bytes, place: str) -> Annotation:
    """Parse one annotation.

    Args:
        content: JSON in UTF-8, as `json_file.read_labelme` gives it.
        place: Name of the file in errors and notes.

    Raises:
        AnnotationError: It has no list of shapes, or holds what no sample can.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise AnnotationError(place, f"not JSON: {exc}") from exc
    shapes = document.get("shapes") if isinstance(document, dict) else None
    if type(shapes) is not list:
        raise AnnotationError(place, "has no list of shapes")
    notes, good, bad = list[Note](), list[ObjectAnnotation](), list[BadObject]()
    size_wh, unread = _size(document, place, notes), list[Any]()
    for parts in _grouped(shapes, place, notes, unread):
        first, name = parts[0].index, _name(parts[0].shape)
        where = f"{place}: object {first + 1}" + (f" {name!r}" if name else "")
        its_notes = list[Note]()
        try:
            good.append(_object(parts, where, size_wh, its_notes))
            notes += its_notes
        except AnnotationError as exc:
            bad.append(BadObject(index=first, name=name, problem=exc.with_traceback(None)))
    raw = {name: its for name, its in document.items() if name not in _READ | _COLORS and its}
    raw |= {"unread": unread} if unread else {}
    _check_plain(raw, place)
    return Annotation(
        size_whd=None if size_wh is None else (*size_wh, None),
        objects=tuple(good),
        bad_objects=tuple(bad),
        notes=tuple(notes),
        raw=raw or None,
    )


def _size(document: Shape, place: str, notes: list[Note]) -> Size | None:
    sides: list[Any] = [document.get(name) for name in ("imageWidth", "imageHeight")]
    found = [int(side) for side in sides if type(side) in (int, float) and 0 < side < 2**31]
    if len(found) == 2 and found == sides:
        return found[0], found[1]
    if any(side is not None for side in sides):
        notes.append(Note("size-unusable", place, f"{sides[0]!r:.20} x {sides[1]!r:.20}"))
    return None


def _grouped(
    shapes: Sequence[Any], place: str, notes: list[Note], unread: list[Any]
) -> list[list[_Part]]:
    """The shapes of each object; notes those that are none."""
    found = dict[Any, list[_Part]]()
    for index, shape in enumerate(shapes):
        if not isinstance(shape, dict):
            shape = {}  # its error is that it has no label
        name, kind, group = _name(shape), type_of(shape), shape.get("group_id")
        code = "region-ignored" if name == _IGNORED else "shape-without-area"
        if name == _IGNORED or kind in WITHOUT_AREA:
            unread.append(shape)
            notes.append(Note(code, f"{place}: object {index + 1} {name!r}", kind, index))
            continue
        key = (name, group) if type(group) in (int, str) else index
        found.setdefault(key, []).append(_Part(index, shape))
    return list(found.values())


def _name(shape: Shape) -> str | None:
    label = shape.get("label")
    if type(label) is int:
        label = str(label)
    return label.strip() or None if isinstance(label, str) else None


def _object(
    parts: Sequence[_Part], where: str, size_wh: Size | None, notes: list[Note]
) -> ObjectAnnotation:
    first = parts[0]
    if (name := _name(first.shape)) is None:
        raise AnnotationError(where, "is a shape without a label")
    outlines = [outline_of(part.shape, where) for part in parts]
    for part, outline in zip(parts, outlines, strict=True):
        if outline.code:
            notes.append(Note(outline.code, where, type_of(part.shape), part.index))
    if len(parts) > 1:
        notes.append(Note("shapes-joined", where, f"{len(parts)} shapes", first.index))
    raws = [_raw(part.shape, outline) for part, outline in zip(parts, outlines, strict=True)]
    raw = raws[0] if len(raws) == 1 else {"shapes": raws}
    _check_plain([name, raw], where)
    corners = _around([outline.corners for outline in outlines])
    polygons, rle = _joined(outlines, size_wh, where, notes, first.index)
    return ObjectAnnotation(
        index=first.index,
        name=name,
        corners=corners,
        truncated=_flag(parts, "truncated"),
        occluded=_flag(parts, "occluded"),
        difficult=_flag(parts, "difficult"),
        polygons=polygons,
        rle=rle,
        raw=raw or None,
    )


def _around(boxes: Sequence[Corners]) -> Corners:
    x0s, y0s, x1s, y1s = zip(*boxes, strict=True)
    return (min(x0s), min(y0s), max(x1s), max(y1s))


def _joined(
    outlines: Sequence[Outline], size_wh: Size | None, where: str, notes: list[Note], index: int
) -> tuple[Any, Any]:
    """Polygons or run lengths of an object; neither for a plain box."""
    masks = [outline.mask for outline in outlines if outline.mask is not None]
    if not masks:
        if len(outlines) == 1:
            polygon = outlines[0].polygon
            return None if polygon is None else (polygon,), None
        return tuple([outline.as_polygon for outline in outlines]), None
    if len(masks) < len(outlines):
        problem = "joins a mask and another shape by group_id"
        raise AnnotationError(where, problem, "draw both as masks, or as polygons")
    if size_wh is None:
        notes.append(Note("mask-without-size", where, "", index))
        return None, None
    for outline in outlines:
        check_inside(outline.corners, size_wh, where)
    mask = masks[0] if len(masks) == 1 else _united(masks)
    return None, run_lengths(mask.pixels, (mask.left, mask.top), size_wh)


def _united(masks: Sequence[Mask]) -> Mask:
    left, top = min(its.left for its in masks), min(its.top for its in masks)
    right = max(its.left + its.pixels.shape[1] for its in masks)
    bottom = max(its.top + its.pixels.shape[0] for its in masks)
    pixels = np.zeros((bottom - top, right - left), np.bool_)
    for its in masks:
        height, width = its.pixels.shape
        y, x = its.top - top, its.left - left
        pixels[y : y + height, x : x + width] |= its.pixels
    return Mask(pixels, left, top)


def _flag(parts: Sequence[_Part], name: str) -> bool | None:
    """A flag of the object; of several shapes that say it, any says yes."""
    said = list[bool]()
    for _, shape in parts:
        flags = shape.get("flags")
        named = flags.items() if isinstance(flags, dict) else ()
        values = [shape.get(name), *(value for key, value in named if key.lower() == name)]
        said += [value for value in values if type(value) is bool]
    return any(said) if said else None


def _raw(shape: Shape, outline: Outline) -> Shape:
    """What a shape says beside its outline, and the numbers of one that was read otherwise."""
    raw = {name: its for name, its in shape.items() if name not in _OF_SHAPE | _COLORS and its}
    if shape.get("group_id") == 0:
        raw["group_id"] = 0
    if outline.code in ("curve-as-polygon", "mask-rounded"):
        raw |= {"shape_type": shape["shape_type"], "points": shape["points"]}
    return raw


def _check_plain(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what no JSON of a sample can hold."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise AnnotationError(where, "holds half of a pair of surrogates, which is no text")
    elif isinstance(value, float) and not math.isfinite(value):
        raise AnnotationError(where, f"holds {value}, which is no number")
    elif isinstance(value, list | dict):
        if depth == _DEEPEST:
            raise AnnotationError(where, f"holds more than {_DEEPEST} levels of lists and objects")
        members = value if isinstance(value, list) else [*value, *value.values()]
        for member in members:
            _check_plain(member, where, depth + 1)
