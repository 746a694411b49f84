"""A recipe carries out what it draws, on pictures, masks, boxes and all values of a box."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from datamodules import ShardDataset, ShardLoader, presets
from datamodules.pixels.color import ColorChange
from datamodules.pixels.geometry import (
    Plan,
    View,
    resized_crop,
    stretch,
    zoom_out,
)
from datamodules.transforms import fused
from datamodules.transforms.fused import Drawn, FusedTransform
from shard_tool.errors import OptionError
from tests.kit.datasets.pictures import encoded, scene
from tests.kit.datasets.samples import PLACE, load, raw_of, refusal, rendered, sample_of

if TYPE_CHECKING:
    from pathlib import Path


PLAN = Plan(View(-11, 4, 90, 40), (60, 70), inner_hw=(50, 70), is_flipped=True)
CHANGE = ColorChange(brightness=1.2, contrast=0.7, hue=0.1, channels=(2, 0, 1))


def drawn_so(drawn: Drawn, size_hw: Any, boxes: Any, generator: Any) -> Drawn:
    return drawn


def test_a_picture_is_rendered_by_its_plan_colours_and_fill() -> None:
    recipe = FusedTransform(partial(drawn_so, Drawn(PLAN, CHANGE)), fill=(9, 8, 7))
    raw = raw_of(sample_of())
    expected = rendered(raw.members["jpg"], PLAN, (48, 64), change=CHANGE, fill=(9, 8, 7))
    assert torch.equal(load(recipe, raw=raw).image, expected)
    assert torch.equal(load(v2.Compose([recipe]), raw=raw).image, expected)
    without = rendered(raw.members["jpg"], PLAN, (48, 64))
    assert not torch.equal(without, expected)


def test_boxes_outside_a_crop_are_dropped() -> None:
    is_kept = np.array([True, False, True, True, False])
    drawn = Drawn(stretch(View(0, 0, 64, 48), (48, 64)), is_kept=is_kept)
    for recipe in (FusedTransform(partial(drawn_so, drawn)),):
        for transform in (recipe, v2.Compose([recipe])):
            target = load(transform).target
            assert target["labels"].tolist() == [1, 3, 4]
            assert target["difficult"].tolist() == [False, False, True]


def test_flags_are_right_after_a_transform_that_drops_boxes() -> None:
    """torchvision's transforms drop boxes but leave `difficult` at its old length."""

    def without_first(image: Any, target: Any) -> Any:
        return image, {**target, "boxes": target["boxes"][1:], "labels": target["labels"][1:]}

    def wrapped(image: Any, target: Any) -> Any:
        image, target = without_first(image, target)
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(48, 64))
        return image, {**target, "boxes": boxes}

    is_kept = np.array([True, False, True, True])
    whole = stretch(View(0, 0, 64, 48), (48, 64))
    for flags, drawn in (([1, 0, 1, 0], None), ([1, 1, 0], is_kept)):
        recipe = FusedTransform(partial(drawn_so, Drawn(whole, is_kept=drawn)))
        target = load(v2.Compose([wrapped, recipe])).target
        assert target["difficult"].int().tolist() == flags


def reversed_boxes(image: Any, target: Any) -> Any:
    rows = torch.arange(len(target["labels"])).flip(0)
    return image, {**target, "boxes": target["boxes"][rows], "labels": target["labels"][rows]}


def marking_the_second(image: Any, target: Any) -> Any:
    target["difficult"][1] = True
    return image, target


def without_the_second(image: Any, target: Any) -> Any:
    rows = [0, *range(2, len(target["labels"]))]
    return image, {**target, "boxes": target["boxes"][rows], "labels": target["labels"][rows]}


def as_xyxy(image: Any, target: Any) -> Any:
    boxes = target["boxes"].as_subclass(torch.Tensor)
    boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(image.shape[1:]))
    return image, {**target, "boxes": boxes}


