"""Makes small COCO datasets as people have them: JSON with its quirks, and pictures around it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from zlib import crc32

from tests.kit.datasets.wild import folder, picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.kit.datasets.wild import Size

Json = dict[str, Any]

SIZE: Size = (20, 10)
ANT, BEE = {"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}
BOX = [2, 3, 8, 5]
"""Of (2, 3) to (10, 8)."""


def image(id_: Any, file_name: str, size_wh: Size | None = SIZE, **more: Any) -> Json:
    """An image; no size for None."""
    size = {} if size_wh is None else {"width": size_wh[0], "height": size_wh[1]}
    return {"id": id_, "file_name": file_name, **size, **more}


def thing(id_: Any, image_id: Any, category_id: Any = 1, bbox: Any = BOX, **more: Any) -> Json:
    """An annotation; 'absent' for `bbox` writes none."""
    box = {} if bbox == "absent" else {"bbox": bbox}
    return {"id": id_, "image_id": image_id, "category_id": category_id, **box, **more}


def coco(
    images: Sequence[Json], things: Sequence[Json], categories: Sequence[Json] = (ANT, BEE)
) -> Json:
    """A file of instances."""
    return {
        "info": {"year": 2026},
        "images": [*images],
        "annotations": [*things],
        "categories": [*categories],
    }


def one_of_each(*stems: str) -> Json:
    """Images 1, 2 … and an ant in each."""
    its = list(enumerate(stems, start=1))
    return coco([image(n, f"{stem}.jpg") for n, stem in its], [thing(n, n) for n, _ in its])


def written(
    root: Path,
    files: Mapping[str, Any],
    pictures: Sequence[str] = (),
    size_wh: Size = SIZE,
) -> Path:
    """Write JSON (bytes as they are, else as JSON) and pictures, no two alike, below a folder."""
    contents = {
        name: its if isinstance(its, bytes) else json.dumps(its).encode()
        for name, its in files.items()
    }
    shots = {name: picture(size_wh, shade=crc32(name.encode())) for name in pictures}
    return folder(root, {**contents, **shots})
