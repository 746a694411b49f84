"""Makes stored samples and turns them into items of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from datamodules.loading.annotated import annotated
from datamodules.loading.batch import Packing
from datamodules.loading.items import load_item
from datamodules.pixels.color import ColorChange
from datamodules.pixels.decode import decode_image
from datamodules.profiling.batch_cost import Cost
from datamodules.reading.samples import RawSample
from datamodules.transforms.fused import Drawn, FusedTransform
from datamodules.transforms.seeding import preserved_generators
from shard_tool.errors import SampleError
from shard_tool.format.sample import VOC_CLASSES, Sample, SampleObject, Source, encode_sample
from shard_tool.keyed_random import digest_of
from tests.kit.datasets.pictures import encoded, scene, voc_mask

if TYPE_CHECKING:
    import torch

    from datamodules import Batch
    from datamodules.loading.items import Item
    from datamodules.pixels.geometry import Plan

PLACE = "train-000000.tar: sample 'a'"
BOXES = [(0, 0, 10, 10), (20, 5, 60, 40), (30, 20, 64, 48), (5, 30, 25, 47), (40, 0, 55, 12)]
ROUNDED = 1.1
"""Levels of 255 between a worker's pixels and the device's: only workers round, in every step."""


def sample_of(
    boxes: list[Any] = BOXES, *, difficult: list[bool | None] | None = None, wh: Any = (64, 48)
) -> Sample:
    """A sample whose objects are VOC's classes 1, 2, …; every other one is difficult."""
    flags = difficult or [bool(i % 2) for i in range(len(boxes))]
    objects = [
        SampleObject(name=VOC_CLASSES[i], label=i + 1, bbox=box, difficult=flag)
        for i, (box, flag) in enumerate(zip(boxes, flags, strict=True))
    ]
    return Sample(
        key="a",
        width=wh[0],
        height=wh[1],
        objects=tuple(objects),
        segmented=None,
        image_sets=("Main/train",),
        source=Source(year="2012", archive=0),
    )


def raw_of(sample: Sample, **members: bytes) -> RawSample:
    contents = {
        "jpg": encoded(scene(sample.height, sample.width)),
        "json": encode_sample(sample),
    } | {name.replace("_", "."): content for name, content in members.items()}
    views = {name: memoryview(content) for name, content in contents.items()}
    return RawSample("train-000000.tar", sample.key, views)


def load(transform: Any = None, sample: Sample | None = None, **kwargs: Any) -> Item:
    options: dict[str, Any] = {"task": "detection", "random_key": ("t", 0), "sample_id": 17}
    options["cost"] = Cost()
    raw = kwargs.pop("raw", None) or raw_of(sample or sample_of())
    with preserved_generators():
        options |= kwargs
        sample = annotated(raw, sample_id=options.pop("sample_id"), task=options.pop("task"))
        key = digest_of(options.pop("random_key"))
        return load_item(sample, transform=transform, random_key=key, **options)


def batch_of(recipes: list[FusedTransform], jpegs: list[bytes], task: str = "detection") -> Batch:
    """A batch of pictures, each transformed by its own recipe."""
    packing = Packing(len(recipes), task=task)
    for recipe, jpeg in zip(recipes, jpegs, strict=True):
        height, width = decode_image(jpeg, place="").shape[1:]
        sample = sample_of([(0, 0, width, height)], wh=(width, height))
        packing.add(load(recipe, raw=raw_of(sample, jpg=jpeg)))
    return packing.batch(epoch=0, start=0, stop=len(recipes))


def refusal(transform: Any = None, **kwargs: Any) -> str:
    with pytest.raises(SampleError) as caught:
        load(transform, **kwargs)
    return str(caught.value)


def with_mask() -> tuple[np.ndarray, RawSample]:
    values, content = voc_mask()
    return values, raw_of(sample_of([], wh=(16, 12)), class_png=content)


def rendered(
    jpeg: bytes | memoryview,
    plan: Plan,
    size_hw: tuple[int, int],
    *,
    change: ColorChange | None = None,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> torch.Tensor:
    """Render a stored picture by a plan, as a recipe does: uint8 [3, H, W]."""

    def draw(*_: object) -> Drawn:
        return Drawn(plan, change or ColorChange())

    recipe = FusedTransform(draw, fill)
    planned = recipe.planned(
        np.zeros((0, 4), np.float32), size_hw=size_hw, random_key=digest_of(("t", 0))
    )
    pixels = recipe.decoded(planned, jpeg, size_hw=size_hw, place="")
    return recipe.rendered(planned, pixels, None, size_hw=size_hw).image
