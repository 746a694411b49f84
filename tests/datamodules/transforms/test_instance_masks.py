"""Masks of objects stay with their boxes, labels and flags through transforms of users."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from datamodules import presets
from datamodules.pixels.geometry import Plan, View
from datamodules.transforms.fused import Drawn, FusedTransform
from shard_tool.errors import SampleError
from tests.kit.datasets.samples import PLACE, load, sample_of

if TYPE_CHECKING:
    from shard_tool.format.sample import Sample

COUNT = 12


def outlined() -> Sample:
    """Objects of labels 1, 2, …; the mask of each is its box. Every third is a crowd."""
    boxes = [(5 * i, (7 * i) % 30, 5 * i + 4 + i % 3, (7 * i) % 30 + 5 + i) for i in range(COUNT)]
    sample = sample_of(boxes, difficult=[i % 2 == 0 for i in range(COUNT)])
    objects = [
        replace(item, polygons=((x0, y0, x1, y0, x1, y1, x0, y1),), crowd=at % 3 == 0)
        for at, (item, (x0, y0, x1, y1)) in enumerate(zip(sample.objects, boxes, strict=True))
    ]
    return replace(sample, objects=tuple(objects))


def checked_labels(transform: Any, number: int = 0) -> list[int]:
    """The labels, after checking that all fields are those of their objects."""
    item = load(transform, outlined(), task="instances", random_key=("t", number))
    target = item.target
    labels: list[int] = target["labels"].tolist()
    assert target["difficult"].tolist() == [label % 2 == 1 for label in labels]
    assert target["iscrowd"].tolist() == [int(label % 3 == 1) for label in labels]
    assert {type(target[name]) for name in ("masks", "iscrowd", "labels")} == {torch.Tensor}
    assert target["masks"].dtype == torch.uint8
    assert target["masks"].shape == (len(labels), *item.image.shape[1:])
    for mask, box in zip(target["masks"], target["boxes"].tolist(), strict=True):
        rows, columns = np.nonzero(mask.numpy())
        if len(rows):
            found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.abs(np.array(found) - box).max() <= 1.5, "of another object"
    return labels


EVERY = list(range(1, COUNT + 1))
CROP = Drawn(Plan(View(10, 5, 40, 30), (45, 60), is_flipped=True))
"""Scaled by 1.5 and mirrored; it drops the boxes that it does not show."""


def drawn_so(drawn: Drawn, *_: object) -> Drawn:
    return drawn


RECIPE = FusedTransform(partial(drawn_so, CROP))


def picked(rows: Any) -> Any:
    """As people write it: the masks are forgotten."""

    def transform(image: Any, target: Any) -> Any:
        boxes = tv_tensors.wrap(target["boxes"][rows], like=target["boxes"])
        labels = target["labels"][rows]
        return image, {**target, "boxes": boxes, "labels": labels}

    return transform


@pytest.mark.parametrize(
    ("transform", "labels"),
    [
        pytest.param(None, EVERY, id="none"),
        pytest.param(v2.Identity(), EVERY, id="identity"),
        pytest.param(v2.RandomHorizontalFlip(1), EVERY, id="flip"),
        pytest.param(v2.Resize((96, 128)), EVERY, id="resize"),
        pytest.param(picked([3, 0, 7]), [4, 1, 8], id="picked"),
        pytest.param(picked(torch.arange(COUNT - 1, -1, -1)), EVERY[::-1], id="reversed"),
        pytest.param(
            v2.Compose([v2.RandomHorizontalFlip(1), picked([3, 0])]), [4, 1], id="flipped, picked"
        ),
        pytest.param(
            v2.Compose([picked([5, 3, 0]), v2.SanitizeBoundingBoxes()]),
            [6, 4, 1],
            id="picked, sanitized",
        ),
    ],
)
def test_masks_go_with_their_labels(transform: Any, labels: list[int]) -> None:
    assert checked_labels(transform) == labels


def test_crops_and_sanitizing_keep_masks_with_their_labels() -> None:
    crop = v2.Compose([v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes()])
    counts = {len(checked_labels(crop, number)) for number in range(25)}
    assert len(counts) > 4


@pytest.mark.parametrize(
    "chain",
    [
        RECIPE.then(v2.SanitizeBoundingBoxes(min_size=3)),
        RECIPE.then(picked(slice(None, None, 2))),
        v2.Compose([v2.RandomHorizontalFlip(1), RECIPE]),
        v2.Compose([v2.SanitizeBoundingBoxes(min_size=5), RECIPE]),
        v2.Compose([picked([4, 2, 6, 5]), RECIPE, v2.SanitizeBoundingBoxes()]),
        v2.Compose([RECIPE, picked([3, 0]), v2.Resize((60, 90))]),
    ],
    ids=["then", "then picked", "after a flip", "after sanitizing", "after picking", "in between"],
)
def test_masks_go_with_their_labels_through_recipes_in_chains(chain: Any) -> None:
    assert 1 < len(checked_labels(chain)) < COUNT


def test_a_recipe_moves_decoded_masks_as_stored_ones_of_pixels() -> None:
    """What it makes of masks that are pixels already, as after other transforms."""
    masks = torch.zeros(2, 48, 64, dtype=torch.uint8)
    masks[0, 10:20, 30:45], masks[1, 40:48, 60:64] = 1, 1
    boxes = torch.tensor([[30.0, 10, 45, 20], [60, 40, 64, 48]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
    image = tv_tensors.Image(torch.zeros(3, 48, 64, dtype=torch.uint8))
    _, found = RECIPE(image, target)
    assert isinstance(found["masks"], tv_tensors.Mask)
    assert found["masks"].shape == (1, 45, 60)
    rows, columns = np.nonzero(found["masks"][0].numpy())
    assert (rows.min(), rows.max() + 1) == (7, 22), "as nearest pixels lie"
    assert [columns.min(), columns.max() + 1] == found["boxes"][0, [0, 2]].round().tolist()


def broken(**changes: Any) -> Any:
    def bad(image: Any, target: Any) -> Any:
        return image, {**target, **{name: make(target) for name, make in changes.items()}}

    return bad


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        (broken(masks=lambda t: t["masks"][:3]), "'masks' are (3, 48, 64), not (12, 48, 64)"),
        (broken(masks=lambda t: t["masks"][:, :9]), "'masks' are (12, 9, 64), not (12, 48, 64)"),
        (broken(masks=lambda t: t["labels"][0]), "'masks' are (), not (12, 48, 64)"),
        (broken(masks=lambda t: t.get("none")), "'masks' are NoneType, not (12, 48, 64)"),
    ],
)
def test_masks_that_fit_no_label_are_refused(transform: Any, problem: str) -> None:
    with pytest.raises(SampleError) as caught:
        load(transform, outlined(), task="instances")
    hint = "index target['labels'] (or 'masks') where you drop boxes"
    place = f"{PLACE}, by transform 'bad'"
    assert str(caught.value) == f"{place}: after the transform {problem}; {hint}"


def test_flags_of_crowds_that_fit_no_label_are_refused_and_none_are_filled_in() -> None:
    def shorter(target: Any) -> Any:
        return target["labels"].clone()[:2]

    changes: dict[str, Any] = {
        "boxes": lambda t: t["boxes"][:2],
        "labels": shorter,
        "difficult": lambda t: t["difficult"][:2],
    }
    with pytest.raises(SampleError, match="'iscrowd' does not match the labels; index target"):
        load(broken(**changes), outlined())
    target = load(broken(**changes), sample_of()).target
    assert target["iscrowd"].tolist() == [0, 0]
    made = load(lambda image, target: (image, {**target, "iscrowd": None}), outlined()).target
    assert made["iscrowd"].sum() == 4, "labels know their flags"


def test_masks_of_bool_become_uint8() -> None:
    item = load(broken(masks=lambda t: t["masks"].bool()), outlined(), task="instances")
    assert item.target["masks"].dtype == torch.uint8
    assert item.target["masks"].max() == 1


def test_presets_for_instances_are_those_of_mask_r_cnn() -> None:
    item = load(presets.instances_train(60), outlined(), task="instances")
    assert item.target["masks"].shape == (COUNT, 60, 80)
    item = load(presets.instances_eval(24), outlined(), task="instances")
    assert item.target["masks"].shape == (COUNT, 24, 32)
