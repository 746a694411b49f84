"""Draws which part of a picture is shown and how, before the picture is decoded.

A `View` is a rectangle in the upright picture's pixels that may reach beyond it. Zooming out makes
it larger, cropping makes it smaller. A `Plan` says how the view becomes the output; boxes, picture
and mask go through the same plan once. Draws depend only on sizes, boxes and a generator.

Boxes are float32 [N, 4], xyxy in pixels, half-open: (0, 0, W, H) covers a whole W x H picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SSD_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)
"""Least overlaps to draw a crop with, all equally likely; None: no crop. Source: Liu et al. 2016,
section 2.2 (which has 0.1, 0.3, 0.5, 0.7, 0.9, any and none)."""
_ROUNDS = 100
"""Overlaps drawn for one crop at most."""
_ROUNDING = 1e-3
"""Pixels by which rounding to float32 may shorten a box's side."""

_SPARE = 1.5
"""Least decoded pixels to an output pixel. On 60 photographs that shrink by as much, pixels differ
by 1.1 (decoded at a half), 1.4 (a quarter) and 1.5 levels (an eighth) in the mean from those
decoded whole and scaled once; with 1.25 they differ by 1.4 to 1.9, with 1 by 3 to 4."""
_SPARE_WHEN_FAST = 0.8
"""The same for `decode='fast'`: 500 x 375 is decoded at a half for an output of 224."""


