"""Refuses a record whose files cannot make a sample, before any of them is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.errors import DataError, SourceError
from shard_tool.sources.keys import MAX_KEY_BYTES

if TYPE_CHECKING:
    from shard_tool.sources.files.archive import SourceFiles
    from shard_tool.sources.source import Record

_MAX_FILE_BYTES = 1 << 29
"""A larger picture or mask is refused before it is read."""


def check_files(source: SourceFiles, record: Record, task: str) -> None:
    """Check that the key is short enough, and that all files are there and not too large.

    Raises:
        DataError: The key is too long, or a file is missing or too large; names it.
    """
    length = len(record.key.encode("utf-8", "surrogateescape"))
    if length > MAX_KEY_BYTES:
        problem = f"cannot be a sample's key: {length} bytes (most: {MAX_KEY_BYTES})"
        raise DataError(source.place(record.expected_image), problem, "rename the picture")
    lacks_annotation = record.annotation is None and record.expected_annotation is not None
    if record.image is not None and task == "segmentation" and record.class_mask is None:
        place = source.place(record.expected_mask or record.expected_image)
        problem = f"is missing: a picture without mask ({_naming(record)})"
        raise SourceError(place, problem, "leave it out by --unlabelled drop")
    if record.image is None or lacks_annotation:
        raise _missing(source, record, lacks_annotation=lacks_annotation)
    for span in record.pictures:
        if span.size > _MAX_FILE_BYTES:
            place = source.place(span)
            raise DataError(place, f"{span.size} bytes are too many (most: {_MAX_FILE_BYTES})")


def _missing(source: SourceFiles, record: Record, *, lacks_annotation: bool) -> SourceError:
    """The error for a record without its picture, its annotation or both."""
    if record.image is None:
        what = "there is no such file" if lacks_annotation else "an annotation without its picture"
        place = source.place(record.expected_image)
        return SourceError(place, f"is missing: {what} ({_naming(record)})")
    place = source.place(record.expected_annotation or "")
    problem = f"is missing: a picture without its annotation ({_naming(record)})"
    hint = "leave it out by --unlabelled drop, or take it by --unlabelled background"
    return SourceError(place, problem, hint)


def _naming(record: Record) -> str:
    place = record.expected_annotation or ""  # a picture's place in a file of many: "x.json#17"
    lists = ", ".join(record.image_sets) or (place if "#" in place else "a split list")
    return f"{lists} names {record.id!r}"
