"""Boxes, labels and flags match after a user's transform, or the result is refused."""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from datamodules import presets
from datamodules.transforms.linked_labels import LinkedLabels
from shard_tool.errors import SampleError
from tests.kit.datasets.samples import BOXES, PLACE, load, refusal, sample_of, with_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from datamodules.loading.items import Item
    from shard_tool.format.sample import Sample


def checked_labels(item: Item, sample: Sample | None = None) -> list[int]:
    """The labels, after checking that all columns have one length and each flag its label."""
    target = item.target
    objects = (sample or sample_of()).objects
    labels: list[int] = target["labels"].tolist()
    flags = {thing.label: bool(thing.difficult) for thing in objects}
    assert target["difficult"].tolist() == [flags[label] for label in labels]
    assert len(target["boxes"]) == len(labels)
    types = [type(target[name]) for name in ("boxes", "labels", "difficult")]
    assert types == [torch.Tensor] * 3
    assert target["labels"].dtype == torch.int64
    return labels


def tagged() -> Sample:
    """Twenty boxes, their widths telling which is which, half of them off to one side."""
    boxes = [(x, y, x + 3 + i / 4, y + 6) for i in range(20) for x, y in [(i * 2.6, (7 * i) % 40)]]
    return sample_of(boxes, difficult=[i % 3 == 0 for i in range(20)])


def test_sanitize_bounding_boxes_keeps_difficult_with_its_labels() -> None:
    boxes: list[Any] = [*BOXES]
    boxes[1] = (20, 5, 20.5, 40)  # narrower than a pixel: dropped
    boxes[3] = (5, 30, 25, 30.1)
    sample = sample_of(boxes)
    assert checked_labels(load(v2.SanitizeBoundingBoxes(), sample), sample) == [1, 3, 5]


def test_random_iou_crop_keeps_boxes_labels_and_difficult_together() -> None:
    crop = v2.Compose([v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes()])
    sample = tagged()
    widths = {thing.label: thing.bbox[2] - thing.bbox[0] for thing in sample.objects if thing.bbox}
    counts = set()
    for number in range(25):
        item = load(crop, sample, random_key=("crop", number))
        labels = checked_labels(item, sample)
        assert labels == sorted(labels)
        height, width = item.image.shape[1:]
        for label, (x0, _, x1, _) in zip(labels, item.target["boxes"].tolist(), strict=True):
            if x0 > 0 and x1 < width:  # not cut by the crop: it must be that label's own
                assert x1 - x0 == pytest.approx(widths[label], abs=1e-4)
        assert height <= 48
        counts.add(len(labels))
    assert len(counts) > 5  # boxes were dropped, differently


def test_default_training_transform_keeps_boxes_labels_and_difficult_together() -> None:
    sample = tagged()
    counts = set()
    for number in range(10):
        item = load(presets.detection_train(40), sample, random_key=("train", number))
        counts.add(len(checked_labels(item, sample)))
        assert item.image.shape == (3, 40, 40)
    assert len(counts) > 2


def picked(rows: Any) -> Callable[[Any, Any], Any]:
    def transform(image: Any, target: Any) -> Any:
        boxes, labels = target["boxes"][rows], target["labels"][rows]
        return image, {**target, "boxes": boxes, "labels": labels}

    return transform


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        pytest.param(torch.tensor([True, False, False, True, True]), [1, 4, 5], id="mask"),
        pytest.param(torch.tensor([4, 1]), [5, 2], id="numbers, reordered"),
        pytest.param([3, 0], [4, 1], id="list"),
        pytest.param(np.array([False, True, True, False, False]), [2, 3], id="NumPy mask"),
        pytest.param(slice(1, 4, 2), [2, 4], id="slice"),
        pytest.param(torch.zeros(5, dtype=torch.bool), [], id="none left"),
        pytest.param(torch.tensor([2, 2, 2]), [3, 3, 3], id="repeated"),
    ],
)
def test_transform_that_indexes_labels_by_hand_keeps_difficult_with_them(
    rows: Any, labels: list[int]
) -> None:
    assert checked_labels(load(picked(rows))) == labels