CHAINS = {
    "reordered after": (lambda r: r.then(reversed_boxes), [5, 4, 3, 1], [0, 1, 0, 1]),
    "reordered after, in a chain": (
        lambda r: v2.Compose([r, reversed_boxes]),
        [5, 4, 3, 1],
        [0, 1, 0, 1],
    ),
    "reordered before": (
        lambda r: v2.Compose([reversed_boxes, as_xyxy, r]),
        [5, 3, 2, 1],
        [0, 0, 0, 1],
    ),
    "dropped after": (lambda r: r.then(without_the_second), [1, 4, 5], [1, 1, 0]),
    "changed in place after": (lambda r: r.then(marking_the_second), [1, 3, 4, 5], [1, 1, 1, 0]),
    "changed in place, in a chain": (
        lambda r: v2.Compose([r, marking_the_second]),
        [1, 3, 4, 5],
        [1, 1, 1, 0],
    ),
    "changed in place before": (
        lambda r: v2.Compose([marking_the_second, r]),
        [1, 3, 4, 5],
        [1, 0, 1, 0],
    ),
}


@pytest.mark.parametrize(("chain", "labels", "flags"), CHAINS.values(), ids=CHAINS)
def test_flags_go_with_their_labels_through_any_chain(
    chain: Any, labels: list[int], flags: list[int]
) -> None:
    """The recipe drops the second box it gets; the first and the fourth stored are difficult."""
    is_kept = np.array([True, False, True, True, True])
    drawn = Drawn(stretch(View(0, 0, 64, 48), (48, 64)), is_kept=is_kept)
    sample = sample_of(difficult=[True, False, False, True, False])
    target = load(chain(FusedTransform(partial(drawn_so, drawn))), sample).target
    assert (target["labels"].tolist(), target["difficult"].int().tolist()) == (labels, flags)


def test_all_values_of_a_box_are_dropped_with_it() -> None:
    """The recipe is called directly. `orig_size` has two numbers, but not one for each box."""
    image = tv_tensors.Image(torch.zeros(3, 48, 64, dtype=torch.uint8))
    boxes = torch.tensor([[0.0, 0, 10, 10], [30, 5, 60, 40]])
    target = {"labels": torch.tensor([1, 2]), "area": torch.tensor([100.0, 1050])}
    target |= {"iscrowd": torch.tensor([0, 1]), "orig_size": torch.tensor([48, 64])}
    for form, given in (
        ("XYXY", boxes),
        ("XYWH", torch.tensor([[0.0, 0, 10, 10], [30, 5, 30, 35]])),
        ("CXCYWH", torch.tensor([[5.0, 5, 10, 10], [45, 22.5, 30, 35]])),
    ):
        wrapped = tv_tensors.BoundingBoxes(given, format=form, canvas_size=(48, 64))
        view = stretch(View(32, 0, 32, 48), (48, 32))
        recipe = FusedTransform(partial(drawn_so, Drawn(view)))
        out, found = recipe(image, {**target, "boxes": wrapped})
        assert isinstance(out, tv_tensors.Image), "as transforms after it want to know"
        assert found["boxes"].tolist() == [[0, 5, 28, 40]]
        assert found["boxes"].canvas_size == (48, 32)
        assert (found["labels"].tolist(), found["iscrowd"].tolist()) == ([2], [1])
        assert (found["area"].tolist(), found["orig_size"].tolist()) == ([1050], [48, 64])


def shifted_by_chance(image: Any, target: Any) -> Any:
    return image ^ torch.randint(0, 256, (), dtype=torch.uint8), target


