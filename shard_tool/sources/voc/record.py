"""Turns one annotated picture of a devkit into a sample.

Every rule about content is here: the file's name is the key, the JPEG header gives the size, only
VOC's classes have a label, boxes lie inside the picture, a mask has the size of its picture.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from shard_tool.errors import AnnotationError, DataError, SourceError
from shard_tool.format.sample import (
    VOC_CLASSES,
    Part,
    Sample,
    SampleObject,
    encode_sample,
)
from shard_tool.format.sample import Source as SampleSource
from shard_tool.pictures.reencode import Reencoding, reencoded
from shard_tool.pictures.size import picture_size
from shard_tool.sources.voc.annotation import (
    ObjectAnnotation,
    box_from_corners,
    check_corners,
    parse_annotation,
)
from shard_tool.sources.voc.devkit import year_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shard_tool.sources.archive import FileSpan, SourceFiles

LABELS = {name: label for label, name in enumerate(VOC_CLASSES, start=1)}

_MAX_KEY_BYTES = 100 - len(".object.png")
"""Bytes for the key in the name field of a ustar header."""
_KEY = re.compile(r"[^./\\\s\x00-\x1f\x7f]+")
_MAX_FILE_BYTES = {".jpg": 1 << 29, ".png": 1 << 29, ".xml": 1 << 22}
"""A larger file is refused before it is read."""


@dataclass(frozen=True, slots=True)
class Record:
    """The files of one annotated picture, not read yet, and what lists say of it."""

    key: str
    source: int
    """Number of the source."""
    image: FileSpan | None
    annotation: FileSpan | None
    class_mask: FileSpan | None
    object_mask: FileSpan | None
    image_sets: tuple[str, ...]
    needs_mask: bool
    image_labels: tuple[int, ...] | None = None
    """Classification: -1, 0 or 1 for each VOC class."""
    listed_objects: tuple[int, ...] | None = None
    """Layout and action: 1-based numbers of the objects that the lists of the split name."""

    @property
    def spans(self) -> list[FileSpan]:
        """The existing files in this order: picture, annotation, class mask, object mask."""
        files = (self.image, self.annotation, self.class_mask, self.object_mask)
        return [span for span in files if span]


@dataclass(frozen=True, slots=True)
class BuiltSample:
    """A sample and the members that go into a shard."""

    sample: Sample
    members: dict[str, bytes]
    """Extension to content. Pictures and masks are the source's own bytes unless re-encoded."""


def check_record(source: SourceFiles, record: Record) -> None:
    """Refuse a record with an unusable key or file, before any file is read.

    Raises:
        DataError: The key is unusable, or a file is missing or too large; names the file.
    """
    problem = ""
    if not _KEY.fullmatch(record.key):
        problem = f"{record.key!r} cannot be a sample's key (no dots, slashes, blanks)"
    elif len(record.key.encode("utf-8", "surrogateescape")) > _MAX_KEY_BYTES:
        problem = f"cannot be a sample's key: longer than {_MAX_KEY_BYTES} bytes"
    if problem:
        place = source.place(f"JPEGImages/{record.key}.jpg")
        raise DataError(place, problem, "rename the picture")
    _check_required(source, record)
    for span in record.spans:
        if span.size > (most := _MAX_FILE_BYTES[span.name[-4:]]):
            raise DataError(source.place(span), f"{span.size} bytes are too many (most: {most})")


def build_sample(
    source: SourceFiles,
    record: Record,
    contents: Sequence[bytes],
    reencoding: Reencoding | None = None,
) -> BuiltSample:
    """Turn a record's files into a sample.

    Args:
        source: The record's source.
        record: A record that `check_record` accepted.
        contents: The bytes of each of `record.spans`.
        reencoding: How to re-encode pictures and masks; None keeps their bytes.

    Raises:
        DataError: A file is not a JPEG or PNG, or its content breaks a rule; names the file.
    """
    image, annotation, *masks = zip(record.spans, contents, strict=True)
    members = {"jpg": image[1]}
    size_wh = picture_size(members["jpg"], "JPEG", source.place(image[0]))
    for span, content in masks:
        _check_mask(content, size_wh, source.place(span))
        extension = "class.png" if span is record.class_mask else "object.png"
        members[extension] = content
    sample = sample_from_annotation(annotation[1], record, source, size_wh)
    if reencoding:
        place = source.place(f"JPEGImages/{record.key}.jpg")
        members, sample = reencoded(reencoding, members, sample, place=place)
    members["json"] = encode_sample(sample)
    return BuiltSample(sample, members)


def sample_from_annotation(
    content: bytes, record: Record, source: SourceFiles, size_wh: tuple[int, int]
) -> Sample:
    """Parse an annotation file into a sample; check its boxes against the picture's size."""
    place = source.place(f"Annotations/{record.key}.xml")
    annotation = parse_annotation(content, place=place)
    for bad in annotation.bad_objects:
        raise bad.problem
    objects = [_object(item, i, size_wh, place) for i, item in enumerate(annotation.objects)]
    for number in record.listed_objects or ():
        if not 1 <= number <= len(objects):
            problem = f"has {len(objects)} objects, a list of the split names object {number}"
            raise AnnotationError(place, problem)
    labels = record.image_labels
    return Sample(
        key=record.key,
        width=size_wh[0],
        height=size_wh[1],
        objects=tuple(objects),
        segmented=annotation.segmented,
        image_sets=record.image_sets,
        source=SampleSource(year=year_of(source), archive=source.number),
        image_labels=None if labels is None else dict(zip(VOC_CLASSES, labels, strict=True)),
        listed_objects=record.listed_objects,
    )


def _check_required(source: SourceFiles, record: Record) -> None:
    """Check that picture and annotation exist, and the mask if the task needs one."""
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
        place = source.place(f"{folder}/{record.key}{suffix}")
        lists = ", ".join(record.image_sets) or "a split list"
        raise SourceError(place, f"is missing: {problem} ({lists} names {record.key!r})")


def _check_mask(content: bytes, size_wh: tuple[int, int], place: str) -> None:
    found = picture_size(content, "PNG", place)
    with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
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