def test_transform_may_index_labels_again_and_again() -> None:
    chain = v2.Compose([picked([4, 3, 2, 1]), picked(torch.tensor([True, False, True, True]))])
    assert checked_labels(load(chain)) == [5, 3, 2]


def test_transform_may_pick_difficult_itself() -> None:
    def only_easy(image: Any, target: Any) -> Any:
        keep = ~target["difficult"]
        names = ("boxes", "labels", "difficult")
        return image, {**target, **{name: target[name][keep] for name in names}}

    assert checked_labels(load(only_easy)) == [1, 3, 5]


def test_transform_may_change_difficult() -> None:
    """For example it marks small boxes difficult: what it returns is what trains."""

    def all_difficult(image: Any, target: Any) -> Any:
        return image, {**target, "difficult": torch.ones(5, dtype=torch.bool)}

    assert load(all_difficult).target["difficult"].tolist() == [True] * 5


def test_transform_may_map_labels_through_a_table() -> None:
    """Merging classes: the labels are an index, not the indexed."""
    table = torch.tensor([0, 1, 1, 1, 2, 2])

    def merge(image: Any, target: Any) -> Any:
        return image, {**target, "labels": table[target["labels"]]}

    target = load(merge).target
    assert target["labels"].tolist() == [1, 1, 1, 2, 2]
    assert target["difficult"].tolist() == [False, True, False, True, False]


def test_transform_may_copy_the_target_deeply() -> None:
    def deep(image: Any, target: Any) -> Any:
        return image, picked([4, 1])(image, copy.deepcopy(target))[1]

    assert checked_labels(load(deep)) == [5, 2]


def test_transform_may_calculate_with_labels() -> None:
    seen: list[Any] = []

    def watch(image: Any, target: Any) -> Any:
        labels = target["labels"]
        seen.extend([(labels + 1).tolist(), (labels == 3).sum().item(), labels.max().item()])
        seen.extend([len(labels), [int(label) for label in labels], labels.numpy().tolist()])
        return image, target

    assert checked_labels(load(watch)) == [1, 2, 3, 4, 5]
    assert seen == [[2, 3, 4, 5, 6], 1, 5, 5, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]


def test_indexed_labels_remember_their_rows_and_results_do_not() -> None:
    labels = LinkedLabels.of(torch.tensor([7, 8, 9]), torch.zeros(3, dtype=torch.bool))
    assert labels[torch.tensor([2, 0])].rows.tolist() == [2, 0]  # type: ignore[attr-defined]
    assert type(labels + 0) is torch.Tensor
    assert type(labels[1]) is torch.Tensor


def test_transform_may_add_boxes_with_all_that_goes_with_them() -> None:
    def doubled(image: Any, target: Any) -> Any:
        names = ("boxes", "labels", "difficult")
        return image, {**target, **{name: torch.cat([target[name]] * 2) for name in names}}

    assert checked_labels(load(doubled)) == [1, 2, 3, 4, 5] * 2


def test_transform_that_drops_boxes_only_is_refused() -> None:
    def bad(image: Any, target: Any) -> Any:
        return image, {**target, "boxes": target["boxes"][:2]}

    problem = "after the transform boxes (2, 4) and labels (5,) do not match"
    assert refusal(bad) == f"{PLACE}, by transform 'bad': {problem}"


def test_transform_whose_labels_lose_their_flags_is_refused() -> None:
    def bad(image: Any, target: Any) -> Any:
        labels = target["labels"].clone()[:2]
        return image, {**target, "boxes": target["boxes"][:2], "labels": labels}

    expected = (
        f"{PLACE}, by transform 'bad': after the transform 'difficult' does not match the labels; "
        "index target['labels'] (or 'difficult') where you drop boxes"
    )
    assert refusal(bad) == expected