def test_a_later_transform_draws_the_same_in_any_batch(mini_dataset: Path) -> None:
    """A whole batch is drawn before it is rendered: later transforms have their own seed."""
    recipe = presets.ssd(32).then(shifted_by_chance)
    data = ShardDataset(str(mini_dataset), transform=recipe)
    found = {
        size: {
            int(sample_id): image
            for batch in ShardLoader(data, batch_size=size)
            for sample_id, image in zip(batch.sample_ids, batch.images, strict=True)
        }
        for size in (1, 16)
    }
    assert found[1].keys() == found[16].keys()
    assert all(torch.equal(image, found[1][i]) for i, image in found[16].items())
    number = next(iter(found[1]))
    assert torch.equal(data.read(number)[0], found[1][number])


def draw_out_and_crop(size_hw: Any, boxes: Any, generator: Any) -> Drawn:
    view = zoom_out(View.whole(size_hw), generator, probability=1.0)
    return Drawn(stretch(resized_crop(view, generator), (64, 64)))


def test_a_view_beside_the_picture_is_rendered() -> None:
    for number in range(100):
        assert load(FusedTransform(draw_out_and_crop), random_key=("k", number)).image.shape == (
            3,
            64,
            64,
        )


@pytest.mark.parametrize(
    "before",
    [v2.RandomEqualize(1.0), v2.RandomGrayscale(1.0), v2.GaussianBlur(3), v2.ColorJitter(0.5)],
    ids=lambda transform: type(transform).__name__,
)
def test_a_recipe_after_another_transform_renders_the_pixels_it_gets(before: Any) -> None:
    image = tv_tensors.Image(torch.from_numpy(scene(48, 64)).permute(2, 0, 1))
    changed = before(image)
    mask = tv_tensors.Mask(torch.zeros(48, 64, dtype=torch.uint8))
    found, _ = presets.resize(32)(changed, mask)
    plain = changed.as_subclass(torch.Tensor).clone(memory_format=torch.contiguous_format)
    assert torch.equal(found.as_subclass(torch.Tensor), v2.functional.resize(plain, [32, 32]))


# Generators -------------------------------------------------------------------------------------


def draw_by_the_global_generator(size_hw: Any, boxes: Any, generator: Any) -> Drawn:
    left = int(torch.randint(0, 30, ()))
    return Drawn(stretch(View(left, 0, 30, 48), (48, 30)))


def test_a_draw_from_the_global_generator_is_seeded_by_the_samples_key() -> None:
    images = []
    for number in range(2):
        torch.manual_seed(number)
        images.append(load(FusedTransform(draw_by_the_global_generator)).image)
    assert torch.equal(*images)


@wraps(presets._resize)
def draw_like_ours(size: int, size_hw: Any, boxes: Any, generator: Any) -> Drawn:
    left = int(torch.randint(0, 30, ()))
    return Drawn(stretch(View(left, 0, 30, 48), (size, size)))


def test_a_wrapper_of_a_presets_draw_may_use_the_global_generator() -> None:
    images = []
    for number in range(2):
        torch.manual_seed(number)
        images.append(load(FusedTransform(partial(draw_like_ours, 40))).image)
    assert torch.equal(*images)


def test_each_sample_draws_from_a_fresh_generator_and_each_thread_has_its_own() -> None:
    """One generator is reset for each sample and keeps nothing of the sample before."""
    key = np.arange(2, dtype=np.uint64) + 7
    fresh = np.random.Generator(np.random.Philox(key=key))
    expected = [fresh.random(3).tolist(), fresh.integers(2**31, dtype=np.int32).item()]
    for before in range(4):
        used = fused._thread_generator.keyed(np.array([before, 1], np.uint64))
        used.random(before)
        used.integers(2**31, size=before, dtype=np.int32)  # leaves half a word behind
        used.standard_normal()
        found = fused._thread_generator.keyed(key)
        assert [found.random(3).tolist(), found.integers(2**31, dtype=np.int32).item()] == expected
    theirs: list[object] = []
    thread = threading.Thread(target=lambda: theirs.append(fused._thread_generator.keyed(key)))
    thread.start()
    thread.join()
    assert theirs[0] is not fused._thread_generator.keyed(key)


