"""Turned pictures arrive upright, with their boxes and masks, whoever decodes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from datamodules import finish, presets
from datamodules.loading.annotated import annotated
from datamodules.loading.batch import Packing
from datamodules.pixels.geometry import Plan, View
from datamodules.pixels.upright import turned_size
from datamodules.reading.samples import RawSample
from datamodules.transforms.fused import Drawn, FusedTransform
from shard_tool.format.sample import Sample, encode_sample
from tests.kit.datasets.pictures import encoded, turned, upright_by_pillow
from tests.kit.datasets.samples import PLACE, load, refusal, sample_of

ORIENTATIONS = range(1, 9)
STORED = (48, 64)
KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def smooth(height: int, width: int) -> np.ndarray:
    """A picture whose corners differ, and that JPEG keeps within a few levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 0 * x], -1).astype(np.uint8)


def upright_sample(orientation: int, boxes: Any = (), **fields: Any) -> Sample:
    height, width = turned_size(STORED, orientation)
    sample = sample_of(list(boxes), wh=(width, height))
    return replace(sample, orientation=orientation, **fields)


def raw_of(orientation: int, name: str = "jpg", **given: Any) -> RawSample:
    """A stored picture of 64 x 48 px to be turned, and its JSON."""
    options = {"quality": 100, "subsampling": 0} if name == "jpg" else {"lossless": True}
    members = {
        name: turned(smooth(*STORED), orientation, KINDS[name], **options),
        "json": encode_sample(given.pop("sample", None) or upright_sample(orientation)),
        **given.pop("members", {}),
    }
    return RawSample(PLACE.partition(":")[0], "a", {k: memoryview(v) for k, v in members.items()})


def expected_of(raw: RawSample) -> np.ndarray:
    """The upright picture by Pillow, float [H, W, 3]."""
    name = next(name for name in KINDS if name in raw.members)
    return upright_by_pillow(bytes(raw.members[name])).astype(float)


def pixels_of(item: Any) -> np.ndarray:
    """A picture of an item in levels, [H, W, 3], with what is left to the device done."""
    packing = Packing(1, task="detection")
    packing.add(item)
    batch = packing.batch(epoch=0, start=0, stop=1)
    if batch.device_work:
        batch = finish(batch)
    scale = 1 if batch.pixels.dtype == torch.uint8 else 255
    found: np.ndarray = scale * batch.images[0].permute(1, 2, 0).double().numpy()
    return found


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_without_a_recipe_are_pillows_turned_ones(orientation: int, name: str) -> None:
    raw = raw_of(orientation, name)
    expected = expected_of(raw)
    for transform in (None, lambda image, target: (image, target), v2.Identity()):
        item = load(transform, raw=raw)
        assert item.orig_size == turned_size(STORED, orientation) == expected.shape[:2]
        assert np.array_equal(pixels_of(item), expected)


def recipe(view: View, **options: Any) -> FusedTransform:
    """A crop, scaled to 20 x 26 px in a larger output and mirrored."""
    plan = Plan(view, (30, 40), (20, 26), is_flipped=True)
    return FusedTransform(lambda *_: Drawn(plan), (9, 99, 199), **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decode": "fast"},
        {"recolor_on": "device"},
        {"decode": "cuda"},
    ],
    ids=["exact", "fast", "recoloured on the device", "decoded on the device"],
)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_recipes_give_what_they_give_of_the_upright_picture(
    orientation: int, name: str, options: Any
) -> None:
    """Of the same picture stored upright, without loss; 'fast' decodes JPEGs at a half."""
    raw = raw_of(orientation, name)
    size_hw = turned_size(STORED, orientation)
    stored_upright = encoded(expected_of(raw).astype(np.uint8), "PNG")
    sample = sample_of([], wh=size_hw[::-1])
    for view in (View(5, 3, 40, 31), View(-8, -8, 52, 40), View(20, 16, 52, 40)):
        expected = load(
            recipe(view, **options),
            raw=RawSample(
                "",
                "a",
                {"png": memoryview(stored_upright), "json": memoryview(encode_sample(sample))},
            ),
        )
        found = load(recipe(view, **options), raw=raw)
        assert np.abs(pixels_of(found) - pixels_of(expected)).max() <= 8


def test_boxes_are_those_of_the_upright_picture() -> None:
    """A bright rectangle in the stored picture, and its box in the turned one."""
    pixels = np.zeros((*STORED, 3), np.uint8)
    pixels[8:16, 40:56] = 255
    for orientation in ORIENTATIONS:
        content = turned(pixels, orientation, "PNG")
        rows, columns = np.nonzero(upright_by_pillow(content)[..., 0])
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        sample = upright_sample(orientation, [tuple(map(float, box))])
        members = {"png": memoryview(content), "json": memoryview(encode_sample(sample))}
        view = View(box[0] - 3, box[1] - 2, 26, 20)
        for transform in (None, presets.detection_eval(100), recipe(view)):
            item = load(transform, raw=RawSample("", "a", members))
            x0, y0, x1, y1 = item.target["boxes"].round().int().tolist()[0]
            assert int(item.image[:, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].min()) > 250
            item.image[:, max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = 0
            assert item.image.unique().tolist() in ([0], [0, 9, 99, 199]), "bright beside its box"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_are_stored_upright_and_never_turned(orientation: int) -> None:
    height, width = turned_size(STORED, orientation)
    values = (np.arange(height * width).reshape(height, width) // 7 % 4).astype(np.uint8)
    raw = raw_of(orientation, members={"class.png": encoded(Image.fromarray(values), "PNG")})
    plain = load(None, raw=raw, task="segmentation")
    assert plain.target.tolist() == values.tolist()
    assert tuple(plain.image.shape[1:]) == values.shape
    same = FusedTransform(lambda *_: Drawn(Plan(View(0, 0, width, height), (height, width))))
    item = load(same, raw=raw, task="segmentation")
    assert item.target.tolist() == values.tolist()
    assert np.abs(item.image.permute(1, 2, 0).numpy() - expected_of(raw)).max() <= 1
    if height != STORED[0]:
        lying = encoded(Image.fromarray(values.T.copy()), "PNG")
        bad = raw_of(orientation, members={"class.png": lying})
        expected = f"{PLACE}.class.png: is 64 x 48 px, its picture 48 x 64"
        assert refusal(raw=bad, task="segmentation") == expected


def test_a_header_that_contradicts_the_upright_size_is_refused() -> None:
    """Also where a JSON says the stored size of a picture that has to be turned."""
    lying = replace(upright_sample(6), width=64, height=48)
    expected = f"{PLACE}.jpg: is 64 x 48 px, the JSON says 48 x 64 before turning by orientation 6"
    assert refusal(raw=raw_of(6, sample=lying)) == expected
    standing = replace(upright_sample(3), width=48, height=64)
    expected = f"{PLACE}.jpg: is 64 x 48 px, the JSON says 48 x 64 before turning by orientation 3"
    assert refusal(raw=raw_of(3, sample=standing)) == expected


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_json_without_a_size_gets_the_upright_one_of_the_header(
    orientation: int, name: str
) -> None:
    raw = raw_of(orientation, name, sample=upright_sample(orientation, width=0, height=0))
    size_hw = turned_size(STORED, orientation)
    assert annotated(raw, sample_id=0, task="detection").size_hw == size_hw
    item = load(presets.detection_eval(32), raw=raw)
    assert item.orig_size == size_hw
    assert item.target["orig_size"].tolist() == list(size_hw)