class View(NamedTuple):
    """A rectangle of an upright picture, in its pixels; may reach beyond it."""

    left: int
    top: int
    width: int
    height: int

    @classmethod
    def whole(cls, size_hw: tuple[int, int]) -> View:
        """The whole picture of (height, width)."""
        return cls(0, 0, size_hw[1], size_hw[0])

    def meets(self, size_hw: tuple[int, int]) -> bool:
        """Whether it shows anything of a picture of (height, width)."""
        is_across = self.left < size_hw[1] and self.left + self.width > 0
        return is_across and self.top < size_hw[0] and self.top + self.height > 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a view becomes an output picture."""

    view: View
    size_hw: tuple[int, int]
    """(height, width) of the output."""
    inner_hw: tuple[int, int] | None = None
    """(height, width) of the output's upper left part that shows the view; the rest is filled.
    None: all of the output shows it."""
    is_flipped: bool = False
    """Whether the output is mirrored left to right at the end."""

    def __post_init__(self) -> None:
        """Refuse impossible sizes.

        Raises:
            ValueError: A side is no whole number from 1, or the inner part exceeds the output.
        """
        view, size_hw, inner_hw = self.view, self.size_hw, self.inner_hw or self.size_hw
        sides = (*size_hw, *inner_hw, view.width, view.height)
        kinds = {*map(type, view), *map(type, sides)}
        if min(sides) < 1 or not all(issubclass(kind, int | np.integer) for kind in kinds):
            problem = f"{view}, to (H, W) = {size_hw}, inner {self.inner_hw}"
            raise ValueError(f"{problem}: sides must be whole numbers from 1")
        if inner_hw[0] > size_hw[0] or inner_hw[1] > size_hw[1]:
            raise ValueError(f"inner (H, W) = {inner_hw} is larger than the output's {size_hw}")

    @property
    def scaled_hw(self) -> tuple[int, int]:
        """(height, width) that the view is scaled to."""
        return self.inner_hw or self.size_hw

    def boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move boxes of the upright picture to the output, clipped to the view: float32 [N, 4]."""
        (height, width), view = self.scaled_hw, self.view
        scale = (width / view.width, height / view.height)
        of_view = np.array([(view.left, view.top), scale, (width, height)])
        points = boxes.astype(np.float64).reshape(-1, 2, 2)  # (x, y) of two corners
        points -= of_view[0]
        points *= of_view[1]
        np.minimum(np.maximum(points, 0, out=points), of_view[2], out=points)
        if self.is_flipped:
            points[:, :, 0] = self.size_hw[1] - points[:, ::-1, 0]
        return points.reshape(-1, 4).astype(np.float32)

    def visible(self, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Share of each box's area that lies in the view: float64 [N] in [0, 1]."""
        view = self.view
        right, bottom = view.left + view.width, view.top + view.height
        x0, y0, x1, y1 = boxes.astype(np.float64).T
        inside = np.clip(np.minimum(x1, right) - np.maximum(x0, view.left), 0, None)
        inside *= np.clip(np.minimum(y1, bottom) - np.maximum(y0, view.top), 0, None)
        area = (x1 - x0) * (y1 - y0)
        share: NDArray[np.float64] = np.zeros_like(inside)
        np.divide(inside, area, out=share, where=area > 0)
        return share

    def shrink(self) -> float:
        """Stored pixels to an output pixel, in the direction that has fewer."""
        height, width = self.scaled_hw
        return min(self.view.height / height, self.view.width / width)


# Views ------------------------------------------------------------------------------------------


def zoom_out(
    view: View,
    generator: np.random.Generator,
    *,
    side_range: tuple[float, float] = (1.0, 4.0),
    probability: float = 0.5,
) -> View:
    """Place the view at random in a larger one, whose sides are longer by a drawn factor.

    Source: SSD's expansion (Liu et al. 2016, section 3.6), with torchvision's ranges.
    """
    if generator.random() >= probability:
        return view
    low, high = side_range
    factor = low + generator.random() * (high - low)
    width, height = int(view.width * factor), int(view.height * factor)
    across, down = generator.random(2).tolist()
    left = view.left - int((width - view.width) * across)
    return View(left, view.top - int((height - view.height) * down), width, height)


def iou_crop(
    view: View,
    boxes: NDArray[np.float32],
    generator: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.3, 1.0),
    aspect: tuple[float, float] = (0.5, 2.0),
    overlaps: Sequence[float | None] = SSD_OVERLAPS,
    trials: int = 40,
) -> tuple[View, NDArray[np.bool_]]:
    """SSD's crop: it overlaps some box by at least a drawn IoU.

    Draws an overlap, then up to `trials` crops. If none is valid, draws another overlap; after 100
    overlaps there is no crop, since some boxes have no valid crop for some overlaps. A crop is
    valid if its aspect (width / height) is in range, it contains some box's centre, and it overlaps
    one of those boxes enough.

    Source: Liu et al. 2016, section 2.2, with torchvision's ranges.

    Args:
        view: The view to crop.
        boxes: float32 [N, 4], in the upright picture. N = 0: no crop.
        generator: The generator to draw from.
        scale: Range of the crop's sides as shares of the view's.
        aspect: Range of width / height.
        overlaps: Least IoUs; None (or at least 1, as torchvision has it): no crop.
        trials: Crops drawn for one overlap.

    Returns:
        (the crop, bool [N]: boxes whose centres it contains).
    """
    everything = np.ones(len(boxes), np.bool_)
    if not len(boxes):
        return view, everything
    # Plain numbers are faster than arrays: boxes are few, and most crops fail the first test.
    known = [
        (x0, y0, x1, y1, (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) * (y1 - y0))
        for x0, y0, x1, y1 in boxes.tolist()
    ]
    least, spread = scale[0], scale[1] - scale[0]
    for _ in range(_ROUNDS):
        overlap = overlaps[int(generator.integers(len(overlaps)))]
        if overlap is None or overlap >= 1:
            return view, everything
        for across, down, right, below in generator.random((trials, 4)).tolist():
            width = int((least + spread * across) * view.width)
            height = int((least + spread * down) * view.height)
            if not (width and height and aspect[0] <= width / height <= aspect[1]):
                continue
            left = view.left + int((view.width - width) * right)
            top = view.top + int((view.height - height) * below)
            stop_x, stop_y = left + width, top + height
            crop = width * height
            for x0, y0, x1, y1, centre_x, centre_y, area in known:
                if area < overlap * crop or crop < overlap * area:
                    continue  # an IoU is at most the smaller area over the larger
                if left < centre_x < stop_x and top < centre_y < stop_y:
                    inside = (min(stop_x, x1) - max(left, x0)) * (min(stop_y, y1) - max(top, y0))
                    if inside >= overlap * (crop + area - inside):
                        held = [left < b[4] < stop_x and top < b[5] < stop_y for b in known]
                        return View(left, top, width, height), np.array(held)
    return view, everything


def resized_crop(
    view: View,
    generator: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    trials: int = 10,
) -> View:
    """Inception's crop: a drawn share of the area at a drawn aspect, else the centre.

    Source: Szegedy et al., "Going deeper with convolutions", 2015, section 6; with torchvision's
    ranges.

    Args:
        view: The view to crop.
        generator: The generator to draw from.
        scale: Range of the crop's area as a share of the view's.
        aspect: Range of width / height, uniform in its logarithm.
        trials: Crops drawn before the largest one in the centre is taken.
    """
    whole, (low, high) = view.width * view.height, map(math.log, aspect)
    # Plain numbers are faster than arrays: the first trial nearly always fits.
    for share, log_ratio, across, down in generator.random((trials, 4)).tolist():
        area = whole * (scale[0] + (scale[1] - scale[0]) * share)
        ratio = math.exp(low + (high - low) * log_ratio)
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= view.width and 0 < height <= view.height:
            left = int(across * (view.width - width + 1))
            top = int(down * (view.height - height + 1))
            return View(view.left + left, view.top + top, width, height)
    width, height, ratio = view.width, view.height, view.width / view.height
    if ratio < aspect[0]:
        height = max(1, round(width / aspect[0]))
    elif ratio > aspect[1]:
        width = max(1, round(height * aspect[1]))
    left, top = (view.width - width) // 2, (view.height - height) // 2
    return View(view.left + left, view.top + top, width, height)