# Refusals ---------------------------------------------------------------------------------------


def _drawn_to_nothing(size_hw: Any, boxes: Any, generator: Any) -> Drawn:
    return Drawn(stretch(View(0, 0, 64, 48), (0, 50)))


def test_an_impossible_plan_is_a_bad_sample() -> None:
    text = refusal(FusedTransform(_drawn_to_nothing))
    assert text.startswith(f"{PLACE}: transform 'drawn_to_nothing' raised ValueError: View(")
    assert text.endswith("sides must be whole numbers from 1")


def test_a_draw_that_does_not_return_drawn_is_refused() -> None:
    plan = stretch(View(0, 0, 9, 9), (3, 3))
    assert "it drew Plan, expected Drawn" in refusal(FusedTransform(lambda *_: plan))


UINT8 = torch.zeros(3, 48, 64, dtype=torch.uint8)
BOXES = torch.tensor([[0.0, 0, 10, 10]])
WRONG = {
    "grey": (UINT8[:1], {"boxes": BOXES}, r"not \(1, 48, 64\): v2.RGB\(\) before it"),
    "no tensor": (np.zeros((48, 64, 3)), {"boxes": BOXES}, "not ndarray: v2.PILToTensor"),
    "no boxes": (UINT8, {}, "'boxes' are NoneType"),
    "boxes of two": (UINT8, {"boxes": torch.zeros(3, 2)}, r"'boxes' are \(3, 2\), expected"),
    "no target": (UINT8, None, r"a dict, a mask \[H, W\] or labels \[C\], not NoneType"),
    "int64 mask": (UINT8, torch.zeros(48, 64).long(), "mask of uint8, not torch.int64"),
    "mask of three": (UINT8, torch.zeros(1, 48, 64).byte(), r"not \(1, 48, 64\)"),
    "small mask": (UINT8, torch.zeros(24, 32).byte(), r"a mask \(24, 32\), the picture's"),
    "another mask": (
        UINT8,
        {"boxes": BOXES, "parts": tv_tensors.Mask(torch.zeros(1, 48, 64))},
        r"not target\['parts'\]",
    ),
    "float masks": (
        UINT8,
        {"boxes": BOXES, "masks": tv_tensors.Mask(torch.zeros(1, 48, 64))},
        r"masks uint8 \[N, H, W\], not \(1, 48, 64\), torch.float32",
    ),
    "small masks": (
        UINT8,
        {"boxes": BOXES, "masks": torch.zeros(1, 24, 32).byte()},
        r"masks \(1, 24, 32\), the picture's \(H, W\) is \(48, 64\)",
    ),
    "masks of others": (
        UINT8,
        {"boxes": BOXES, "masks": torch.zeros(3, 48, 64).byte()},
        "3 masks beside 1 boxes",
    ),
    "another canvas": (
        UINT8,
        {"boxes": tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(64, 48))},
        r"boxes on \(64, 48\), the picture's \(H, W\) is \(48, 64\)",
    ),
}


@pytest.mark.parametrize(("image", "target", "message"), WRONG.values(), ids=WRONG)
def test_a_target_that_a_recipe_cannot_transform_is_refused(
    image: Any, target: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        presets.ssd(30)(image, target)


def test_a_damaged_picture_is_refused_by_name() -> None:
    broken = raw_of(sample_of(), jpg=encoded(scene(48, 64))[:400])
    assert refusal(presets.ssd(32), raw=broken).startswith(f"{PLACE}.jpg: ")


def test_a_recipe_after_other_transforms_cannot_leave_work_to_a_device() -> None:
    recipe = replace(presets.ssd(64), decode="cuda")
    image = tv_tensors.Image(torch.zeros(3, 20, 30, dtype=torch.uint8))
    with pytest.raises(OptionError, match="what follows other transforms has pixels already"):
        recipe(image, tv_tensors.Mask(torch.zeros(20, 30, dtype=torch.uint8)))
