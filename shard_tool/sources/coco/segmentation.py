"""Reads the outlines and run lengths of an object, as COCO's `segmentation` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shard_tool.errors import AnnotationError
from shard_tool.format.run_lengths import run_counts
from shard_tool.sources.coco.values import are_numbers, shown
from shard_tool.sources.shapes import hull_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shard_tool.format.sample import Polygon
    from shard_tool.sources.boxes import Corners

    Noting = Callable[[str, str], None]

_FEWEST_NUMBERS = 6
"""Of a polygon: a triangle's."""
_HINT = "correct the file, or leave the object out by --on-bad-record skip"


def polygons_of(value: Any, where: str, note: Noting) -> tuple[Polygon, ...] | None:
    """The polygons of a list of lists, as written; None if there is none.

    One list of numbers is one polygon. One with fewer than three corners, or half a corner, is left
    out. Both are noted.

    Raises:
        AnnotationError: It is something else.
    """
    if type(value) is not list:
        problem = f"segmentation is {shown(value)}, expected polygons or run lengths"
        raise AnnotationError(where, problem, _HINT)
    if are_numbers(value):
        note("polygon-flat", f"{len(value)} numbers")
        value = [value]
    found = list[tuple[float, ...]]()
    for polygon in value:
        if type(polygon) is not list or not are_numbers(polygon):
            problem = f"segmentation has {shown(polygon)}, expected a list of x, y, x, y, …"
            raise AnnotationError(where, problem, _HINT)
        if len(polygon) % 2 or 0 < len(polygon) < _FEWEST_NUMBERS:
            note("polygon-dropped", f"{len(polygon)} numbers")
        elif polygon:
            found.append(tuple(polygon))
    return tuple(found) or None


def run_lengths_of(value: dict[str, Any], where: str) -> dict[str, Any]:
    """The run lengths, as written.

    Raises:
        AnnotationError: They are no `size` [height, width] and `counts`, or the counts are not
            those of a picture of this size. Whether it is the object's, its picture tells.
    """
    size, counts = value.get("size"), value.get("counts")
    if type(size) is not list or [*map(type, size)] != [int, int] or min(size) < 1:
        problem = f"segmentation has the size {shown(size)}, expected [height, width]"
        raise AnnotationError(where, problem, _HINT)
    if type(counts) is list and counts and type(counts[0]) is list:
        problem = "segmentation has polygons as the counts of run lengths"
        raise AnnotationError(where, problem, "write the polygons as segmentation itself")
    if type(counts) is not str and not (type(counts) is list and _are_whole(counts)):
        problem = f"segmentation has the counts {shown(counts)}, expected a text or whole numbers"
        raise AnnotationError(where, problem, _HINT)
    try:
        run_counts(value)
    except (ValueError, OverflowError) as exc:
        raise AnnotationError(where, f"segmentation: {exc}", _HINT) from exc
    return value


def _are_whole(counts: list[Any]) -> bool:
    return {int}.issuperset(map(type, counts))


def box_around(
    polygons: tuple[Polygon, ...] | None, rle: dict[str, Any] | None, where: str, note: Noting
) -> Corners:
    """The box around an object's outlines or pixels.

    Raises:
        AnnotationError: It has none.
    """
    if polygons:
        note("box-from-polygon", f"{len(polygons)} polygons")
        try:
            return hull_of([float(value) for polygon in polygons for value in polygon])
        except OverflowError:
            raise AnnotationError(where, "segmentation has a number that is not finite") from None
    if rle is not None and (box := _box_of_runs(rle)) is not None:
        note("box-from-mask", "")
        return box
    raise AnnotationError(where, "has neither a bbox nor a segmentation with an area", _HINT)


def _box_of_runs(rle: dict[str, Any]) -> Corners | None:
    """The box around the pixels of runs, which go down the columns; None if there is none."""
    height = rle["size"][0]
    ends = np.cumsum(run_counts(rle))
    first, last = ends[:-1:2], ends[1::2] - 1
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        return None
    x0, x1 = int(first.min()) // height, int(last.max()) // height + 1
    if (first // height < last // height).any():
        return (float(x0), 0.0, float(x1), float(height))
    return (float(x0), float((first % height).min()), float(x1), float((last % height).max() + 1))
