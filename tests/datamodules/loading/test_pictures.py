"""A sample's picture is the member jpg, png or webp; errors name the member."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datamodules import presets
from datamodules.loading.batch import Packing
from datamodules.loading.on_device import finish
from datamodules.reading.samples import RawSample
from shard_tool.format.sample import PICTURES, encode_sample
from tests.kit.datasets.pictures import encoded, scene
from tests.kit.datasets.samples import PLACE, ROUNDED, load, refusal, sample_of

JSON = encode_sample(sample_of())
SCENE = scene(48, 64)


def raw_of(**members: bytes) -> RawSample:
    views = {name: memoryview(content) for name, content in {"json": JSON, **members}.items()}
    return RawSample("train-000000.tar", "a", views)


def stored(extension: str) -> bytes:
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95}}
    return encoded(SCENE, PICTURES[extension], **options.get(extension, {}))


@pytest.mark.parametrize("extension", ["png", "webp"])
def test_a_batch_has_the_stored_pixels_whatever_the_format(extension: str) -> None:
    item = load(raw=raw_of(**{extension: stored(extension)}))
    assert np.array_equal(item.image.permute(1, 2, 0).numpy(), SCENE)
    packing = Packing(2, task="detection")
    packing.add(item)
    packing.add(load(raw=raw_of(jpg=stored("jpg"))))
    images, _ = packing.batch(epoch=0, start=0, stop=2)
    assert [tuple(image.shape) for image in images] == [(3, 48, 64)] * 2


def test_the_device_gets_jpeg_files_and_of_other_formats_pixels() -> None:
    here, there = Packing(3, task="detection"), Packing(3, task="detection")
    for extension in PICTURES:
        raw = raw_of(**{extension: stored(extension)})
        here.add(load(presets.resize(40), raw=raw))
        there.add(load(replace(presets.resize(40), decode="cuda"), raw=raw))
    batch = there.batch(epoch=0, start=0, stop=3)
    assert [len(work.sent or ()) for work in batch.device_work] == [1, 3, 3]
    expected = finish(here.batch(epoch=0, start=0, stop=3))
    assert float((finish(batch).pixels - expected.pixels).abs().max()) < ROUNDED / 255


@pytest.mark.parametrize("extension", PICTURES)
def test_errors_name_the_member(extension: str) -> None:
    place = f"{PLACE}.{extension}"
    cut = raw_of(**{extension: stored(extension)[:-100]})
    small = raw_of(**{extension: encoded(scene(48, 63), PICTURES[extension])})
    for transform in (None, presets.resize(32), replace(presets.resize(32), recolor_on="device")):
        assert refusal(transform, raw=cut).startswith(f"{place}: does not decode: ")
        expected = f"{place}: is 63 x 48 px, the JSON says 64 x 48"
        assert refusal(transform, raw=small) == expected
    assert refusal(raw=raw_of(**{extension: b"nothing"})) == f"{place}: is not a picture"


def test_a_sample_has_one_picture() -> None:
    expected = f"{PLACE}: has 2 pictures: jpg, webp, expected one"
    assert refusal(raw=raw_of(webp=stored("webp"), jpg=stored("jpg"))) == expected
    expected = f"{PLACE}: has no jpg, png or webp member, which detection needs"
    assert refusal(raw=raw_of(jpeg=stored("jpg"))) == expected
