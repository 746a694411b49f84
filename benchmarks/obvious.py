"""Converts a devkit with the obvious script: the loop that webdataset's documentation suggests.

    tar xf VOCtrainval.tar && python -m benchmarks.obvious VOCdevkit/VOC2012 DEST

It hashes nothing, checks nothing and leaves no manifest: only its time is compared.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import webdataset as wds

SHARD_BYTES = 64 << 20
_FLAGS = ("truncated", "difficult", "occluded")


def main() -> None:
    """Convert train and val."""
    root, dest = map(Path, sys.argv[1:])
    dest.mkdir(parents=True)
    for split in ("train", "val"):
        keys = (root / f"ImageSets/Main/{split}.txt").read_text().split()
        with wds.ShardWriter(f"{dest}/{split}-%06d.tar", maxsize=SHARD_BYTES, verbose=0) as writer:
            for key in keys:
                writer.write(sample_of(root, key))


def sample_of(root: Path, key: str) -> dict[str, Any]:
    """A picture and its annotation."""
    annotation = ElementTree.parse(root / f"Annotations/{key}.xml").getroot()
    size = annotation.find("size")
    assert size is not None
    return {
        "__key__": key,
        "jpg": (root / f"JPEGImages/{key}.jpg").read_bytes(),
        "json": {
            "width": int(size.findtext("width", "")),
            "height": int(size.findtext("height", "")),
            "objects": [object_of(node) for node in annotation.findall("object")],
        },
    }


def object_of(node: ElementTree.Element) -> dict[str, Any]:
    """One annotated object."""
    box = node.find("bndbox")
    assert box is not None
    return {
        "name": node.findtext("name"),
        "pose": node.findtext("pose"),
        **{flag: int(node.findtext(flag, "0")) for flag in _FLAGS},
        "bbox": [float(box.findtext(tag, "")) for tag in ("xmin", "ymin", "xmax", "ymax")],
    }


if __name__ == "__main__":
    main()
