"""Finds the outlines of a sample's objects: for the task 'instances', before pictures are decoded.

An object has polygons, or run lengths, or its number in the sample's ``object.png``. Its box is the
source's in any case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from datamodules.pixels.decode import decode_mask
from datamodules.pixels.instances import NO_NUMBER, Outlines
from shard_tool.errors import OptionError, SampleError
from shard_tool.format.run_lengths import run_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from datamodules.reading.samples import RawSample
    from shard_tool.format.sample import Polygon, Sample, SampleObject

UNMASKED = ("fail", "box", "drop")
"""What becomes of an object that has a box and no outline: an error, its box filled, or nothing."""
_VOID = 255
"""Value of ``object.png`` where nobody says which object it is."""


def check_unmasked(unmasked: str) -> None:
    """Refuse an unknown value.

    Raises:
        OptionError: It is none of `UNMASKED`.
    """
    if unmasked not in UNMASKED:
        known = ", ".join(map(repr, UNMASKED))
        raise OptionError("unmasked", f"{unmasked!r} is not one of {known}")


def outlines_of(
    raw: RawSample, sample: Sample, size_hw: tuple[int, int], *, unmasked: str
) -> tuple[list[SampleObject], Outlines]:
    """The objects that get a mask, and their outlines.

    Args:
        raw: The sample.
        sample: Its annotation.
        size_hw: (height, width) of the upright picture.
        unmasked: One of `UNMASKED`.

    Returns:
        (the objects that have a box, but for those dropped, their outlines).

    Raises:
        SampleError: An object has no outline, and `unmasked` is 'fail'; or its run lengths or the
            mask of objects do not fit the picture.
    """
    objects: list[SampleObject] = []
    polygons: list[Sequence[Polygon]] = []
    runs: dict[int, NDArray[np.int64]] = {}
    numbers: list[int] = []
    values = _object_mask(raw, sample, size_hw)
    present = _numbers_in(values)
    for place, item in enumerate(sample.objects, start=1):
        if item.bbox is None:
            continue
        outline, number = item.polygons or (), NO_NUMBER
        if item.rle is not None:
            runs[len(objects)] = _runs(item.rle, size_hw, f"{raw.place}.json: object {place}")
        elif not outline:
            number = place if item.number is None else item.number
            if number not in present:
                if unmasked == "fail":
                    raise _no_outline(raw, place, is_numbered=values is not None)
                if unmasked == "drop":
                    continue
                outline, number = (_rectangle(*item.bbox),), NO_NUMBER
        objects.append(item)
        polygons.append(outline)
        numbers.append(number)
    return objects, Outlines(tuple(polygons), runs, np.array(numbers, np.int64), values)


def _object_mask(
    raw: RawSample, sample: Sample, size_hw: tuple[int, int]
) -> NDArray[np.uint8] | None:
    """The mask of object numbers, uint8 [H, W], where an object needs it; None: there is none."""
    if "object.png" not in raw.members:
        return None
    if all(item.polygons or item.rle is not None for item in sample.objects):
        return None
    place = f"{raw.place}.object.png"
    values: NDArray[np.uint8] = decode_mask(raw.members["object.png"], place=place).numpy()
    if values.shape != size_hw:
        problem = f"is {values.shape[1]} x {values.shape[0]} px, its picture"
        raise SampleError(place, f"{problem} {size_hw[1]} x {size_hw[0]}")
    return values


def _numbers_in(values: NDArray[np.uint8] | None) -> set[int]:
    """The objects that have a pixel."""
    if values is None:
        return set()
    counts = cv2.calcHist([values], [0], None, [256], [0, 256])  # a quarter of np.bincount's time
    return set(np.flatnonzero(counts).tolist()) - {0, _VOID}


def _runs(rle: dict[str, Any], size_hw: tuple[int, int], place: str) -> NDArray[np.int64]:
    if tuple(rle["size"]) != size_hw:
        problem = f"its run lengths are of {rle['size'][1]} x {rle['size'][0]} px, its picture has"
        raise SampleError(place, f"{problem} {size_hw[1]} x {size_hw[0]}")
    try:
        return run_counts(rle)
    except ValueError as exc:
        raise SampleError(place, f"its run lengths are wrong: {exc}") from exc


def _no_outline(raw: RawSample, place: int, *, is_numbered: bool) -> SampleError:
    problem = "has no pixel in object.png" if is_numbered else "has no polygon and no run lengths"
    hint = "give unmasked='box' to fill its box, or unmasked='drop' to leave such objects out"
    return SampleError(f"{raw.place}.json", f"object {place} {problem}", hint)


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return (x0, y0, x1, y0, x1, y1, x0, y1)
