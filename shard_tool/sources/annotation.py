"""Holds what an annotation says of a picture, as its file writes it; readers of formats return it.

Numbers are as written; `boxes` turns them into boxes by a convention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shard_tool.errors import AnnotationError
    from shard_tool.sources.boxes import Corners
    from shard_tool.sources.notes import Note


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAnnotation:
    """A `part` of a person."""

    name: str
    corners: Corners


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectAnnotation:
    """An `object`, as written."""

    index: int
    """0-based number among all objects of the file, the bad ones too."""
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
class BadObject:
    """An `object` that could not be read. The caller drops it, or raises its problem."""

    index: int
    """0-based number among all objects of the file."""
    name: str | None
    """The first name in it."""
    problem: AnnotationError
    """Names file and object, what was found and what was expected."""


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

    `filename` and `size_whd` may be wrong: trust the file's own name and the picture's header.
    """

    folder: str | None
    filename: str | None
    source: ImageSource | None
    owner: Owner | None
    size_whd: tuple[int, int, int | None] | None
    """Width and height in pixels, and depth in channels (None if it is missing or no number).

    None if width or height is missing, 0 or no number.
    """
    segmented: bool | None
    objects: tuple[ObjectAnnotation, ...]
    """In the file's order, without the bad ones."""
    bad_objects: tuple[BadObject, ...] = ()
    notes: tuple[Note, ...] = ()
    """What was read in another way than written plainly; nothing of bad objects."""
