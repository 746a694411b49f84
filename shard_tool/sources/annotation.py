"""Holds what an annotation says of a picture, as its file writes it; readers of formats return it.

Numbers are as written; `boxes` turns them into boxes by a convention. All of it travels to workers:
named tuples pickle five times as fast as frozen dataclasses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from shard_tool.errors import AnnotationError
    from shard_tool.format.sample import Polygon
    from shard_tool.sources.boxes import Corners
    from shard_tool.sources.notes import Note


class PartAnnotation(NamedTuple):
    """A `part` of a person."""

    name: str
    corners: Corners


class ObjectAnnotation(NamedTuple):
    """An `object`, as written."""

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    """0-based number among all objects of the file, the bad ones too."""
    name: str
    corners: Corners | None
    pose: str | None = None
    truncated: bool | None = None
    occluded: bool | None = None
    difficult: bool | None = None
    parts: tuple[PartAnnotation, ...] | None = None
    actions: dict[str, bool] | None = None
    point: tuple[float, float] | None = None
    polygons: tuple[Polygon, ...] | None = None
    """Outlines in the same unit and with the same origin as `corners`: as written."""
    rle: dict[str, Any] | None = None
    """COCO's run lengths, as written (`format.sample.SampleObject.rle`)."""
    crowd: bool | None = None
    raw: dict[str, Any] | None = None
    """What the file says of the object beside all that; values of JSON."""


class BadObject(NamedTuple):
    """An `object` that could not be read. The caller drops it, or raises its problem."""

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    """0-based number among all objects of the file."""
    name: str | None
    """The first name in it."""
    problem: AnnotationError
    """Names file and object, what was found and what was expected."""


class ImageSource(NamedTuple):
    """The `source` tag."""

    database: str | None
    annotation: str | None
    image: str | None
    flickrid: str | None


class Owner(NamedTuple):
    """The `owner` tag of the 2007 files."""

    flickrid: str | None
    name: str | None


class Annotation(NamedTuple):
    """One annotation file, as written.

    `filename` and `size_whd` may be wrong: trust the file's own name and the picture's header.
    """

    folder: str | None = None
    filename: str | None = None
    source: ImageSource | None = None
    owner: Owner | None = None
    size_whd: tuple[int, int, int | None] | None = None
    """Width and height in pixels, and depth in channels (None if it is missing or no number).

    None if width or height is missing, 0 or no number.
    """
    segmented: bool | None = None
    objects: tuple[ObjectAnnotation, ...] = ()
    """In the file's order, without the bad ones."""
    bad_objects: tuple[BadObject, ...] = ()
    notes: tuple[Note, ...] = ()
    """What was read in another way than written plainly; nothing of bad objects."""
    raw: dict[str, Any] | None = None
    """What the file says of the picture beside all that; values of JSON."""
