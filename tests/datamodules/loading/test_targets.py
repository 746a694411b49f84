"""A stored sample becomes an item with all fields of the contract, or is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from datamodules import presets
from datamodules.loading.annotated import annotated
from datamodules.loading.targets import for_transform, target_of
from datamodules.pixels.decode import decode_image
from datamodules.reading.samples import RawSample
from tests.kit.datasets.pictures import encoded, scene
from tests.kit.datasets.samples import BOXES, PLACE, load, raw_of, refusal, sample_of, with_mask

if TYPE_CHECKING:
    from shard_tool.format.sample import Sample


def given_target(sample: Sample, sample_id: int) -> dict[str, Any]:
    """What a user's transform is given."""
    found = annotated(raw_of(sample), sample_id=sample_id, task="detection")
    target: dict[str, Any] = for_transform(target_of(found, None), found.size_hw)
    return target


def test_detection_target_has_the_fields_of_the_contract() -> None:
    target = given_target(sample_of(), 17)
    boxes = target["boxes"]
    assert isinstance(boxes, tv_tensors.BoundingBoxes)
    assert (boxes.format, boxes.canvas_size) == (tv_tensors.BoundingBoxFormat.XYXY, (48, 64))
    assert boxes.dtype == torch.float32
    assert boxes.tolist() == [list(box) for box in BOXES]
    assert target["labels"].dtype == torch.int64
    assert target["labels"].tolist() == [1, 2, 3, 4, 5]
    assert target["difficult"].dtype == torch.bool
    assert target["difficult"].tolist() == [False, True, False, True, False]
    assert (target["image_id"].dtype, target["image_id"].tolist()) == (torch.int64, 17)
    assert (target["orig_size"].dtype, target["orig_size"].tolist()) == (torch.int64, [48, 64])
    assert target["key"] == "a"
    assert (target["iscrowd"].dtype, target["iscrowd"].tolist()) == (torch.int64, [0] * 5)
    names = {"boxes", "labels", "difficult", "iscrowd", "image_id", "orig_size", "key"}
    assert target.keys() == names


def test_detection_target_skips_objects_without_a_box() -> None:
    """Layout marks some objects by a point only; the others keep their labels."""
    target = given_target(sample_of([BOXES[0], None, BOXES[2]]), 0)
    assert target["labels"].tolist() == [1, 3]
    assert target["boxes"].tolist() == [list(BOXES[0]), list(BOXES[2])]
    assert target["difficult"].tolist() == [False, False]


def test_detection_target_takes_unknown_difficulty_for_none() -> None:
    target = given_target(sample_of(BOXES[:3], difficult=[None, True, None]), 0)
    assert target["difficult"].tolist() == [False, True, False]


@pytest.mark.parametrize("boxes", [[], [None, None]], ids=["no objects", "points only"])
def test_target_of_a_picture_without_boxes_is_empty_but_shaped(boxes: list[Any]) -> None:
    for transform in (None, presets.detection_train(32), presets.detection_eval(32)):
        target = load(transform, sample_of(boxes)).target
        assert (target["boxes"].shape, target["boxes"].dtype) == ((0, 4), torch.float32)
        assert (target["labels"].shape, target["labels"].dtype) == ((0,), torch.int64)
        assert (target["difficult"].shape, target["difficult"].dtype) == ((0,), torch.bool)


def test_loaded_item_without_a_transform_is_the_stored_sample() -> None:
    item = load()
    expected = decode_image(raw_of(sample_of()).members["jpg"], place="a")
    assert type(item.image) is torch.Tensor
    assert torch.equal(item.image, expected)
    assert (item.sample_id, item.key, item.orig_size) == (17, "a", (48, 64))
    assert {type(item.target[name]) for name in ("boxes", "labels", "difficult")} == {torch.Tensor}
    assert item.target["boxes"].tolist() == [list(box) for box in BOXES]


def without(raw: RawSample, name: str) -> RawSample:
    members = {key: content for key, content in raw.members.items() if key != name}
    return RawSample(raw.url, raw.key, members)


def test_sample_without_a_member_its_task_needs_is_refused() -> None:
    raw = raw_of(sample_of())
    expected = f"{PLACE}: has no jpg, png or webp member, which detection needs"
    assert refusal(raw=without(raw, "jpg")) == expected
    expected = f"{PLACE}: has no json member, which detection needs"
    assert refusal(raw=without(raw, "json")) == expected
    expected = f"{PLACE}: has no class.png member, which segmentation needs"
    assert refusal(raw=raw, task="segmentation") == expected


def test_picture_of_another_size_than_its_json_says_is_refused() -> None:
    raw = raw_of(sample_of(), jpg=encoded(scene(48, 63)))
    assert refusal(raw=raw) == f"{PLACE}.jpg: is 63 x 48 px, the JSON says 64 x 48"


def test_picture_that_does_not_decode_is_refused_by_name() -> None:
    raw = raw_of(sample_of(), jpg=encoded(scene(48, 64))[:-100])
    assert refusal(raw=raw).startswith(f"{PLACE}.jpg: does not decode: ")


def test_json_of_another_kind_is_refused_by_name() -> None:
    raw = raw_of(sample_of(), json=b"{")
    assert refusal(raw=raw).startswith(f"{PLACE}.json: not the JSON of a sample: ")
    raw = raw_of(sample_of(), json=json.dumps({"key": "a", "source": {}}).encode())
    assert refusal(raw=raw) == f"{PLACE}.json: field 'objects' is missing"


def test_loaded_mask_is_the_stored_one() -> None:
    values, raw = with_mask()
    item = load(raw=raw, task="segmentation")
    assert (type(item.target), item.target.dtype) == (torch.Tensor, torch.uint8)
    assert item.target.numpy().tolist() == values.tolist()


def test_mask_of_another_size_than_its_picture_is_refused_whatever_comes_after_it() -> None:
    _, raw = with_mask()
    raw.members["class.png"] = memoryview(encoded(scene(12, 15, 1), "PNG"))
    for transform in (None, v2.Resize((8, 8)), presets.segmentation_eval(8)):
        message = refusal(transform, raw=raw, task="segmentation")
        assert message == f"{PLACE}.class.png: is 15 x 12 px, its picture 16 x 12"
