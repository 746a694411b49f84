"""Makes the masks of a picture's objects, at the size in which they are wanted.

Polygons are moved as points and filled where the output's pixels lie. Run lengths and masks of
object numbers are pixels already: of these the nearest is taken, as of any mask (`render`).

A pixel belongs to a polygon if its centre lies inside, by the even-odd rule: a ray from the centre
to the left crosses the edges an odd number of times. A centre on an edge belongs to what lies right
of it or below it, so polygons that share an edge share no pixel, and leave none out. An object has
the pixels of all its polygons. Nothing is filled beyond the picture.

`kernels.c` fills where it is compiled, else NumPy, with the same pixels.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from datamodules.pixels.geometry import Plan, View
from datamodules.pixels.kernels import Frame, Seen, kernels
from datamodules.pixels.render import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

NO_NUMBER = -1
"""Instead of the number of an object that the mask of numbers does not have."""


class Outlines(NamedTuple):
    """Where the objects of an upright picture are, each told in one of three ways."""

    polygons: tuple[Sequence[Sequence[float]], ...]
    """Of each object its polygons, (x0, y0, x1, y1, …) in pixels; none: in another way."""
    runs: Mapping[int, NDArray[np.int64]]
    """Objects, by their place from 0, to the lengths of the runs of 0 and 1 down the columns."""
    numbers: NDArray[np.int64]
    """int64 [N]: each object's value in `values`, or `NO_NUMBER`."""
    values: NDArray[np.uint8] | None
    """uint8 [H, W]: the mask of object numbers; None: there is none."""

    def masks(
        self,
        size_hw: tuple[int, int],
        plan: Plan | None = None,
        is_kept: NDArray[np.bool_] | None = None,
    ) -> torch.Tensor:
        """The masks of the objects that a plan keeps, in its output.

        Args:
            size_hw: (height, width) of the upright picture.
            plan: How it is rendered; None: as it is.
            is_kept: bool [N]; None: all.

        Returns:
            uint8 [K, H, W]: 1 in the object, else 0.
        """
        kept = np.arange(len(self.polygons)) if is_kept is None else np.flatnonzero(is_kept)
        plan = plan or Plan(View.whole(size_hw), size_hw)
        out = np.zeros((len(kept), *plan.size_hw), np.uint8)
        outlined = [(plane, self.polygons[at]) for plane, at in enumerate(kept)]
        fill(outlined, plan, size_hw, out)
        if self.values is not None:
            self._add_numbers(self.values, plan, kept, out)
        for plane, at in enumerate(kept.tolist() if self.runs else ()):
            if (runs := self.runs.get(at)) is not None:
                add_runs(runs, plan, size_hw, out[plane])
        return torch.from_numpy(out)

    def _add_numbers(
        self,
        values: NDArray[np.uint8],
        plan: Plan,
        kept: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> None:
        rendered = nearest(values, plan, beyond=0)
        for plane, number in enumerate(self.numbers[kept].tolist()):
            if number != NO_NUMBER:
                np.equal(rendered, number, out=out[plane].view(np.bool_))


def add_runs(
    runs: NDArray[np.int64], plan: Plan, size_hw: tuple[int, int], out: NDArray[np.uint8]
) -> None:
    """Add an object's pixels by their runs.

    Args:
        runs: int64 [n], see `Outlines.runs`; they have as many pixels as the picture.
        plan: How the upright picture is rendered.
        size_hw: Its (height, width).
        out: uint8 [H, W] of the output, 0 or 1.
    """
    values = np.repeat(np.arange(len(runs), dtype=np.uint8) & 1, runs)
    out |= nearest(values.reshape(size_hw[1], size_hw[0]).T, plan, beyond=0)


# Polygons ---------------------------------------------------------------------------------------


def fill(
    outlined: Sequence[tuple[int, Sequence[Sequence[float]]]],
    plan: Plan,
    size_hw: tuple[int, int],
    out: NDArray[np.uint8],
) -> None:
    """Fill polygons in the output of a plan.

    Args:
        outlined: Planes of `out`, and the polygons to add to each.
        plan: How the upright picture is rendered.
        size_hw: Its (height, width).
        out: uint8 [N, H, W] of the output, contiguous, 0 or 1.
    """
    flat = [(plane, polygon) for plane, its in outlined for polygon in its]
    if not flat:
        return
    stops = np.cumsum([len(polygon) // 2 for _, polygon in flat])
    numbers = chain.from_iterable([polygon for _, polygon in flat])
    points = np.fromiter(numbers, np.float64, 2 * int(stops[-1])).reshape(-1, 2)
    planes = np.array([plane for plane, _ in flat], np.int64)
    view, (height, width) = plan.view, plan.scaled_hw
    frame = (view.left, view.top, width / view.width, height / view.height)
    seen = (
        *_seen(view.top, size_hw[0], frame[3], height),
        *_seen(view.left, size_hw[1], frame[2], width),
    )
    mirror = plan.size_hw[1] if plan.is_flipped else 0
    compiled = kernels()
    if compiled is None:
        fill_by_numpy(points, stops, planes, frame, seen, mirror, out)
        return
    failed = compiled.voc_fill(
        *(points.ctypes.data, stops.ctypes.data, planes.ctypes.data, len(planes)),
        *(Frame(*frame), Seen(*seen), mirror),
        *(out.ctypes.data, out.shape[1], out.shape[2]),
    )
    if failed:
        raise MemoryError(f"no memory to fill polygons of {len(points)} corners")


def fill_by_numpy(
    points: NDArray[np.float64],
    stops: NDArray[np.int64],
    planes: NDArray[np.int64],
    frame: tuple[float, float, float, float],
    seen: tuple[int, int, int, int],
    mirror: int,
    out: NDArray[np.uint8],
) -> None:
    """Do what `voc_fill` of kernels.c does, with its arguments."""
    with np.errstate(over="ignore"):  # of corners that far away it matters on which side they lie
        moved = (points - frame[:2]) * frame[2:]
    for corners, plane in zip(np.split(moved, stops[:-1]), planes, strict=True):
        if not len(corners):
            continue
        (x, y), (low_x, low_y), (high_x, high_y) = corners.T, corners.min(0), corners.max(0)
        top, bottom = _within(low_y, high_y, *seen[:2])
        left, right = _within(low_x, high_x, *seen[2:])
        if top >= bottom or left >= right:
            continue
        here = np.arange(len(y))
        following = np.roll(here, -1)
        upper = np.where(y > y[following], following, here)
        lower = np.where(y > y[following], here, following)
        first, last = _first_centres(y[upper], top, bottom), _first_centres(y[lower], top, bottom)
        edges = np.repeat(here, last - first)
        rows = np.concatenate([np.arange(*its) for its in zip(first, last, strict=True)])
        with np.errstate(all="ignore"):
            slope = (x[lower] - x[upper]) / (y[lower] - y[upper])
            crossed = x[upper][edges] + (rows + 0.5 - y[upper][edges]) * slope[edges]
        at = _first_centres(crossed, left, right) - left
        toggles = np.zeros((bottom - top, right - left + 1), np.uint8)
        np.bitwise_xor.at(toggles, (rows - top, right - left - at if mirror else at), 1)
        parity = np.bitwise_xor.accumulate(toggles, axis=1)[:, :-1]
        begin = mirror - right if mirror else left
        out[plane, top:bottom, begin : begin + right - left] |= parity


def _seen(first: int, length: int, scale: float, scaled: int) -> tuple[int, int]:
    """The first pixel along an axis that shows the picture, and the one after the last."""
    ends = (math.ceil(end * scale - 0.5) for end in (-first, length - first))
    start, stop = (min(max(end, 0), scaled) for end in ends)
    return start, stop


def _within(start: float, stop: float, low: int, high: int) -> tuple[int, int]:
    """The pixels of [low, high) whose centres lie in [start, stop)."""
    first, last = _first_centres(np.array([start, stop]), low, high).tolist()
    return first, last


def _first_centres(places: NDArray[np.float64], low: int, high: int) -> NDArray[np.int64]:
    """The first pixel from `low` to `high` whose centre lies at or behind each place."""
    found = np.ceil(places - 0.5)
    return np.where(found > low, np.minimum(found, high), low).astype(np.int64)
