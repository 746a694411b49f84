"""Makes labelme's files, as labelme and X-AnyLabeling write them."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.kit.datasets.voc_tree import write
from tests.kit.datasets.wild import picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIZE = (20, 10)
Shape = dict[str, Any]


def shape(
    label: Any, points: Sequence[Sequence[float]], kind: str = "rectangle", **more: Any
) -> Shape:
    """A shape with the members that labelme 5 writes."""
    found = {"label": label, "points": [list(point) for point in points], "group_id": None}
    return {**found, "description": "", "shape_type": kind, "flags": {}, "mask": None, **more}


ANT = shape("ant", [(2, 3), (10, 8)])
BEE = shape("bee", [(0, 0), (20, 0), (20, 10), (0, 10)], "polygon")


def mask_shape(
    label: str, pixels: Sequence[Sequence[int]], left_top: tuple[int, int], **more: Any
) -> Shape:
    """A mask as labelme 5.3 writes it: its points are its first and last pixel."""
    array = np.array(pixels, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array * 255).save(buffer, "PNG")
    (left, top), (height, width) = left_top, array.shape
    points = [left_top, (left + width - 1, top + height - 1)]
    text = base64.b64encode(buffer.getvalue()).decode()
    return shape(label, points, "mask", **{"mask": text, **more})


def document(
    image_path: str | None, *shapes: Shape, size_wh: tuple[int, int] = SIZE, **more: Any
) -> dict[str, Any]:
    """What a file holds, with the members in labelme's order."""
    found: dict[str, Any] = {"version": "5.5.0", "flags": {}, "shapes": list(shapes)}
    found |= {"imagePath": image_path, "imageData": None}
    return found | {"imageHeight": size_wh[1], "imageWidth": size_wh[0]} | more


def labelme(image_path: str | None, *shapes: Shape, **more: Any) -> bytes:
    """A file."""
    return json.dumps(document(image_path, *shapes, **more), indent=2).encode()


def pair(name: str, *shapes: Shape, shade: int = 0, **more: Any) -> dict[str, bytes]:
    """A picture of 20 x 10 px, and its file beside it; `name` has no suffix."""
    found = labelme(f"{name.rpartition('/')[2]}.jpg", *(shapes or (ANT,)), **more)
    return {f"{name}.jpg": picture(SIZE, shade=shade), f"{name}.json": found}


def labelme_folder(root: Path) -> Path:
    """A folder as people leave it: twelve pictures, one of them not annotated yet."""
    for number in range(11):
        leaf = shape("leaf", [(4, 6), (30, 8), (26, 40), (6, 30)], "polygon")
        bug = shape("bug", [(40, 24), (46, 24)], "circle")
        tip = shape("tip", [(4, 6)], "point")
        content = labelme(
            f"..\\images\\leaf{number:02d}.jpg",
            *([leaf, bug] if number % 3 else [leaf]),
            *([tip] if number == 5 else []),
            size_wh=(64, 48),
        )
        write(root / f"json/leaf{number:02d}.json", content)
    for number in range(12):
        write(root / f"images/leaf{number:02d}.jpg", picture((64, 48), shade=40 + number))
    return root
