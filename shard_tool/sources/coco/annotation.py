"""Parses the document of one picture: its image and its annotations, as COCO's format has them.

An annotation needs a category and a `bbox` [x, y, width, height] or a segmentation; all else may be
missing. One that cannot be read is a `BadObject` and leaves the others alone. What is read in
another way than written plainly makes a note (`shard_tool/sources/notes.py`). What has no place of
its own in a sample stays in `raw`, with the numbers as written.

CVAT writes a rotated box as it was before, and its degrees as the attribute `rotation`: it has no
polygon then, and the box around it is taken.

Sources: https://cocodataset.org/#format-data; cvat/apps/dataset_manager/formats/coco.py, which
turns no boxes into polygons; datumaro/plugins/data_formats/coco/exporter.py, which writes the
attributes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from shard_tool.errors import AnnotationError
from shard_tool.sources.annotation import Annotation, BadObject, ObjectAnnotation
from shard_tool.sources.coco.categories import category_text
from shard_tool.sources.coco.segmentation import box_around, polygons_of, run_lengths_of
from shard_tool.sources.coco.values import are_numbers, shown
from shard_tool.sources.notes import Note
from shard_tool.sources.shapes import hull_of_turned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shard_tool.sources.boxes import Corners

_IMAGE_FIELDS = ("file_name", "width", "height")
_OBJECT_FIELDS = ("image_id", "category_id", "bbox", "segmentation", "iscrowd")
_HINT = "correct the file, or leave the object out by --on-bad-record skip"


def parse_document(
    content: bytes, place: str, *, names: Mapping[str, Mapping[str, str]]
) -> Annotation:
    """Parse the document of a picture.

    Args:
        content: JSON with `image`, `annotations`, and `categories`: a key of `names`.
        place: Name of the image in errors and notes.
        names: To the names of the categories, by their ids as text.

    Raises:
        AnnotationError: It holds what no JSON can, such as a number that no float is.
    """
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise AnnotationError(place, f"cannot be read: {exc}") from exc
    image, notes = document["image"], list[Note]()
    its_names = names[document["categories"]]
    good, bad = list[ObjectAnnotation](), list[BadObject]()
    for index, item in enumerate(document["annotations"]):
        before, name = len(notes), its_names.get(category_text(item.get("category_id")))
        where = f"{place}: object {index + 1}" + (f" {name!r}" if name is not None else "")
        try:
            if name is None:
                raise _no_category(item, its_names, where)
            good.append(_object(item, index, name, where, notes))
        except AnnotationError as exc:
            del notes[before:]
            problem = exc.with_traceback(None)  # its frames would keep the document
            bad.append(BadObject(index=index, name=name, problem=problem))
    return Annotation(
        filename=image.get("file_name"),
        size_whd=_size(image, place, notes),
        objects=tuple(good),
        bad_objects=tuple(bad),
        notes=tuple(notes),
        raw=_without(image, _IMAGE_FIELDS) or None,
    )


def _no_category(item: dict[str, Any], names: Mapping[str, str], where: str) -> AnnotationError:
    if item.get("category_id") is None:
        return AnnotationError(where, "has no category_id", _HINT)
    told = f"category_id {shown(item['category_id'])} is none of the {len(names)} categories"
    return AnnotationError(where, told, _HINT)


def _size(
    image: dict[str, Any], place: str, notes: list[Note]
) -> tuple[int, int, int | None] | None:
    """Width and height; None where either is missing, 0 or no number."""
    width, height = image.get("width"), image.get("height")
    if width is None or height is None:
        return None
    if are_numbers((width, height)) and width % 1 == height % 1 == 0 < min(width, height):
        return int(width), int(height), None
    notes.append(Note("size-unusable", place, f"{shown(width)} x {shown(height)}"))
    return None


def _object(
    item: dict[str, Any], index: int, name: str, where: str, notes: list[Note]
) -> ObjectAnnotation:
    def note(code: str, detail: str = "") -> None:
        notes.append(Note(code, where, detail, index))

    segmentation = item.get("segmentation")
    rle, polygons = None, None
    if type(segmentation) is dict and segmentation:
        rle = run_lengths_of(segmentation, where)
    elif segmentation:
        polygons = polygons_of(segmentation, where, note)
    corners, bbox = _corners(item.get("bbox"), where)
    if corners is None:
        corners = box_around(polygons, rle, where, note)
    elif "attributes" in item and polygons is None and rle is None:
        corners = _turned(corners, item["attributes"], note)
    if item.get("keypoints"):
        note("keypoints-unread")
    raw = _without(item, _OBJECT_FIELDS)
    return ObjectAnnotation(
        index=index,
        name=name,
        corners=corners,
        polygons=polygons,
        rle=rle,
        crowd=_crowd(item.get("iscrowd"), where),
        raw=(raw if bbox is None else {**raw, "bbox": bbox}) or None,
    )


def _corners(bbox: Any, where: str) -> tuple[Corners | None, list[float] | None]:
    """The corners of a box and the box as written; None for a missing or empty one."""
    if bbox is None or bbox == []:
        return None, None
    if type(bbox) is not list or len(bbox) != 4 or not are_numbers(bbox):
        told = f"bbox is {shown(bbox)}, expected four numbers: x, y, width and height"
        raise AnnotationError(where, told, _HINT)
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:
        raise AnnotationError(where, f"bbox is {shown(bbox)}: not finite", _HINT) from None
    return (x, y, x + width, y + height), bbox


def _turned(corners: Corners, attributes: Any, note: Callable[[str, str], None]) -> Corners:
    """The hull of a box that CVAT rotated; an inverted box stays, for its own error."""
    degrees = attributes.get("rotation") if type(attributes) is dict else None
    xmin, ymin, xmax, ymax = corners
    if not degrees or not are_numbers((degrees,)) or xmin > xmax or ymin > ymax:
        return corners
    note("rotated-box", f"bbox turned by {degrees:g} degrees")
    centre = ((xmin + xmax) / 2, (ymin + ymax) / 2)
    return hull_of_turned(centre, (xmax - xmin, ymax - ymin), math.radians(degrees))


def _crowd(value: Any, where: str) -> bool | None:
    """`iscrowd`: 0 or 1, or false or true; None where it is missing."""
    if value is None:
        return None
    if type(value) in (bool, int, float) and value in (0, 1):
        return bool(value)
    raise AnnotationError(where, f"iscrowd is {shown(value)}, expected 0 or 1", _HINT)


def _without(item: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in names}
