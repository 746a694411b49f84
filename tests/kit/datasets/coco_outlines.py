"""Makes up COCO files whose objects have outlines: polygons, and run lengths of both kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.kit.datasets.coco_files import coco, image, thing
from tests.kit.datasets.instances import box_of, polygon_of, runs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.kit.datasets.coco_files import Json

WH = (64, 48)
"""Width and height of the pictures of `mixed_outlines`."""
PER_PICTURE = 20


def uneven_outline(rng: np.random.Generator, radius: float, side: int) -> list[float]:
    """An outline as annotators draw them: 20 to 60 corners within a radius of a drawn middle.

    Args:
        rng: The generator to draw from.
        radius: Of the farthest corner, in pixels.
        side: Of the square picture; the outline lies inside.
    """
    corners = int(rng.integers(20, 61))
    angles = np.sort(rng.random(corners)) * 2 * np.pi
    far = radius * (0.6 + 0.4 * rng.random(corners))
    middle = rng.uniform(radius, side - radius, 2)
    points = middle + np.stack([np.cos(angles), np.sin(angles)], 1) * far[:, None]
    return [float(value) for value in points.round(2).ravel()]


def uneven_outlines(rng: np.random.Generator, radius: int, count: int) -> Json:
    """Outlines of one radius, in pictures called `r<radius>-<n>.jpg`."""
    side = 3 * radius
    images = [
        image(number, f"r{radius}-{number}.jpg", (side, side))
        for number in range(-(-count // PER_PICTURE))
    ]
    outlines = [uneven_outline(rng, radius, side) for _ in range(count)]
    return coco(images, [_outlined(number, [its]) for number, its in enumerate(outlines)])


def _outlined(number: int, polygons: Sequence[list[float]]) -> Json:
    x0, y0, x1, y1 = box_of([side for its in polygons for side in its])
    box = [x0, y0, x1 - x0, y1 - y0]
    return thing(number, number // PER_PICTURE, 1, box, segmentation=[*polygons], iscrowd=0)


def mixed_outlines(rng: np.random.Generator, count: int = 90, *, has_texts: bool = True) -> Json:
    """Objects in turn of one polygon, of two, and crowds as run lengths; none has only a box.

    Args:
        rng: The generator to draw from.
        count: Of objects, twenty a picture.
        has_texts: Whether every other run lengths are a text, as pycocotools packs them.
    """
    images = [image(n, f"p{n}.jpg", WH) for n in range(-(-count // PER_PICTURE))]
    things = []
    for number in range(count):
        discs = [polygon_of(rng, WH, 16, "disc") for _ in range(1 + number % 3 % 2)]
        its = _outlined(number, discs)
        its["category_id"] = 1 + number % 2
        if number % 3 == 2:
            pixels = rng.random(WH[::-1]) < rng.choice([0.0, 0.02, 0.5, 0.98, 1.0])
            is_text = has_texts and number % 2 == 0
            its |= {"segmentation": runs_of(pixels, is_text=is_text), "iscrowd": 1}
        things.append(its)
    return coco(images, things)
