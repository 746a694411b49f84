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


def orchard_folder(root: Path) -> Path:
    """Apples and wasps in the official layout, with some of what real files hold beside."""
    categories = [
        {"id": 0, "name": "orchard", "supercategory": "none"},
        {"id": 2, "name": "apple", "supercategory": "orchard"},
        {"id": 7, "name": "wasp", "supercategory": "orchard"},
    ]
    files, pictures = dict[str, Json](), ["val2026/blurred.jpg"]
    for split, count in (("train", 10), ("val", 4)):
        names = [f"{number:06d}.jpg" for number in range(count)]
        pictures += [f"{split}2026/{name}" for name in names]
        images = [image(100 + n, name, (64, 48), license=1) for n, name in enumerate(names)]
        things = [_fruit(n, n % count) for n in range(2 * count) if n != 3]
        path = f"annotations/{{}}_{split}2026.json"
        files[path.format("instances")] = coco(images, things, categories)
        files[path.format("captions")] = coco(images, [{"id": 1, "caption": "apples"}], [])
    return written(root, files, pictures, (64, 48))


def _fruit(number: int, image_number: int) -> Json:
    category, more = (7, {}) if number % 5 == 4 else (2, {"segmentation": [_OUTLINE]})
    box = "absent" if number == 12 else [44.75 if number == 8 else 30.5, 10, 20, 25.25]
    return thing(number + 1, 100 + image_number, category, box, iscrowd=0, area=505.0, **more)


_OUTLINE = [32, 10, 50, 14.5, 44, 35, 31.5, 30]


def quarrels_folder(root: Path) -> Path:
    """The same with a box outside, an annotation without a box, and a picture that is not there."""
    orchard_folder(root)
    path = root / "annotations/instances_train2026.json"
    document = json.loads(path.read_text())
    document["annotations"] += [
        thing(901, 100, 2, [40, 10, 60, 20]),
        thing(902, 101, 7, []),
        thing(903, 102, 9),
    ]
    document["images"].append(image(199, "000099.jpg", (64, 48)))
    path.write_text(json.dumps(document))
    return root