def test_transform_that_raises_is_named_with_the_sample() -> None:
    def explode(image: Any, target: Any) -> Any:
        message = "no such thing"
        raise KeyError(message)

    expected = f"{PLACE}: transform 'explode' raised KeyError: 'no such thing'"
    assert refusal(explode) == expected
    with pytest.raises(SampleError) as caught:
        load(explode)
    assert isinstance(caught.value.__cause__, KeyError)


def test_transform_object_that_raises_is_named_by_its_class() -> None:
    message = refusal(v2.Compose([v2.RandomCrop((1000, 1000))]))
    assert message.startswith(f"{PLACE}: transform 'Compose' raised ValueError: ")


def test_keyboard_interrupt_passes_through_a_transform() -> None:
    def interrupted(image: Any, target: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(interrupted)


def changed(**values: Any) -> Callable[[Any, Any], Any]:
    """A transform that sets target values, or `image`, to what functions of them give."""

    def transform(image: Any, target: Any) -> Any:
        new = {name: change(target[name]) for name, change in values.items() if name != "image"}
        return values.get("image", lambda x: x)(image), {**target, **new}

    return transform


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        pytest.param(
            lambda *sample: sample[0],
            "transform '<lambda>' returned Image, expected (image, target)",
            id="image alone",
        ),
        pytest.param(
            lambda *_: None,
            "transform '<lambda>' returned NoneType, expected (image, target)",
            id="nothing",
        ),
        pytest.param(
            lambda image, target: (image, target, 1),
            "transform '<lambda>' returned tuple, expected (image, target)",
            id="too much",
        ),
        pytest.param(
            changed(image=lambda image: image[0]),
            "the transform's image is (48, 64), expected a tensor [3, H, W]",
            id="one channel",
        ),
        pytest.param(
            changed(image=lambda image: image.permute(1, 2, 0)),
            "the transform's image is (48, 64, 3), expected a tensor [3, H, W]",
            id="channels last",
        ),
        pytest.param(
            v2.ToPILImage(),
            "the transform's image is Image, expected a tensor [3, H, W]",
            id="a Pillow image",
        ),
        pytest.param(
            changed(image=lambda image: image.to(torch.int32)),
            "the transform's image is torch.int32, expected uint8 or float",
            id="dtype",
        ),
        pytest.param(
            lambda image, target: (image, target["boxes"]),
            "the transform's target has no 'boxes' and 'labels'; "
            "return the target's dict, also where no box is left ([0, 4] boxes, [0] labels)",
            id="boxes instead of a target",
        ),
        pytest.param(
            lambda image, target: (image, {"boxes": target["boxes"]}),
            "the transform's target has no 'boxes' and 'labels'; "
            "return the target's dict, also where no box is left ([0, 4] boxes, [0] labels)",
            id="no labels",
        ),
        pytest.param(
            v2.ConvertBoundingBoxFormat("CXCYWH"),
            "the transform's boxes are CXCYWH; end with v2.ConvertBoundingBoxFormat('XYXY')",
            id="box format",
        ),
        pytest.param(
            changed(boxes=lambda boxes: boxes.reshape(-1)),
            "after the transform boxes (20,) and labels (5,) do not match",
            id="flat boxes",
        ),
        pytest.param(
            changed(boxes=lambda boxes: boxes[:, [2, 3, 0, 1]]),
            "after the transform some box is inverted or not a number; corners are x0, y0, x1, y1",
            id="inverted boxes",
        ),
        pytest.param(
            changed(boxes=lambda boxes: boxes * float("nan")),
            "after the transform some box is inverted or not a number; corners are x0, y0, x1, y1",
            id="boxes that are no numbers",
        ),
        pytest.param(
            lambda image, target: (image[:, :0], target),
            "the transform's image is (3, 0, 64), expected a tensor [3, H, W]",
            id="an image without pixels",
        ),
        pytest.param(
            changed(labels=lambda labels: labels.reshape(-1, 1)),
            "after the transform boxes (5, 4) and labels (5, 1) do not match",
            id="column of labels",
        ),
        pytest.param(
            changed(labels=lambda labels: labels.float()),
            "after the transform labels are torch.float32, expected integers; "
            "leave target['labels'] as they are, or index them",
            id="labels of another dtype",
        ),
        pytest.param(
            changed(boxes=lambda _: None),
            "after the transform 'boxes' is NoneType, expected a tensor",
            id="no boxes",
        ),
    ],
)
def test_results_that_a_batch_cannot_hold_are_refused(transform: Any, problem: str) -> None:
    name = getattr(transform, "__name__", type(transform).__name__)
    by = "" if problem.startswith("transform ") else f", by transform {name!r}"
    assert refusal(transform) == f"{PLACE}{by}: {problem}"


