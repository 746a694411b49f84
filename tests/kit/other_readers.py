"""Reads VOC, COCO and YOLO with other people's libraries, which lie in an environment of their own.

This file is also the script that runs there: it needs the standard library, `supervision` and
`labelformat`, and nothing of ours. It prints JSON: reader to picture to objects, each a name and
four numbers, or to the error that it raised.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PYTHON = os.environ.get("VOC_OTHER_READERS", "")
"""Python of the environment; empty: there is none."""
HOW = (
    "needs an environment of 470 MB: python -m venv DIR && DIR/bin/pip install supervision==0.31.2 "
    "labelformat==0.1.17, then VOC_OTHER_READERS=DIR/bin/python"
)
Objects = list[list[Any]]
"""Of each object: name, x0, y0, x1, y1."""
Readings = dict[str, Any]
"""Reader to stem of a picture to what it reads of each object; or to its error about the set.

`supervision` and `labelformat` read `Objects`. `supervision masks` are pixels as column-wise run
lengths that begin with zeros; none of a picture without outlines. `labelformat outlines` are lists
of polygons, or such run lengths as {"counts": …}.
"""


def read_by_others(images: Path, annotations: Path) -> dict[str, dict[str, Objects | str]]:
    """VOC's XML: reader to stem to objects, or to an error."""
    found: dict[str, dict[str, Objects | str]] = _run("voc", str(images), str(annotations))
    return found


def sets_read_by_others(format_: str, places: Sequence[Sequence[Path | str]]) -> list[Readings]:
    """What others read of each set, in turn.

    Args:
        format_: "coco" or "yolo".
        places: Of a set in COCO: its JSON. In YOLO: the folder of pictures, that of labels, the
            data.yaml, and the split's name there.
    """
    found: list[Readings] = _run(format_, *(json.dumps([*map(str, its)]) for its in places))
    return found


def _run(*arguments: str) -> Any:
    done = subprocess.run(
        [PYTHON, "-W", "ignore", __file__, *arguments],
        check=True,
        capture_output=True,
        env={"PATH": os.environ["PATH"]},
    )
    return json.loads(done.stdout)


# VOC ----------------------------------------------------------------------------------------------


def _supervision(folder: Path) -> Objects:
    from supervision.dataset.formats.pascal_voc import (  # type: ignore[import-not-found]
        load_pascal_voc_annotations,
    )

    classes, paths, found = load_pascal_voc_annotations(str(folder), str(folder))
    its = found[paths[0]]
    names = [classes[number] for number in its.class_id]
    return [[name, *box] for name, box in zip(names, its.xyxy.tolist(), strict=True)]


def _labelformat(folder: Path) -> Objects:
    from labelformat.formats.pascalvoc import (  # type: ignore[import-not-found]
        PascalVOCObjectDetectionInput,
    )

    (path,) = folder.glob("*.xml")
    names = {text for node in ElementTree.parse(path).iter("name") if (text := node.text)}
    (label,) = PascalVOCObjectDetectionInput(folder, ",".join(sorted(names))).get_labels()
    return [
        [its.category.name, its.box.xmin, its.box.ymin, its.box.xmax, its.box.ymax]
        for its in label.objects
    ]


READERS: dict[str, Callable[[Path], Objects]] = {
    "supervision": _supervision,
    "labelformat": _labelformat,
}


def _voc(images: str, annotations: str) -> dict[str, dict[str, Objects | str]]:
    found: dict[str, dict[str, Objects | str]] = {name: {} for name in READERS}
    for xml in sorted(Path(annotations).glob("*.xml")):
        picture = next(Path(images).glob(f"{xml.stem}.*"), None)
        with tempfile.TemporaryDirectory() as name:  # an error then is about this file alone
            folder = Path(name)
            shutil.copy(xml, folder)
            if picture is not None:
                shutil.copy(picture, folder)
            for reader, read in READERS.items():
                try:
                    found[reader][xml.stem] = read(folder)
                except Exception as exc:  # noqa: BLE001
                    found[reader][xml.stem] = f"{type(exc).__name__}: {exc}"
    return found


# COCO and YOLO ------------------------------------------------------------------------------------


def _named(classes: Sequence[str], its: Any) -> Objects:
    """supervision's detections as objects."""
    if not len(its):
        return []
    names = [classes[n] if n < len(classes) else f"class {n}" for n in its.class_id]
    return [[name, *box] for name, box in zip(names, its.xyxy.tolist(), strict=True)]


def _runs(pixels: Any) -> list[int]:
    import numpy as np

    flat = np.concatenate([[0], pixels.T.ravel(), [0]])
    ends = np.flatnonzero(np.diff(flat.astype(np.int8))[:-1])
    found: list[int] = np.diff([0, *ends, flat.size - 2]).tolist()
    return found


def _supervision_set(format_: str, place: Sequence[str]) -> dict[str, Any]:
    if format_ == "coco":
        from supervision.dataset.formats.coco import (  # type: ignore[import-not-found]
            load_coco_annotations as load,
        )

        classes, _, found = load(str(Path(place[0]).parent), place[0])
    else:
        from supervision.dataset.formats.yolo import (  # type: ignore[import-not-found]
            load_yolo_annotations as load,
        )

        classes, _, found = load(*place[:3])
    return {
        "supervision": {Path(path).stem: _named(classes, its) for path, its in found.items()},
        "supervision masks": {
            Path(path).stem: None if its.mask is None else [*map(_runs, its.mask)]
            for path, its in found.items()
        },
    }


def _outline(its: Any) -> Any:
    if hasattr(its, "polygons"):
        return [[side for point in polygon for side in point] for polygon in its.polygons]
    return {"counts": _runs(its.get_binary_mask())}


def _labelformat_set(format_: str, place: Sequence[str], task: str) -> dict[str, Any]:
    from labelformat.formats import coco, yolov8  # type: ignore[import-not-found]

    if format_ == "coco":
        labels = getattr(coco, f"COCO{task}Input")(Path(place[0])).get_labels()
    else:
        labels = getattr(yolov8, f"YOLOv8{task}Input")(Path(place[2]), place[3]).get_labels()
    return {Path(label.image.filename).stem: label.objects for label in labels}


def _labelformat_boxes(format_: str, place: Sequence[str]) -> dict[str, Any]:
    found = _labelformat_set(format_, place, "ObjectDetection")
    corners = ("xmin", "ymin", "xmax", "ymax")
    return {
        "labelformat": {
            key: [[its.category.name, *(getattr(its.box, side) for side in corners)] for its in one]
            for key, one in found.items()
        }
    }


def _labelformat_outlines(format_: str, place: Sequence[str]) -> dict[str, Any]:
    found = _labelformat_set(format_, place, "InstanceSegmentation")
    outlines = {key: [_outline(its.segmentation) for its in one] for key, one in found.items()}
    return {"labelformat outlines": outlines}


SET_READERS: dict[Callable[[str, Sequence[str]], dict[str, Any]], tuple[str, ...]] = {
    _supervision_set: ("supervision", "supervision masks"),
    _labelformat_boxes: ("labelformat",),
    _labelformat_outlines: ("labelformat outlines",),
}


def _set(format_: str, place: Sequence[str]) -> Readings:
    found: Readings = {}
    for read, names in SET_READERS.items():
        try:
            found |= read(format_, place)
        except Exception as exc:  # noqa: BLE001
            found |= dict.fromkeys(names, f"{type(exc).__name__}: {exc}")
    return found


def main(format_: str, *arguments: str) -> None:
    if format_ == "voc":
        found: Any = _voc(*arguments)
    else:
        found = [_set(format_, json.loads(its)) for its in arguments]
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
