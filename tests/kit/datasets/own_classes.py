"""Writes datasets of classes that are not VOC's: any names, any number of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from shard_tool.format.manifest import Manifest, Split, encode_manifest
from shard_tool.format.sample import Sample, SampleObject, Source, encode_sample
from tests.kit.datasets.pictures import encoded
from tests.kit.datasets.stored import shard_written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from shard_tool.format.sample import Box

THREE = ("red fox", "собака", "狼 (серый)")
"""Names of another script, and with blanks."""
WH = (96, 64)
SPLITS = {"train": 8, "val": 4, "test": 4}
BOXES: tuple[Box, Box] = ((8, 10, 40, 54), (50, 20, 90, 60))
"""Of the two objects of each picture."""


def many(count: int) -> tuple[str, ...]:
    """Names of `count` classes."""
    return tuple(f"class {number}" for number in range(1, count + 1))


def labels_of(row: int, count: int) -> tuple[int, int]:
    """Labels of the two objects of the picture in a row of a split; the last label comes first."""
    return count - row % count, 1 + row % count


def own_classes(
    folder: Path,
    names: Sequence[str] = THREE,
    *,
    task: str = "detection",
    splits: Mapping[str, int] = SPLITS,
) -> Path:
    """Write a dataset of one shard a split, with boxes and masks; the second object is difficult.

    Args:
        folder: Folder to create.
        names: The classes, in the order of labels.
        task: What the manifest says it was made for.
        splits: Samples of each split.
    """
    folder.mkdir(parents=True)
    found = {}
    for split, length in splits.items():
        samples = {}
        for row in range(length):
            labels = labels_of(row, len(names))
            sample = _sample(f"{split}-{row:04d}", labels, names)
            samples[sample.key] = {
                "jpg": _picture(labels, row),
                "json": encode_sample(sample),
                "class.png": _mask(labels),
            }
        entry = shard_written(folder / f"{split}-000000.tar", samples)
        shown = [names[k - 1] for row in range(length) for k in labels_of(row, len(names))]
        found[split] = Split(
            shards=(entry,),
            num_samples=length,
            num_bytes=entry.num_bytes,
            objects=dict(Counter(shown)),
            difficult=dict(Counter(shown[1::2])),
        )
    manifest = Manifest(
        name="own",
        task=task,
        classes={name: label for label, name in enumerate(names, start=1)},
        sources=(),
        release="0",
        options={},
        splits=found,
    )
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


def _sample(key: str, labels: tuple[int, int], names: Sequence[str]) -> Sample:
    objects = [
        SampleObject(name=names[label - 1], label=label, bbox=box, difficult=bool(number))
        for number, (label, box) in enumerate(zip(labels, BOXES, strict=True))
    ]
    return Sample(
        key=key,
        width=WH[0],
        height=WH[1],
        objects=tuple(objects),
        segmented=None,
        image_sets=(),
        source=Source(year="", archive=0),
    )


def _picture(labels: tuple[int, int], row: int) -> bytes:
    """Two rectangles, each in a shade of its label, on a ground that differs by row."""
    pixels = np.full((WH[1], WH[0], 3), 90 + 5 * (row % 20), np.uint8)
    for label, (x0, y0, x1, y1) in zip(labels, BOXES, strict=True):
        pixels[int(y0) : int(y1), int(x0) : int(x1)] = [
            label * step % 256 for step in (70, 130, 190)
        ]
    return encoded(pixels)


def _mask(labels: tuple[int, int]) -> bytes:
    """The rectangles' labels; of a label that no byte holds, the lowest eight bits."""
    values = np.zeros((WH[1], WH[0]), np.uint8)
    for label, (x0, y0, x1, y1) in zip(labels, BOXES, strict=True):
        values[int(y0) : int(y1), int(x0) : int(x1)] = label % 256
    return encoded(Image.fromarray(values), "PNG")