def scaled_crop(
    view: View, generator: np.random.Generator, *, size: int, shorter: tuple[int, int]
) -> View:
    """Scale the view's shorter side to a drawn length, and crop size x size pixels.

    If the scaled view is smaller than that, it lies in the upper left corner.

    Source: torchvision's reference recipe for segmentation: RandomResize, then RandomCrop.

    Args:
        view: The view to scale and crop.
        generator: The generator to draw from.
        size: Side of the output in pixels.
        shorter: Least and largest length in pixels; whole numbers, all equally likely.
    """
    scale, across, down = generator.random(3)
    length = shorter[0] + int(scale * (shorter[1] - shorter[0] + 1))
    side = max(1, round(size * min(view.width, view.height) / length))
    left = int(across * (max(view.width - side, 0) + 1))
    top = int(down * (max(view.height - side, 0) + 1))
    return View(view.left + left, view.top + top, side, side)


def center_crop(view: View, share: float) -> View:
    """The square in the middle of the view, with a share of its shorter side."""
    side = max(1, round(min(view.width, view.height) * share))
    left, top = (view.width - side) // 2, (view.height - side) // 2
    return View(view.left + left, view.top + top, side, side)


# Plans ------------------------------------------------------------------------------------------


def stretch(view: View, size_hw: tuple[int, int]) -> Plan:
    """Scale the view to a size, without keeping its aspect."""
    return Plan(view, size_hw)


def short_side(view: View, short: int, longest: int) -> Plan:
    """Scale the view with its aspect kept: the shorter side to `short` pixels.

    Or, if the longer side would pass `longest`, the longer side to `longest`.

    Source: Lin et al., "Focal loss for dense object detection" (RetinaNet), 2017, section 4.1.
    """
    least, most = sorted((view.height, view.width))
    sides = (short, short * most // least)
    if sides[1] > longest:
        sides = (max(1, longest * least // most), longest)
    return Plan(view, sides if view.height <= view.width else (sides[1], sides[0]))


def letterbox(view: View, size: int) -> Plan:
    """Scale the view with its aspect kept into the upper left corner of a square of `size`."""
    factor = size / max(view.height, view.width)
    inner = (max(1, round(view.height * factor)), max(1, round(view.width * factor)))
    return Plan(view, (size, size), inner)


def flip(plan: Plan, generator: np.random.Generator, *, probability: float = 0.5) -> Plan:
    """Mirror the output left to right, with this probability."""
    is_flipped = bool(generator.random() < probability)
    return Plan(plan.view, plan.size_hw, plan.inner_hw, is_flipped)


def kept_boxes(
    plan: Plan,
    boxes: NDArray[np.float32],
    *,
    min_size: float = 1.0,
    min_visible: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Move boxes to the output, and say which of them to keep.

    Args:
        plan: The plan.
        boxes: float32 [N, 4], in the upright picture.
        min_size: Pixels of the output that both sides of a box must have.
        min_visible: Least share of a box's area in the view.

    Returns:
        (float32 [N, 4], bool [N]).
    """
    if not len(boxes):
        return np.zeros((0, 4), np.float32), np.zeros(0, np.bool_)
    moved = plan.boxes(boxes)
    sides = moved[:, 2:] - moved[:, :2]
    is_kept = np.asarray((sides >= min_size - _ROUNDING).all(1))
    if min_visible > 0:
        is_kept &= plan.visible(boxes) >= min_visible
    return moved, is_kept


def decode_factor(plan: Plan, size_hw: tuple[int, int], *, fast: bool = False) -> int:
    """The factor by which a picture may be decoded smaller: 1, 2, 4 or 8.

    It is the largest that leaves 1.5 decoded pixels to an output pixel in both directions, or 0.8
    if `fast`. libjpeg-turbo is fast at these factors only.
    """
    shrink = plan.shrink() / (_SPARE_WHEN_FAST if fast else _SPARE)
    factor = 2 ** min(3, int(math.log2(shrink))) if shrink >= 2 else 1
    return factor if min(size_hw) >= factor else 1
