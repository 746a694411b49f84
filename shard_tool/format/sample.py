"""Defines what a sample's ``key.json`` holds, and encodes and parses it.

The same sample always gives the same bytes. What is absent at the source stays absent (None, null).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import msgspec

from shard_tool.errors import SampleError

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels, counted from zero, half-open: x0 <= x < x1."""

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""VOC's twenty classes in alphabetical order; the label of the first is 1, 0 is background."""

Polygon = tuple[float, ...]
"""(x0, y0, x1, y1, …): the corners of an outline in pixels of the upright picture, counted from
zero: the middle of the first pixel is (0.5, 0.5)."""

PICTURES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
"""Extension of a sample's picture to Pillow's name of its format. A sample has one of them."""

MAX_PIXELS = 89_000_000
"""A picture with more pixels is refused by its header. So many pixels are 267 MB of RGB, just less
than where Pillow starts to warn of a decompression bomb."""
_FEWEST_NUMBERS = 6
"""Of a polygon: a triangle's."""
_MOST_SHOWN = 32
"""Characters of wrong JSON in messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A body part of a person (head, hand or foot); it may reach beyond the person's box."""

    name: str
    bbox: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleObject:
    """One annotated object."""

    name: str
    """Its class; empty in tars of others that say a label alone."""
    label: int
    """1-based number of the class in the manifest's order; 0 in tars of others that say a name
    alone."""
    bbox: Box | None = None
    """None for an object that has only a `point`."""
    difficult: bool | None = None
    truncated: bool | None = None
    occluded: bool | None = None
    pose: str | None = None
    parts: tuple[Part, ...] | None = None
    actions: dict[str, bool] | None = None
    point: tuple[float, float] | None = None
    """(x, y) of a pixel, counted from zero."""
    polygons: tuple[Polygon, ...] | None = None
    """Outlines that together cover the object; None: the source has none."""
    rle: dict[str, Any] | None = None
    """COCO's run lengths of its pixels, as the source has them: `size` [height, width], `counts` a
    string or a list of numbers. None: the source has none."""
    crowd: bool | None = None
    """Whether it is a group of objects that nobody told apart: COCO's `iscrowd`. None: the source
    does not say it, as most of COCO's readers take for no."""
    raw: dict[str, Any] | None = None
    """What the source says beside all that, such as COCO's `id` and `area`; values of JSON."""
    number: int | None = None
    """Its value in the sample's ``object.png``. None: its place among the objects, from 1. The two
    differ where objects before it were left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a sample comes from."""

    year: str
    """'2007' … '2012', from the devkit's folder name."""
    archive: int
    """0-based number in the manifest's `sources`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Everything that a source says about one picture, without its pixels."""

    key: str
    width: int
    """Pixels of the upright picture, as `orientation` turns it; 0 in tars of others that do not say
    it."""
    height: int
    objects: tuple[SampleObject, ...]
    segmented: bool | None
    image_sets: tuple[str, ...]
    """The lists that name the picture, such as 'Main/train', sorted."""
    source: Source
    image_labels: dict[str, int] | None = None
    """For classification: each class to VOC's number: 1 if the picture shows one, 0 if it shows
    only difficult ones, -1 if it shows none. None for other tasks."""
    listed_objects: tuple[int, ...] | None = None
    """For layout and action: the objects that the split's lists name, counted from 1 in the order
    of `objects`. None if no list has numbers, and for other tasks."""
    file: str | None = None
    """The picture's path below the source; None for ``JPEGImages/<key>.jpg``."""
    orientation: int = 1
    """EXIF orientation, 1 … 8, by which the stored picture has to be turned. Width, height, boxes,
    points and masks are those of the turned picture. 1: it is stored as it is meant."""
    raw: dict[str, Any] | None = None
    """What the source says of the picture beside all that, such as COCO's `id` and `license`;
    values of JSON."""


def encode_sample(sample: Sample) -> bytes:
    """Encode ``key.json``: one line of UTF-8, fields in the order of the classes above.

    `image_labels`, `listed_objects`, `file`, `orientation` and `raw`, and of objects `polygons`,
    `rle`, `crowd`, `raw` and `number`, are written only where they say something.
    """
    document: dict[str, Any] = {
        "key": sample.key,
        "width": sample.width,
        "height": sample.height,
        "objects": [_object_to_json(item) for item in sample.objects],
        "segmented": sample.segmented,
        "image_sets": list(sample.image_sets),
        "source": {"year": sample.source.year, "archive": sample.source.archive},
    }
    if sample.image_labels is not None:
        document["image_labels"] = sample.image_labels
    if sample.listed_objects is not None:
        document["listed_objects"] = list(sample.listed_objects)
    if sample.file is not None:
        document["file"] = sample.file
    if sample.orientation != 1:
        document["orientation"] = sample.orientation
    if sample.raw is not None:
        document["raw"] = sample.raw
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def parse_sample(content: bytes, *, place: str) -> Sample:
    """Parse ``key.json``.

    Tars of others need `objects` alone, and of an object its `name` or `label`.

    Raises:
        SampleError: It is not JSON, or a field is missing or has another type.
    """
    try:
        document = _object(_parsed(content))
        said = document.get
        source = _object(said("source") or {})
        return Sample(
            key=_text(said("key", "")),
            width=_whole(said("width", 0)),
            height=_whole(said("height", 0)),
            objects=tuple([_object_from_json(item) for item in document["objects"]]),
            segmented=_flag(said("segmented")),
            image_sets=tuple([_text(name) for name in said("image_sets", ())]),
            source=Source(
                year=_text(source.get("year", "unknown")), archive=_whole(source.get("archive", 0))
            ),
            image_labels=_image_labels(said("image_labels")),
            listed_objects=_wholes(said("listed_objects")),
            file=None if said("file") is None else _text(said("file")),
            orientation=_orientation(said("orientation", 1)),
            raw=None if said("raw") is None else _object(said("raw")),
        )
    except KeyError as exc:
        raise SampleError(place, f"field {exc.args[0]!r} is missing") from exc
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise SampleError(place, f"not the JSON of a sample: {exc}") from exc


