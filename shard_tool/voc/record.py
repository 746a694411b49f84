"""One annotated picture: where its files lie, and how they become a sample.

Every rule about content is here: the file's own name is the key, the JPEG header is the size, only
VOC's classes have a label, boxes lie inside the picture, a mask is as large as its picture.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from shard_tool.errors import AnnotationError, DataError, SourceError
from shard_tool.sample import VOC_CLASSES, Part, Sample, SampleObject, Source, encode_sample
from shard_tool.tarshard import BLOCK, padded
from shard_tool.voc.annotation import (
    ObjectAnnotation,
    box_from_corners,
    check_corners,
    parse_annotation,
)

if TYPE_CHECKING:
    from shard_tool.voc.devkit import Devkit, FileSpan

LABELS = {name: label for label, name in enumerate(VOC_CLASSES, start=1)}

_MAX_KEY_BYTES = 100 - len(".object.png")
"""What a ustar header leaves for the key."""
_KEY = re.compile(r"[^./\\\s\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Record:
    """One annotated picture as found at the source."""

    key: str
    image: FileSpan | None
    annotation: FileSpan | None
    class_mask: FileSpan | None
    object_mask: FileSpan | None
    image_sets: tuple[str, ...]
    needs_mask: bool

    @property
    def num_bytes(self) -> int:
        """About what the record takes in a shard: the XML stands in for the JSON made of it."""
        spans = (self.image, self.annotation, self.class_mask, self.object_mask)
        return sum(BLOCK + padded(span.size) for span in spans if span)


@dataclass(frozen=True, slots=True)
class BuiltSample:
    """A record turned into what goes into a shard."""

    sample: Sample
    members: dict[str, bytes]
    """Extension to content; pictures and masks are the source's bytes, untouched."""
    read: list[tuple[FileSpan, bytes]]
    """Every file that was read for it."""


def build_sample(devkit: Devkit, record: Record) -> BuiltSample:
    """Read a record's files and turn them into a sample.

    Raises:
        DataError: A file is missing, no JPEG or PNG, or its content breaks a rule; names the file.
    """
    if not _KEY.fullmatch(record.key):
        place = devkit.place(f"JPEGImages/{record.key}.jpg")
        problem = f"{record.key!r} cannot be a sample's key (no dots, slashes, blanks)"
        raise DataError(place, problem, "rename the picture")
    if len(record.key.encode()) > _MAX_KEY_BYTES:
        place = devkit.place(f"JPEGImages/{record.key}.jpg")
        problem = f"cannot be a sample's key: longer than {_MAX_KEY_BYTES} bytes"
        raise DataError(place, problem, "rename the picture")
    image, annotation = _required(devkit, record)
    read = [(span, devkit.read(span)) for span in (image, annotation)]
    members = {"jpg": read[0][1]}
    size_wh = picture_size(members["jpg"], "JPEG", devkit.place(image))
    for extension, span in (("class.png", record.class_mask), ("object.png", record.object_mask)):
        if span:
            members[extension] = devkit.read(span)
            read.append((span, members[extension]))
            _check_mask(members[extension], size_wh, devkit.place(span))
    sample = sample_from_annotation(read[1][1], record, devkit, size_wh)
    members["json"] = encode_sample(sample)
    return BuiltSample(sample, members, read)


def sample_from_annotation(
    content: bytes, record: Record, devkit: Devkit, size_wh: tuple[int, int]
) -> Sample:
    """The typed sample of an annotation file, its boxes checked against the picture's size."""
    place = devkit.place(f"Annotations/{record.key}.xml")
    annotation = parse_annotation(content, place=place)
    objects = [_object(item, i, size_wh, place) for i, item in enumerate(annotation.objects)]
    return Sample(
        key=record.key,
        width=size_wh[0],
        height=size_wh[1],
        objects=tuple(objects),
        segmented=annotation.segmented,
        image_sets=record.image_sets,
        source=Source(year=devkit.year, archive=0),
    )


def picture_size(content: bytes, format_: str, place: str) -> tuple[int, int]:
    """Width and height in pixels from a JPEG's or PNG's header; nothing is decoded.

    Raises:
        DataError: Not a picture of that format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decoded
            with Image.open(io.BytesIO(content), formats=(format_,)) as picture:
                return picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DataError(place, f"not a {format_} picture ({len(content)} bytes)") from exc


def _required(devkit: Devkit, record: Record) -> tuple[FileSpan, FileSpan]:
    """The picture and the annotation; the mask too where the task needs one."""
    needed = [
        ("JPEGImages", ".jpg", record.image, "an annotation without its picture"),
        ("Annotations", ".xml", record.annotation, "a picture without its annotation"),
    ]
    if record.needs_mask:
        needed.append(("SegmentationClass", ".png", record.class_mask, "a picture without mask"))
    missing = [entry for entry in needed if entry[2] is None]
    if missing:
        folder, suffix, _, what = missing[0]
        problem = "there is no such file" if len(missing) == len(needed) else what
        place = devkit.place(f"{folder}/{record.key}{suffix}")
        lists = ", ".join(record.image_sets) or "a split list"
        raise SourceError(place, f"is missing: {problem} ({lists} names {record.key!r})")
    assert record.image is not None  # the check above, for the type checker
    assert record.annotation is not None
    return record.image, record.annotation


def _check_mask(content: bytes, size_wh: tuple[int, int], place: str) -> None:
    found = picture_size(content, "PNG", place)
    with Image.open(io.BytesIO(content)) as picture:
        if picture.mode not in {"P", "L"}:
            raise DataError(place, f"a mask has mode 'P' or 'L', this is {picture.mode!r}")
    if found != size_wh:
        problem = f"is {found[0]} x {found[1]} px, its picture {size_wh[0]} x {size_wh[1]}"
        raise DataError(place, problem)


def _object(
    item: ObjectAnnotation, index: int, size_wh: tuple[int, int], place: str
) -> SampleObject:
    if item.name not in LABELS:
        problem = f"object {index + 1}: {item.name!r} is not one of VOC's 20 classes"
        raise AnnotationError(place, problem)
    if item.corners is not None:
        check_corners(
            item.corners, size_wh=size_wh, place=place, object_index=index, name=item.name
        )
    parts = item.parts
    return SampleObject(
        name=item.name,
        label=LABELS[item.name],
        bbox=None if item.corners is None else box_from_corners(item.corners),
        difficult=item.difficult,
        truncated=item.truncated,
        occluded=item.occluded,
        pose=item.pose,
        parts=None
        if parts is None
        else tuple(Part(name=part.name, bbox=box_from_corners(part.corners)) for part in parts),
        actions=item.actions,
        point=None if item.point is None else (item.point[0] - 1, item.point[1] - 1),
    )
