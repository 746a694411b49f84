"""Makes small YOLO datasets as tools write them: path to content. YOLO's guide shows one."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from tests.kit.datasets.wild import Size, folder, picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.kit.datasets.wild import Item

    Files = dict[str, bytes | str]

NAMES = ("ant", "bee", "fly")
SIZE = (20, 10)
ANT_LINE, ANT_BOX = "0 0.3 0.55 0.4 0.5", [2.0, 3.0, 10.0, 8.0]
"""An ant in a picture of 20 x 10 px, as a line and as a box in pixels."""
BEE_LINE, BEE_BOX = "1 0.5 0.5 1 1", [0.0, 0.0, 20.0, 10.0]
FLY_LINE, FLY_BOX = "2 0.1 0.2 0.6 0.2 0.6 0.9", [2.0, 2.0, 12.0, 9.0]
FLY_POLYGON = [2.0, 2.0, 12.0, 2.0, 12.0, 9.0]


def line_of(number: int, box: Sequence[float], size_wh: Size) -> str:
    """A box in pixels as a line; its numbers have all their digits."""
    (x0, y0, x1, y1), (width, height) = box, size_wh
    numbers = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
    return " ".join(map(str, (number, *map(float, numbers))))


def labels_of(items: Sequence[Item], names: Sequence[str], size_wh: Size) -> str:
    """The labels of named boxes in pixels."""
    return "".join(f"{line_of(names.index(name), box, size_wh)}\n" for name, box in items)


def data_yaml(splits: Mapping[str, str], names: Sequence[str] = NAMES, **more: object) -> str:
    """A data.yaml as Roboflow writes it."""
    lines = [f"{key}: {value}" for key, value in {**splits, **more}.items()]
    return "\n".join([*lines, f"nc: {len(names)}", f"names: {list(names)}", ""])


def pair(path: str, *lines: str, labels: str = "", suffix: str = ".jpg") -> Files:
    """A picture of 20 x 10 px, unlike any at another path, and its labels.

    Labels lie where ultralytics looks, unless `labels` gives their path without suffix. No lines:
    they are empty.
    """
    before, found, after = f"/{path}".rpartition("/images/")
    beside = f"{before}/labels/{after}".lstrip("/") if found else path
    return {
        f"{path}{suffix}": picture(SIZE, shade=crc32(path.encode())),
        f"{labels or beside}.txt": "".join(f"{line}\n" for line in lines),
    }


def roboflow() -> Files:
    """Three splits as Roboflow exports them; the paths of its data.yaml lead nowhere."""
    splits = {split: f"../{split}/images" for split in ("train", "valid", "test")}
    splits["val"] = splits.pop("valid")
    return {
        "data.yaml": data_yaml(splits),
        "README.roboflow.txt": "of a bee-keeper\n",
        **pair("train/images/a", ANT_LINE, BEE_LINE),
        **pair("train/images/b", FLY_LINE),
        **pair("valid/images/c", BEE_LINE),
        **pair("test/images/d"),
    }


def ultralytics() -> Files:
    """Two splits as coco8 has them; names by number."""
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
    return {
        "bugs.yaml": f"path: ../datasets/bugs\ntrain: images/train\nval: images/val\ntest:\n"
        f"names:\n{names}",
        **pair("images/train/a", ANT_LINE, BEE_LINE),
        **pair("images/train/b", FLY_LINE),
        **pair("images/val/c", BEE_LINE),
    }


def cvat() -> Files:
    """CVAT's YOLO 1.1: darknet's obj.data, lists, labels beside pictures."""
    return {
        "obj.data": "classes = 3\ntrain = data/train.txt\nvalid = data/valid.txt\n"
        "names = data/obj.names\nbackup = backup/\n",
        "obj.names": "ant\nbee\nfly\n",
        "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n",
        "valid.txt": "data/obj_valid_data/c.jpg\n",
        **pair("obj_train_data/a", ANT_LINE, BEE_LINE),
        **pair("obj_train_data/b", FLY_LINE),
        **pair("obj_valid_data/c", BEE_LINE),
    }


def label_studio() -> Files:
    """Label Studio's export: no splits, and names in classes.txt."""
    return {
        "classes.txt": "ant\nbee\nfly\n",
        "notes.json": '{"categories": []}',
        **pair("images/a", ANT_LINE, BEE_LINE),
        **pair("images/b", FLY_LINE),
        **pair("images/c", BEE_LINE),
    }


def labelimg() -> Files:
    """labelImg's YOLO format: everything in one folder."""
    return {
        "classes.txt": "ant\nbee\nfly\n",
        **pair("a", ANT_LINE, BEE_LINE),
        **pair("b", FLY_LINE),
        **pair("c", BEE_LINE),
    }


def bugs_folder(root: Path) -> Path:
    """The folder of the guide: Roboflow's, with a picture without labels and odd lines."""
    files = roboflow()
    files["train/labels/b.txt"] = f"{FLY_LINE}\n{ANT_LINE}\n{ANT_LINE}\n0 0.9 0.5 0.204 0.5\n"
    files["train/images/e.jpg"] = picture(SIZE, shade=77)
    return folder(root, files)
