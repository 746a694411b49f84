"""Packs records with their annotations into bytes: quickly, since every record goes this way.

Most records are plain values, which marshal packs three times as fast as pickle does. Both are
read by the same Python that wrote them, within one conversion.
"""

from __future__ import annotations

import marshal
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

from shard_tool.sources.annotation import Annotation, ImageSource, ObjectAnnotation, Owner
from shard_tool.sources.annotation import PartAnnotation as Part
from shard_tool.sources.files.archive import FileSpan
from shard_tool.sources.source import Record

if TYPE_CHECKING:
    from shard_tool.errors import DataError

_PLAIN, _PICKLED = b"m", b"p"
_FIRST_SPAN, _MASKS = Record._fields.index("image"), Record._fields.index("class_mask")
_OBJECTS = Annotation._fields.index("objects")
_SOURCE, _OWNER = Annotation._fields.index("source"), Annotation._fields.index("owner")
_PARTS = ObjectAnnotation._fields.index("parts")


class Read(NamedTuple):
    """A record and what its annotation says."""

    record: Record
    annotation: Annotation | None
    """None: there is none."""
    error: DataError | None = None
    """Why the record cannot become a sample."""


def packed(read: Read) -> bytes:
    """Pack a record."""
    record, annotation, error = read
    if error is not None or (annotation and (annotation.bad_objects or annotation.notes)):
        return _PICKLED + pickle.dumps(tuple(read), pickle.HIGHEST_PROTOCOL)
    plain: tuple[Any, ...] = tuple(
        [tuple(value) if type(value) is FileSpan else value for value in record]
    )
    return _PLAIN + marshal.dumps((plain, annotation and _plain_annotation(annotation)))


def unpacked(content: bytes) -> Read:
    """Unpack a record."""
    if content[:1] == _PICKLED:
        return Read(*pickle.loads(memoryview(content)[1:]))
    plain, annotation = marshal.loads(memoryview(content)[1:])
    image, its_annotation = plain[_FIRST_SPAN : _FIRST_SPAN + 2]
    class_mask, object_mask = plain[_MASKS : _MASKS + 2]
    record = Record._make(
        (
            *plain[:_FIRST_SPAN],
            image and FileSpan(*image),
            its_annotation and FileSpan(*its_annotation),
            *plain[_FIRST_SPAN + 2 : _MASKS],
            class_mask and FileSpan(*class_mask),
            object_mask and FileSpan(*object_mask),
            *plain[_MASKS + 2 :],
        )
    )
    return Read(record, annotation and _annotation(annotation))


def _plain_annotation(annotation: Annotation) -> tuple[Any, ...]:
    values: list[Any] = list(annotation)
    values[_SOURCE] = annotation.source and tuple(annotation.source)
    values[_OWNER] = annotation.owner and tuple(annotation.owner)
    values[_OBJECTS] = [
        tuple(item)
        if item.parts is None
        else (*item[:_PARTS], [tuple(part) for part in item.parts], *item[_PARTS + 1 :])
        for item in annotation.objects
    ]
    return tuple(values)


def _annotation(values: tuple[Any, ...]) -> Annotation:
    found = list(values)
    found[_SOURCE] = found[_SOURCE] and ImageSource(*found[_SOURCE])
    found[_OWNER] = found[_OWNER] and Owner(*found[_OWNER])
    found[_OBJECTS] = tuple(
        [
            ObjectAnnotation._make(
                item
                if item[_PARTS] is None
                else (*item[:_PARTS], tuple([Part(*p) for p in item[_PARTS]]), *item[_PARTS + 1 :])
            )
            for item in found[_OBJECTS]
        ]
    )
    return Annotation(*found)