@pytest.mark.parametrize("name", ["boxes", "labels", "difficult"])
@pytest.mark.parametrize("change", [torch.Tensor.tolist, torch.Tensor.numpy], ids=["list", "NumPy"])
def test_transform_that_returns_no_tensors_is_an_error_that_names_the_sample(
    name: str, change: Callable[[Any], Any]
) -> None:
    """Never an AttributeError from deep inside a worker."""

    def transform(image: Any, target: Any) -> Any:
        plain = {key: target[key].as_subclass(torch.Tensor) for key in ("boxes", "labels")}
        target = {**target, **plain}
        return image, {**target, name: change(target[name])}

    try:
        assert checked_labels(load(transform)) == [1, 2, 3, 4, 5]
    except SampleError as exc:
        assert str(exc).startswith(f"{PLACE}, by transform")  # noqa: PT017  (one of two good ends)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.float16, torch.float32, torch.float64], ids=str
)
def test_transform_may_return_an_image_of_any_float_or_uint8(dtype: torch.dtype) -> None:
    assert load(v2.ToDtype(dtype, scale=True)).image.dtype == dtype


def test_transform_draws_by_key_and_leaves_the_generators_alone() -> None:
    def noisy(image: Any, target: Any) -> Any:
        draw = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002  (as users do)
        return image.to(torch.float32) * draw, target

    before = torch.default_generator.get_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    first = load(noisy, random_key=("t", 0, 1, 17)).image
    after = torch.default_generator.get_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert repr(before[2]) == repr(after[2])
    assert torch.equal(load(noisy, random_key=("t", 0, 1, 17)).image, first)
    assert not torch.equal(load(noisy, random_key=("t", 1, 0, 17)).image, first)


def test_stock_transforms_move_the_mask_with_the_picture() -> None:
    values, raw = with_mask()
    item = load(v2.RandomHorizontalFlip(p=1), raw=raw, task="segmentation")
    assert item.target.numpy().tolist() == values[:, ::-1].tolist()
    assert torch.equal(item.image.flip(2), load(raw=raw, task="segmentation").image)


@pytest.mark.parametrize("preset", [presets.segmentation_train, presets.segmentation_eval])
def test_default_transforms_invent_no_classes(preset: Callable[[int], Any]) -> None:
    values, raw = with_mask()
    item = load(preset(40), raw=raw, task="segmentation")
    assert item.image.shape == (3, 40, 40)
    assert item.target.shape == (40, 40)
    assert set(item.target.unique().tolist()) <= set(np.unique(values).tolist())


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param(lambda mask: mask[:6], "(6, 16)", id="another size"),
        pytest.param(lambda mask: mask[None], "(1, 12, 16)", id="another shape"),
        pytest.param(lambda mask: mask.tolist(), "list", id="no tensor"),
    ],
)
def test_a_mask_of_another_size_than_the_image_is_refused(
    change: Callable[[Any], Any], found: str
) -> None:
    _, raw = with_mask()
    message = refusal(lambda image, mask: (image, change(mask)), raw=raw, task="segmentation")
    by = "by transform '<lambda>'"
    assert message == f"{PLACE}, {by}: the transform's mask is {found}, its image (12, 16)"
