"""Writes samples and datasets whose objects have outlines of every kind."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from shard_tool.format.manifest import Manifest, Split, encode_manifest
from shard_tool.format.run_lengths import counts_of_pixels, counts_string
from shard_tool.format.sample import SampleObject, encode_sample
from tests.kit.datasets.pictures import encoded
from tests.kit.datasets.samples import sample_of
from tests.kit.datasets.stored import shard_written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from shard_tool.format.sample import Sample

CLASSES = {"disc": 1, "star": 2, "crowd": 3}
WH = (64, 48)


def polygon_of(
    rng: np.random.Generator, wh: tuple[int, int], corners: int, kind: str
) -> list[float]:
    """An outline round a drawn middle: a disc, or a star."""
    least = min(wh)
    radius = least * rng.uniform(0.15, 0.3)
    angles = np.arange(corners) * 2 * np.pi / corners
    reach = np.where(np.arange(corners) % 2, 0.5 if kind == "star" else 1.0, 1.0) * radius
    middle = rng.uniform(radius, np.array(wh) - radius)
    points = middle + np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None]
    return [float(value) for value in points.round(2).ravel()]


def box_of(polygon: Sequence[float]) -> tuple[float, float, float, float]:
    x, y = polygon[::2], polygon[1::2]
    return (min(x), min(y), max(x), max(y))


def runs_of(pixels: np.ndarray, *, is_text: bool = True) -> dict[str, Any]:
    counts = counts_of_pixels(pixels.astype(bool))
    written = counts_string(counts) if is_text else counts.tolist()
    return {"size": list(pixels.shape), "counts": written}


def outlined_sample(
    number: int, *, key: str = "a", wh: tuple[int, int] = WH, least: int = 1
) -> tuple[Sample, np.ndarray]:
    """A sample and its picture, uint8 [H, W, 3]: discs and stars by polygons, crowds by runs."""
    rng = np.random.default_rng(number)
    pixels = np.full((wh[1], wh[0], 3), 40 + number % 40, np.uint8)
    objects = []
    for at in range(int(rng.integers(least, 5))):
        name = ("disc", "star", "crowd")[(number + at) % 3]
        polygon = polygon_of(rng, wh, 16, "star" if name == "star" else "disc")
        color = {"disc": (220, 40, 40), "star": (40, 220, 40), "crowd": (40, 40, 220)}[name]
        corners = np.array(polygon).reshape(1, -1, 2).round().astype(np.int32)
        cv2.fillPoly(pixels, corners, color)
        item = SampleObject(name=name, label=CLASSES[name], bbox=box_of(polygon))
        if name == "crowd":
            drawn = cv2.fillPoly(np.zeros(wh[::-1], np.uint8), corners, 1)
            rle = runs_of(drawn, is_text=bool(at % 2))
            objects.append(replace(item, rle=rle, crowd=True))
        else:
            objects.append(replace(item, polygons=(tuple(polygon),)))
    return replace(sample_of([], wh=wh), key=key, objects=tuple(objects)), pixels


def outlined(
    folder: Path,
    splits: Mapping[str, Sequence[int]],
    *,
    wh: tuple[int, int] = WH,
    task: str = "detection",
) -> Path:
    """Write a dataset; `splits` are the numbers of samples of each shard."""
    folder.mkdir(parents=True)
    found, number = {}, 0
    for split, lengths in splits.items():
        shards = []
        for shard, length in enumerate(lengths):
            records = {}
            for row in range(length):
                key = f"{split}-{shard}-{row:04d}"
                sample, pixels = outlined_sample(number, key=key, wh=wh)
                records[key] = {"jpg": encoded(pixels), "json": encode_sample(sample)}
                number += 1
            shards.append(shard_written(folder / f"{split}-{shard:06d}.tar", records))
        found[split] = Split(
            shards=tuple(shards),
            num_samples=sum(lengths),
            num_bytes=sum(shard.num_bytes for shard in shards),
            objects={},
            difficult={},
        )
    manifest = Manifest(
        name="outlined",
        task=task,
        classes=CLASSES,
        sources=(),
        release="0",
        options={},
        splits=found,
    )
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder
