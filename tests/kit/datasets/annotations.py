"""Builds expected annotations, with None for every tag that is not given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shard_tool.sources.voc.annotation import Annotation, ObjectAnnotation

if TYPE_CHECKING:
    from shard_tool.sources.voc.annotation import Corners

FILE_TAGS = ("folder", "filename", "source", "owner", "size_whd", "segmented")
OBJECT_TAGS = ("pose", "truncated", "occluded", "difficult", "parts", "actions", "point")

BOX_HINT = (
    "; correct the file, or convert with --bad-boxes clip or drop, or with --on-bad-record skip"
)
NO_CLIP_HINT = BOX_HINT.replace("clip or drop", "drop")
"""The same for a box of which nothing is in the picture."""


def found(*objects: ObjectAnnotation, **given: Any) -> Annotation:
    """The annotation of a file; its objects are numbered as given."""
    numbered = tuple(item._replace(index=index) for index, item in enumerate(objects))
    values: dict[str, Any] = dict.fromkeys(FILE_TAGS) | given
    return Annotation(**values, objects=numbered)


def thing(name: str, corners: Corners | None, **given: Any) -> ObjectAnnotation:
    """An object of it, the first."""
    values: dict[str, Any] = dict.fromkeys(OBJECT_TAGS) | {"index": 0} | given
    return ObjectAnnotation(name=name, corners=corners, **values)
