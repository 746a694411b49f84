"""A packed batch unpacks to the items that went in, also after pickling and moving."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from datamodules.loading.batch import Batch, Packing
from datamodules.loading.items import Item
from shard_tool.errors import SampleError

if TYPE_CHECKING:
    from collections.abc import Callable


def collate(items: list[Item], *, task: str, epoch: int, start: int, stop: int) -> Batch:
    packing = Packing(len(items), task=task)
    for item in items:
        packing.add(item)
    return packing.batch(epoch=epoch, start=start, stop=stop)


def item_of(
    number: int, size_hw: tuple[int, int], num_boxes: int, dtype: Any = torch.uint8
) -> Item:
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(256, (3, *size_hw), generator=generator).to(dtype)
    target = {
        "boxes": torch.rand(num_boxes, 4, generator=generator),
        "labels": torch.arange(num_boxes) + 1,
        "difficult": torch.arange(num_boxes) % 2 == 0,
        "iscrowd": torch.arange(num_boxes) // 2,
    }
    return Item(image, target, 100 + number, f"k{number}", (size_hw[0] * 2, size_hw[1] * 2))


def mask_item(number: int, size_hw: tuple[int, int]) -> Item:
    item = item_of(number, size_hw, 0)
    mask = torch.full(size_hw, number, dtype=torch.uint8)
    mask[0, 0] = 255
    return Item(item.image, mask, item.sample_id, item.key, item.orig_size)


def detection_batch(**kwargs: Any) -> tuple[list[Item], Batch]:
    items = [item_of(0, (6, 8), 3, **kwargs), item_of(1, (5, 7), 0, **kwargs)]
    items.append(item_of(2, (9, 4), 2, **kwargs))
    return items, collate(items, task="detection", epoch=4, start=30, stop=36)


def segmentation_batch() -> tuple[list[Item], Batch]:
    items = [mask_item(number, (6, 8)) for number in range(3)]
    return items, collate(items, task="segmentation", epoch=4, start=30, stop=36)


def instances_batch() -> tuple[list[Item], Batch]:
    items = [item_of(0, (6, 8), 3), item_of(1, (5, 7), 0), item_of(2, (9, 4), 2)]
    for item in items:
        shape = (len(item.target["boxes"]), *item.image.shape[1:])
        item.target["masks"] = torch.randint(2, shape, dtype=torch.uint8)
    return items, collate(items, task="instances", epoch=4, start=30, stop=36)


def classification_batch() -> tuple[list[Item], Batch]:
    items = []
    for number in range(3):
        item = item_of(number, (6, 8), 0)
        labels = torch.tensor([0.0, 1, -1, number])
        items.append(Item(item.image, labels, item.sample_id, item.key, item.orig_size))
    return items, collate(items, task="classification", epoch=4, start=30, stop=36)


BATCHES = [
    pytest.param(detection_batch, id="detection"),
    pytest.param(segmentation_batch, id="segmentation"),
    pytest.param(classification_batch, id="classification"),
    pytest.param(instances_batch, id="instances"),
]


def tensors_of(batch: Batch) -> dict[str, torch.Tensor]:
    values = vars(batch)
    return {name: value for name, value in values.items() if torch.is_tensor(value)}


def assert_equal(found: Batch, expected: Batch) -> None:
    assert vars(found).keys() == vars(expected).keys()
    for name, theirs in vars(expected).items():
        ours = getattr(found, name)
        if torch.is_tensor(theirs):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
            assert torch.equal(ours, theirs), name
        else:
            assert ours == theirs, name
            assert type(ours) is type(theirs), name


def test_batch_is_packed_flat() -> None:
    items, batch = detection_batch()
    assert len(batch) == 3
    assert batch.sizes.tolist() == [[6, 8], [5, 7], [9, 4]]
    assert batch.num_boxes.tolist() == [3, 0, 2]
    assert batch.sample_ids.tolist() == [100, 101, 102]
    assert batch.orig_sizes.tolist() == [[12, 16], [10, 14], [18, 8]]
    assert (batch.keys, batch.epoch) == (("k0", "k1", "k2"), 4)
    assert (batch.start, batch.stop) == (30, 36)
    assert batch.pixels.tolist() == [
        value for item in items for value in item.image.permute(1, 2, 0).reshape(-1).tolist()
    ]
    assert (batch.boxes.shape, batch.labels.shape, batch.masks.shape) == ((5, 4), (5,), (0,))
    assert all(tensor.is_contiguous() for tensor in tensors_of(batch).values())


def test_detection_batch_unpacks_to_its_items() -> None:
    items, batch = detection_batch()
    images, targets = batch
    assert isinstance(images, list)
    assert isinstance(targets, list)
    for item, image, target in zip(items, images, targets, strict=True):
        assert torch.equal(image, item.image)
        for name in ("boxes", "labels", "difficult"):
            assert target[name].dtype == item.target[name].dtype
            assert torch.equal(target[name], item.target[name])
        assert target["key"] == item.key


def test_detection_target_of_a_batch_has_the_fields_of_the_contract() -> None:
    _, batch = detection_batch()
    _, targets = batch
    for target, count in zip(targets, (3, 0, 2), strict=True):
        shapes = {
            name: (value.dtype, tuple(value.shape))
            for name, value in target.items()
            if name != "key"
        }
        assert shapes == {
            "boxes": (torch.float32, (count, 4)),
            "labels": (torch.int64, (count,)),
            "difficult": (torch.bool, (count,)),
            "area": (torch.float32, (count,)),
            "iscrowd": (torch.int64, (count,)),
            "image_id": (torch.int64, ()),
            "orig_size": (torch.int64, (2,)),
        }
        assert target["iscrowd"].tolist() == [0, 0, 1][:count]
        x0, y0, x1, y1 = target["boxes"].unbind(1)
        assert torch.equal(target["area"], (x1 - x0) * (y1 - y0))
    assert [int(target["image_id"]) for target in targets] == [100, 101, 102]
    assert [target["orig_size"].tolist() for target in targets] == [[12, 16], [10, 14], [18, 8]]


def test_instances_batch_unpacks_to_its_items() -> None:
    """With the fields of detection, masks beside them, and their areas."""
    items, batch = instances_batch()
    images, targets = batch
    assert batch.masks.numel() == 3 * 6 * 8 + 2 * 9 * 4
    for item, image, target in zip(items, images, targets, strict=True):
        assert torch.equal(image, item.image)
        for name in ("boxes", "labels", "difficult", "iscrowd", "masks"):
            assert target[name].dtype == item.target[name].dtype
            assert torch.equal(target[name], item.target[name])
        assert target["masks"].untyped_storage().data_ptr() == batch.masks.data_ptr(), "a view"
        assert target["area"].dtype == torch.float32
        assert target["area"].tolist() == item.target["masks"].sum((1, 2)).tolist()


def test_segmentation_batch_unpacks_to_stacks() -> None:
    items, batch = segmentation_batch()
    images, masks = batch
    assert (images.dtype, images.shape) == (torch.uint8, (3, 3, 6, 8))
    assert (masks.dtype, masks.shape) == (torch.int64, (3, 6, 8))
    assert torch.equal(images, torch.stack([item.image for item in items]))
    assert torch.equal(masks, torch.stack([item.target for item in items]).to(torch.int64))
    assert (masks[:, 0, 0] == 255).all()


def test_classification_batch_unpacks_to_stacks() -> None:
    items, batch = classification_batch()
    images, labels = batch
    assert (images.dtype, images.shape) == (torch.uint8, (3, 3, 6, 8))
    assert torch.equal(images, torch.stack([item.image for item in items]))
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[0, 1, -1, 0], [0, 1, -1, 1], [0, 1, -1, 2]]
    assert batch.task == "classification"
    assert [t.numel() for t in (batch.masks, batch.boxes, batch.difficult, batch.num_boxes)] == [
        0
    ] * 4


def test_unpacking_gives_views_of_the_packed_tensors() -> None:
    _, batch = detection_batch()
    images, targets = batch
    images[2][:] = 0
    assert not batch.pixels[-3 * 9 * 4 :].any()
    assert batch.pixels[: 3 * 6 * 8].any()
    pointer = batch.pixels.untyped_storage().data_ptr()
    assert {image.untyped_storage().data_ptr() for image in images} == {pointer}
    targets[2]["boxes"][:] = -1
    assert (batch.boxes[3:] == -1).all()
    _, batch = segmentation_batch()
    assert batch.images.data_ptr() == batch.pixels.data_ptr()


def test_batch_of_pictures_without_boxes_keeps_its_shapes() -> None:
    items = [item_of(number, (4, 4), 0) for number in range(2)]
    batch = collate(items, task="detection", epoch=0, start=0, stop=2)
    assert batch.boxes.shape == (0, 4)
    _, targets = batch
    assert [target["boxes"].shape for target in targets] == [(0, 4)] * 2
    assert [target["area"].shape for target in targets] == [(0,)] * 2
    assert_equal(pickle.loads(pickle.dumps(batch)), batch)


def test_batch_packs_images_that_are_views_themselves() -> None:
    item = item_of(0, (6, 8), 1)
    flipped = Item(item.image.flip(2)[:, ::2, 1:6], item.target, 0, "a", (6, 8))
    batch = collate([flipped], task="detection", epoch=0, start=0, stop=1)
    assert torch.equal(batch.images[0], flipped.image)


@pytest.mark.parametrize("make", BATCHES)
def test_batch_survives_pickling(make: Callable[[], tuple[list[Item], Batch]]) -> None:
    _, batch = make()
    copied = pickle.loads(pickle.dumps(batch))
    assert_equal(copied, batch)
    for name, tensor in tensors_of(copied).items():
        tensor.fill_(1)  # memory of its own, and writable
        if tensor.numel():
            assert tensor.data_ptr() != tensors_of(batch)[name].data_ptr()


def test_batch_larger_than_a_message_survives_pickling() -> None:
    items = [item_of(number, (80, 90), 2000) for number in range(2)]
    batch = collate(items, task="detection", epoch=0, start=0, stop=2)
    assert_equal(pickle.loads(pickle.dumps(batch)), batch)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_batch_of_any_image_dtype_survives_pickling(dtype: torch.dtype) -> None:
    _, batch = detection_batch(dtype=dtype)
    assert batch.pixels.dtype == dtype
    assert_equal(pickle.loads(pickle.dumps(batch)), batch)


@pytest.mark.parametrize("make", BATCHES)
def test_batch_goes_to_a_device(make: Callable[[], tuple[list[Item], Batch]]) -> None:
    _, batch = make()
    assert_equal(batch.to("cpu"), batch)
    assert_equal(batch.to(torch.device("cpu"), non_blocking=True), batch)
    moved = batch.to("meta")
    places = {name: tensor.device.type for name, tensor in tensors_of(moved).items()}
    stay = {name for name, place in places.items() if place == "cpu"}
    assert stay == {"sizes", "num_boxes"}, "what cuts the tensors would have to be waited for"
    assert set(places.values()) == {"cpu", "meta"}
    assert [image.device.type for image in moved.images] == ["meta"] * len(batch)
    assert moved.keys == batch.keys


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA: nothing to pin memory for")
@pytest.mark.parametrize("make", BATCHES)
def test_batch_is_pinned_whole(make: Callable[[], tuple[list[Item], Batch]]) -> None:
    _, batch = make()
    pinned = batch.pin_memory()
    assert all(tensor.is_pinned() for tensor in tensors_of(pinned).values() if tensor.numel())
    assert_equal(pinned, batch)
    assert_equal(batch.to("cuda").to("cpu"), batch)


def test_batch_with_other_pixels_keeps_the_rest() -> None:
    _, batch = detection_batch()
    scaled = batch.with_pixels(batch.pixels.to(torch.float32) / 255)
    assert [image.shape for image in scaled.images] == [image.shape for image in batch.images]
    assert scaled.images[0].dtype == torch.float32
    assert scaled.keys == batch.keys
    assert batch.pixels.dtype == torch.uint8


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_batch_of_several_sizes_does_not_stack_and_names_two_samples(task: str) -> None:
    items = [mask_item(0, (6, 8)), mask_item(1, (6, 8)), mask_item(2, (8, 6))]
    if task == "classification":
        items = [replace(item, target=torch.zeros(20)) for item in items]
    batch = collate(items, task=task, epoch=0, start=0, stop=3)
    expected = (
        "samples 'k0' and 'k2': 8 x 6 px beside 6 x 8 px do not stack; "
        "end the transform with a resize or crop to one size"
    )
    for part in ("images", "targets") if task == "segmentation" else ("images",):
        with pytest.raises(SampleError) as caught:
            getattr(batch, part)
        assert str(caught.value) == expected


def test_batch_of_several_image_dtypes_is_refused() -> None:
    items = [item_of(0, (4, 4), 1), item_of(1, (4, 4), 1, torch.float32)]
    with pytest.raises(SampleError) as caught:
        collate(items, task="detection", epoch=0, start=0, stop=2)
    expected = "sample 'k1': one batch holds pictures of torch.uint8 and torch.float32"
    assert str(caught.value) == expected