def _parsed(content: bytes) -> Any:
    """The JSON: by msgspec, which takes a seventh of the time where outlines are long.

    It refuses some of what Python's `json` takes (other encodings than UTF-8, halves of surrogate
    pairs, NaN); all that it takes is the same to the last bit.
    """
    try:
        return msgspec.json.decode(content)
    except msgspec.MsgspecError:
        return json.loads(content)


def _object_to_json(item: SampleObject) -> dict[str, Any]:
    parts = item.parts
    found = {
        "name": item.name,
        "label": item.label,
        "bbox": None if item.bbox is None else list(item.bbox),
        "difficult": item.difficult,
        "truncated": item.truncated,
        "occluded": item.occluded,
        "pose": item.pose,
        "parts": None if parts is None else [{"name": p.name, "bbox": list(p.bbox)} for p in parts],
        "actions": item.actions,
        "point": None if item.point is None else list(item.point),
    }
    if item.polygons is not None:
        found["polygons"] = [list(polygon) for polygon in item.polygons]
    if item.rle is not None:
        found["rle"] = item.rle
    if item.crowd is not None:
        found["crowd"] = item.crowd
    if item.raw is not None:
        found["raw"] = item.raw
    if item.number is not None:
        found["number"] = item.number
    return found


def _object_from_json(item: dict[str, Any]) -> SampleObject:
    said = _object(item).get
    parts, point, bbox, pose = said("parts"), said("point"), said("bbox"), said("pose")
    if "label" not in item:
        _text(item["name"])  # one of the two must be there
    return SampleObject(
        name=_text(said("name", "")),
        label=_whole(said("label", 0)),
        bbox=None if bbox is None else _box(bbox),
        difficult=_flag(said("difficult")),
        truncated=_flag(said("truncated")),
        occluded=_flag(said("occluded")),
        pose=None if pose is None else _text(pose),
        parts=None
        if parts is None
        else tuple(Part(name=_text(part["name"]), bbox=_box(part["bbox"])) for part in parts),
        actions=said("actions"),
        point=None if point is None else _point(point),
        polygons=None if (its := said("polygons")) is None else _polygons(its),
        rle=None if said("rle") is None else _rle(said("rle")),
        crowd=_flag(said("crowd")),
        raw=None if said("raw") is None else _object(said("raw")),
        number=None if said("number") is None else _whole(said("number")),
    )


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        message = f"expected an object, found {json.dumps(value)[:_MOST_SHOWN]}"
        raise TypeError(message)
    return value


def _box(values: list[float]) -> Box:
    x0, y0, x1, y1 = values
    return (_number(x0), _number(y0), _number(x1), _number(y1))


def _point(values: list[float]) -> tuple[float, float]:
    x, y = values
    return (_number(x), _number(y))


def _polygons(values: list[list[float]]) -> tuple[Polygon, ...]:
    found = tuple([_numbers(polygon) for polygon in values])
    if any(len(polygon) < _FEWEST_NUMBERS or len(polygon) % 2 for polygon in found):
        message = "a polygon has fewer than three corners, or half a corner"
        raise ValueError(message)
    return found


def _rle(value: Any) -> dict[str, Any]:
    height, width = [_whole(side) for side in _object(value)["size"]]
    if min(height, width) < 1:
        message = f"run lengths of {width} x {height} px"
        raise ValueError(message)
    if type(value["counts"]) is not str:
        for count in value["counts"]:
            _whole(count)
    return value  # type: ignore[no-any-return]


def _numbers(values: list[float]) -> tuple[float, ...]:
    if math.isfinite(sum(values)) and {*map(type, values)} == {float}:
        return tuple(values)  # a tenth of the time: outlines have many
    return tuple([_number(value) for value in values])


def _number(value: object) -> float:
    if type(value) not in (float, int) or not math.isfinite(value):  # type: ignore[arg-type]
        message = f"{value!r} is not a finite number"
        raise TypeError(message)
    return float(value)  # type: ignore[arg-type]


def _whole(value: object) -> int:
    if type(value) is not int:
        message = f"{value!r} is not a whole number"
        raise TypeError(message)
    return value


def _image_labels(values: dict[str, int] | None) -> dict[str, int] | None:
    if values is None:
        return None
    if not all(type(value) is int and -1 <= value <= 1 for value in _object(values).values()):
        message = f"image_labels {values!r} are not -1, 0 or 1"
        raise TypeError(message)
    for name in values:
        _text(name)
    return values


def _orientation(value: object) -> int:
    if type(value) is not int or not 1 <= value <= 8:
        message = f"orientation {value!r} is not one of EXIF's 1 … 8"
        raise ValueError(message)
    return value


def _wholes(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple([_whole(value) for value in values])


def _flag(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        message = f"{value!r} is not true, false or null"
        raise TypeError(message)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = f"{value!r} is not text"
        raise TypeError(message)
    if not value.isascii():
        value.encode()  # half of a pair of surrogates is no text: nothing can write it again
    return value
