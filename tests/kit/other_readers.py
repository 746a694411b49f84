"""Reads VOC XML with other people's libraries, which lie in an environment of their own.

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
    from collections.abc import Callable

PYTHON = os.environ.get("VOC_OTHER_READERS", "")
"""Python of the environment; empty: there is none."""
HOW = (
    "needs an environment of 470 MB: python -m venv DIR && DIR/bin/pip install supervision==0.31.2 "
    "labelformat==0.1.17, then VOC_OTHER_READERS=DIR/bin/python"
)
Objects = list[list[Any]]
"""Of each object: name, x0, y0, x1, y1."""


def read_by_others(images: Path, annotations: Path) -> dict[str, dict[str, Objects | str]]:
    """Reader to stem to objects, or to an error."""
    command = [PYTHON, __file__, str(images), str(annotations)]
    done = subprocess.run(
        command, check=True, capture_output=True, env={"PATH": os.environ["PATH"]}
    )
    found: dict[str, dict[str, Objects | str]] = json.loads(done.stdout)
    return found


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


def main(images: str, annotations: str) -> None:
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
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
