"""Recipes given to a dataset: each draws what it documents, and boxes keep their fields."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from datamodules import ShardDataset, ShardLoader, VOCDataModule, presets
from datamodules.pixels.color import ColorChange
from datamodules.pixels.geometry import (
    Plan,
    View,
    decode_factor,
    iou_crop,
    resized_crop,
    stretch,
    zoom_out,
)
from datamodules.transforms import fused
from datamodules.transforms.fused import Drawn, FusedTransform
from datamodules.transforms.seeding import preserved_generators, seed_generators
from shard_tool.errors import OptionError
from shard_tool.keyed_random import digest_of
from tests.kit.datasets.pictures import encoded, scene, voc_mask
from tests.kit.datasets.samples import PLACE, load, raw_of, refusal, rendered, sample_of

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (375, 500)
BOX = np.array([[100, 50, 300, 250]], np.float32)
NO_BOX = np.zeros((0, 4), np.float32)
COUNT = 2000


def draws(recipe: FusedTransform, boxes: Any) -> list[Drawn]:
    generator = np.random.Generator(np.random.Philox(key=[1, 2]))
    return [recipe.draw(SIZE, boxes, generator) for _ in range(COUNT)]


def share(found: list[bool]) -> float:
    return float(np.mean(found))


def near(expected: float) -> Any:
    """Within five standard deviations of a share of so many draws."""
    return pytest.approx(expected, abs=5 * (expected * (1 - expected) / COUNT) ** 0.5)


# What each draws --------------------------------------------------------------------------------


def test_ssd_zooms_out_crops_flips_and_changes_colours() -> None:
    recipe = presets.ssd(300)
    assert recipe.fill == (123, 117, 104)
    alone, boxed = draws(recipe, NO_BOX), draws(recipe, BOX)
    zoomed = share([drawn.plan.view.width > SIZE[1] for drawn in alone])
    assert zoomed == near(0.5 * (1 - 1 / 1500))  # a factor so near 1 adds no pixel
    assert all(drawn.plan.view.left <= 0 for drawn in alone), "without boxes there is no crop"
    whole = share([drawn.plan.view == View.whole(SIZE) for drawn in boxed])
    assert 0.5 / 7 < whole < 0.5 / 4, "one of seven overlaps is no crop; some fit none"
    for name in ("brightness", "contrast", "saturation", "hue", "channels"):
        assert share([getattr(drawn.change, name) is not None for drawn in alone]) == near(0.5)
    assert share([drawn.plan.is_flipped for drawn in alone]) == near(0.5)
    assert {drawn.plan.size_hw for drawn in alone} == {(300, 300)}
    assert not all(
        drawn.is_kept.all() for drawn in draws(recipe, far_apart()) if drawn.is_kept is not None
    )


def far_apart() -> Any:
    return np.array([[0, 0, 50, 50], [440, 300, 500, 375]], np.float32)


def test_ssdlite_crops_and_flips_only() -> None:
    boxed = draws(presets.ssdlite(320), BOX)
    assert all(drawn.change.is_nothing for drawn in boxed)
    assert all(0 <= d.plan.view.left <= 500 - d.plan.view.width for d in boxed), "never beyond"
    assert 1 / 7 < share([drawn.plan.view == View.whole(SIZE) for drawn in boxed]) < 1 / 4
    assert share([drawn.plan.is_flipped for drawn in boxed]) == near(0.5)
    assert not all(
        drawn.is_kept.all()
        for drawn in draws(presets.ssdlite(), far_apart())
        if drawn.is_kept is not None
    )


def test_retinanet_keeps_the_aspect() -> None:
    for recipe, flipped in ((presets.retinanet(), 0.5), (presets.retinanet_eval(), 0)):
        found = draws(recipe, BOX)
        assert {drawn.plan.size_hw for drawn in found} == {(800, 1066)}
        assert share([drawn.plan.is_flipped for drawn in found]) == near(flipped)
    for recipe, expected in ((presets.retinanet(), (333, 1333)), (presets.retinanet(60), (24, 99))):
        drawn = recipe.draw((100, 400), BOX, np.random.default_rng(0))
        assert drawn.plan.size_hw == expected, "the longest shrinks with the shorter"


def test_random_resized_crop_takes_a_share_of_the_area() -> None:
    found = draws(presets.random_resized_crop(256), NO_BOX)
    areas = np.array([d.plan.view.width * d.plan.view.height for d in found]) / (SIZE[0] * SIZE[1])
    assert areas.min() == pytest.approx(0.5, abs=0.02)
    assert areas.max() == pytest.approx(1, abs=0.02)
    assert share([drawn.plan.is_flipped for drawn in found]) == near(0.5)


def test_the_recipe_of_imagenet_takes_a_share_of_the_area_and_a_centre() -> None:
    found = draws(presets.classification_train(), NO_BOX)
    areas = np.array([d.plan.view.width * d.plan.view.height for d in found]) / (SIZE[0] * SIZE[1])
    assert (areas.min(), areas.max()) == pytest.approx((0.08, 1), abs=0.04)
    assert share([drawn.plan.is_flipped for drawn in found]) == near(0.5)
    assert {drawn.plan.size_hw for drawn in found} == {(224, 224)}
    found = draws(presets.classification_eval(112), NO_BOX)
    assert {drawn.plan for drawn in found} == {Plan(View(86, 23, 328, 328), (112, 112))}


def test_evaluation_on_imagenet_shows_what_torchvisions_shows() -> None:
    smooth = Image.fromarray(scene(47, 63)).resize((500, 375), Image.Resampling.BICUBIC)
    raw = raw_of(sample_of([], wh=(500, 375)), jpg=encoded(smooth, quality=95))
    ours = load(presets.classification_eval(), raw=raw, task="classification").image
    stored = load(raw=raw, task="classification").image
    theirs = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(stored)
    assert float((ours.float() - theirs.float()).abs().mean()) < 2, "within a stored pixel"
    shifted = torch.roll(theirs, 3, 2).float()
    assert float((ours.float() - shifted).abs().mean()) > 6


def test_letterbox_keeps_aspects_and_is_flipped_in_training_alone() -> None:
    for recipe, flipped in ((presets.letterbox(320), 0.5), (presets.letterbox_eval(320), 0)):
        found = draws(recipe, BOX)
        assert recipe.fill == (114, 114, 114)
        assert {(d.plan.size_hw, d.plan.scaled_hw) for d in found} == {((320, 320), (240, 320))}
        assert share([drawn.plan.is_flipped for drawn in found]) == near(flipped)


def test_random_scale_crop_makes_pictures_half_to_twice_as_large() -> None:
    found = draws(presets.random_scale_crop(48), NO_BOX)
    assert {drawn.plan.size_hw for drawn in found} == {(48, 48)}
    sides = [drawn.plan.view.width for drawn in found]
    assert (min(sides), max(sides)) == (round(48 * 375 / 104), round(48 * 375 / 26))
    assert share([drawn.plan.is_flipped for drawn in found]) == near(0.5)
    assert share([drawn.plan.view.height > SIZE[0] for drawn in found]) == near(22 / 79)


@pytest.mark.parametrize(
    ("recipe", "fill"),
    [(presets.random_scale_crop(12, (0.5, 0.5)), 0), (presets.letterbox(32), 114)],
)
def test_what_lies_beyond_a_picture_is_void_in_its_mask(recipe: FusedTransform, fill: int) -> None:
    values, content = voc_mask()
    item = load(
        recipe, raw=raw_of(sample_of([], wh=(16, 12)), class_png=content), task="segmentation"
    )
    is_beyond = (item.image == fill).all(0)
    assert 0.2 < is_beyond.float().mean() < 0.8
    assert (item.target[is_beyond] == 255).all()
    assert (item.target[~is_beyond] == 255).float().mean() < 0.3
    assert set(item.target.unique().tolist()) <= {*np.unique(values).tolist(), 255}


@pytest.mark.parametrize(
    "recipe", [presets.resize(20), presets.retinanet_eval(20), presets.letterbox_eval(20)]
)
def test_in_evaluation_every_box_is_kept(recipe: FusedTransform) -> None:
    """However small it becomes."""
    boxes = [(0, 0, 1, 1), (20, 5, 60, 40), (63, 0, 64, 48)]
    assert load(recipe, sample_of(boxes)).target["labels"].tolist() == [1, 2, 3]
    train = load(presets.random_resized_crop(20, scale=(1.0, 1.0)), sample_of(boxes))
    assert train.target["labels"].tolist() == [2]


GOLDEN: dict[str, Any] = {
    "ssd": [
        ((71, 35, 393, 294), True, -0.04828709608266496, (0, 1, 2)),
        ((142, 14, 226, 355), True, None, (2, 0, 1)),
        ((145, -21, 207, 283), False, 0.04012683514418941, (1, 2, 0)),
    ],
    "ssdlite": [
        ((91, 79, 293, 197), False, None, None),
        ((169, 42, 154, 222), False, None, None),
        ((33, 32, 229, 304), False, None, None),
    ],
    "retinanet": [
        ((0, 0, 500, 375), True, None, None),
        ((0, 0, 500, 375), True, None, None),
        ((0, 0, 500, 375), True, None, None),
    ],
    "letterbox": [
        ((0, 0, 500, 375), True, None, None),
        ((0, 0, 500, 375), True, None, None),
        ((0, 0, 500, 375), True, None, None),
    ],
    "random_scale_crop": [
        ((12, 0, 472, 472), True, None, None),
        ((192, 90, 282, 282), False, None, None),
        ((17, 0, 422, 422), True, None, None),
    ],
    "imagenet": [
        ((166, 79, 200, 209), False, None, None),
        ((145, 48, 350, 282), False, None, None),
        ((212, 15, 211, 247), False, None, None),
    ],
    "random_resized_crop": [
        ((99, 18, 322, 337), False, None, None),
        ((81, 20, 416, 335), False, None, None),
        ((138, 1, 312, 365), False, None, None),
    ],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_what_a_key_draws_is_pinned(name: str) -> None:
    """Other draws break resumed runs: the changelog must say so."""
    recipe = presets.RECIPES[name]
    boxes = np.array([[100, 50, 300, 250], [20, 200, 90, 370]], np.float32)
    found = []
    for i in range(3):
        key = digest_of(("golden", i))
        with preserved_generators():
            drawn = recipe.train(recipe.size).planned(boxes, size_hw=SIZE, random_key=key).drawn
        change = drawn.change
        found.append((tuple(drawn.plan.view), drawn.plan.is_flipped, change.hue, change.channels))
    assert found == GOLDEN[name]


# Rendered ---------------------------------------------------------------------------------------

PLAN = Plan(View(-11, 4, 90, 40), (60, 70), inner_hw=(50, 70), is_flipped=True)
CHANGE = ColorChange(brightness=1.2, contrast=0.7, hue=0.1, channels=(2, 0, 1))


def drawn_so(drawn: Drawn, size_hw: Any, boxes: Any, generator: Any) -> Drawn:
    return drawn


def test_pictures_get_their_plan_colours_and_fill() -> None:
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
    """torchvision's leave `difficult` as long as it was."""

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
def test_flags_stay_with_their_labels_through_any_chain(
    chain: Any, labels: list[int], flags: list[int]
) -> None:
    """The recipe drops the second box it gets; the first and the fourth stored are difficult."""
    is_kept = np.array([True, False, True, True, True])
    drawn = Drawn(stretch(View(0, 0, 64, 48), (48, 64)), is_kept=is_kept)
    sample = sample_of(difficult=[True, False, False, True, False])
    target = load(chain(FusedTransform(partial(drawn_so, drawn))), sample).target
    assert (target["labels"].tolist(), target["difficult"].int().tolist()) == (labels, flags)


def shifted_by_chance(image: Any, target: Any) -> Any:
    return image ^ torch.randint(0, 256, (), dtype=torch.uint8), target


def test_transforms_after_a_recipe_draw_the_same_in_any_batch(mini_dataset: Path) -> None:
    """All of a batch is drawn before its pictures: what comes after has its own seed."""
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


def _drawn_to_nothing(size_hw: Any, boxes: Any, generator: Any) -> Drawn:
    return Drawn(stretch(View(0, 0, 64, 48), (0, 50)))


def test_an_impossible_plan_is_a_bad_sample() -> None:
    text = refusal(FusedTransform(_drawn_to_nothing))
    assert text.startswith(f"{PLACE}: transform 'drawn_to_nothing' raised ValueError: View(")
    assert text.endswith("sides must be whole numbers from 1")


def test_all_fields_of_a_box_stay_together() -> None:
    """Also where a recipe is called by hand; `orig_size` is as long as two boxes are many."""
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
    "masks": (
        UINT8,
        {"boxes": BOXES, "masks": tv_tensors.Mask(torch.zeros(1, 48, 64))},
        r"not target\['masks'\]",
    ),
    "another canvas": (
        UINT8,
        {"boxes": tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(64, 48))},
        r"boxes on \(64, 48\), the picture's \(H, W\) is \(48, 64\)",
    ),
}


@pytest.mark.parametrize(("image", "target", "message"), WRONG.values(), ids=WRONG)
def test_what_a_recipe_cannot_move_is_refused(image: Any, target: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        presets.ssd(30)(image, target)


def test_a_damaged_picture_is_named_as_one() -> None:
    broken = raw_of(sample_of(), jpg=encoded(scene(48, 64))[:400])
    assert refusal(presets.ssd(32), raw=broken).startswith(f"{PLACE}.jpg: ")


def draw_by_the_global_generator(size_hw: Any, boxes: Any, generator: Any) -> Drawn:
    left = int(torch.randint(0, 30, ()))
    return Drawn(stretch(View(left, 0, 30, 48), (48, 30)))


def test_a_draw_from_the_global_generator_is_by_the_samples_key_too() -> None:
    images = []
    for number in range(2):
        torch.manual_seed(number)
        images.append(load(FusedTransform(draw_by_the_global_generator)).image)
    assert torch.equal(*images)


@wraps(presets._resize)
def draw_like_ours(size: int, size_hw: Any, boxes: Any, generator: Any) -> Drawn:
    left = int(torch.randint(0, 30, ()))
    return Drawn(stretch(View(left, 0, 30, 48), (size, size)))


def test_a_wrapper_of_our_recipe_may_draw_from_the_global_generator() -> None:
    images = []
    for number in range(2):
        torch.manual_seed(number)
        images.append(load(FusedTransform(partial(draw_like_ours, 40))).image)
    assert torch.equal(*images)


def states() -> list[str]:
    """Of the global generators."""
    numpys = np.random.get_state()  # noqa: NPY002
    return [str(state) for state in (torch.get_rng_state().tolist(), numpys, random.getstate())]


RECIPES = {
    f"{name}, {when}": getattr(recipe, when)(64)
    for name, recipe in presets.RECIPES.items()
    for when in ("train", "evaluation")
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_our_recipes_draw_only_from_the_given_generator(recipe: FusedTransform) -> None:
    """So the global generators, whose seeding takes time, are not seeded for them."""
    assert recipe._is_ours
    for number in range(40):
        found, key = [], digest_of((number,))
        for seed in (1, 2):
            with preserved_generators():
                seed_generators(digest_of(("global", seed)))
                before = states()
                found.append(recipe.planned(BOX, size_hw=SIZE, random_key=key).drawn)
                assert states() == before
        first, second = found
        assert (first.plan, first.change) == (second.plan, second.change)


def test_a_draw_that_returns_something_else_is_named() -> None:
    plan = stretch(View(0, 0, 9, 9), (3, 3))
    assert "it drew Plan, expected Drawn" in refusal(FusedTransform(lambda *_: plan))


def test_fast_decoding_is_close_and_decodes_smaller_sooner() -> None:
    raw = raw_of(sample_of([], wh=(500, 375)))
    for size in (300, 224):
        exact = presets.detection_eval(size)
        fast = replace(exact, decode="fast")
        images = [load(recipe, raw=raw).image.float() for recipe in (exact, fast)]
        assert 0 < float((images[0] - images[1]).abs().mean()) < 4
    plan = stretch(View(0, 0, 500, 375), (224, 224))
    assert (decode_factor(plan, SIZE), decode_factor(plan, SIZE, fast=True)) == (1, 2)


def test_the_module_passes_on_how_to_decode(mini_dataset: Path) -> None:
    data = VOCDataModule(str(mini_dataset), decode="fast")
    loaders = (data.train_dataloader(), data.val_dataloader())
    assert {found.dataset.dataset.transform.decode for found in loaders} == {"fast"}
    for make in (
        lambda: VOCDataModule(str(mini_dataset), decode="quick"),
        lambda: replace(presets.ssd(), decode="quick"),
    ):
        with pytest.raises(
            OptionError, match=r"^decode: 'quick' is not one of 'exact', 'fast', 'cuda'$"
        ):
            make()


# Primitives that must end -----------------------------------------------------------------------


@pytest.mark.parametrize("overlaps", [(0.9,), (1.0,), (0.0, 2.0)])
def test_boxes_without_a_valid_crop_give_no_crop(overlaps: Any) -> None:
    view, generator = View(0, 0, 2000, 10), np.random.default_rng(1)
    corner = np.array([[0, 0, 2, 2]], np.float32)
    found, is_held = iou_crop(view, corner, generator, overlaps=overlaps)
    assert (found, is_held.tolist()) == (view, [True])


def test_a_crop_of_a_line_is_not_empty() -> None:
    generator = np.random.default_rng(1)
    for view in (View(0, 0, 100, 1), View(0, 0, 1, 100)):
        for aspect in ((0.1, 0.2), (5.0, 9.0)):
            found = resized_crop(view, generator, aspect=aspect)
            assert min(found.width, found.height) >= 1


def draw_out_and_crop(size_hw: Any, boxes: Any, generator: Any) -> Drawn:
    view = zoom_out(View.whole(size_hw), generator, probability=1.0)
    return Drawn(stretch(resized_crop(view, generator), (64, 64)))


def test_views_beside_the_picture_are_legal() -> None:
    for number in range(100):
        assert load(FusedTransform(draw_out_and_crop), random_key=("k", number)).image.shape == (
            3,
            64,
            64,
        )


# By name ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "recipe"), presets.RECIPES.items())
def test_the_module_takes_a_recipes_usual_size(
    mini_masks: Path, name: str, recipe: presets.Recipe
) -> None:
    task = recipe.tasks[0]
    data = VOCDataModule(str(mini_masks), transforms=name, batch_size=1, task=task)
    batch = next(iter(data.val_dataloader()))
    assert min(batch.sizes[0].tolist()) == recipe.size


def test_a_recipe_for_another_task_is_refused(mini_masks: Path) -> None:
    data = VOCDataModule(str(mini_masks), transforms="ssd")
    with pytest.raises(OptionError) as caught:
        data.train_dataloader()
    problem = "transforms: 'ssd' is for detection, the data is for segmentation"
    others = "letterbox or random_resized_crop or random_scale_crop"
    assert str(caught.value) == f"{problem}; take {others}"


@pytest.mark.parametrize("size", [0, -5, 2.5, "300", (300, 400)])
def test_a_size_that_is_no_number_of_pixels_is_refused(size: Any) -> None:
    with pytest.raises(
        OptionError, match=r"^image_size: .* is not a number of pixels from 1; give one"
    ):
        VOCDataModule("voc", image_size=size)


@pytest.mark.parametrize("transforms", [presets.ssd(30), ["ssd"], "sdd"])
def test_an_unknown_recipe_is_refused_with_the_known_ones(transforms: Any) -> None:
    with pytest.raises(OptionError, match="give transforms themselves as train_transforms"):
        VOCDataModule("voc", transforms=transforms)


def test_each_sample_draws_like_a_new_philox_and_each_thread_has_its_own() -> None:
    """One generator is reset for each sample: nothing of the sample before may be left in it."""
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


WRONG = {
    "no pixels": (lambda: presets.ssd(0), "size: 0 is not a number of pixels from 1"),
    "a pair": (
        lambda: presets.letterbox((32, 64)),
        "size: (32, 64) is not a number of pixels from 1",
    ),
    "true": (lambda: presets.retinanet(True), "size: True is not a number of pixels from 1"),
    "per cent": (
        lambda: presets.random_resized_crop(64, (50, 100)),
        "scale: (50, 100) is not a range within 0 … 1",
    ),
    "backwards": (
        lambda: presets.random_scale_crop(64, (2.0, 0.5)),
        "scale: (2.0, 0.5) is not a range within 0 … 100",
    ),
    "two channels": (
        lambda: FusedTransform(presets.ssd().draw, fill=(0, 300, 0)),
        "fill: (0, 300, 0) is not three whole numbers of 0 … 255",
    ),
    "twice": (
        lambda: presets.multi_scale(lambda n: presets.multi_scale(presets.ssd, [n]), [32]),
        "multi_scale: one is inside another; give all sizes to one",
    ),
}


@pytest.mark.parametrize(("make", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused_where_a_recipe_is_made(make: Any, expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    assert str(caught.value).split("\n")[0] == expected


def test_a_recipe_after_other_transforms_leaves_nothing_to_a_device() -> None:
    recipe = replace(presets.ssd(64), decode="cuda")
    image = tv_tensors.Image(torch.zeros(3, 20, 30, dtype=torch.uint8))
    with pytest.raises(OptionError, match="what follows other transforms has pixels already"):
        recipe(image, tv_tensors.Mask(torch.zeros(20, 30, dtype=torch.uint8)))


@pytest.mark.parametrize(
    "before",
    [v2.RandomEqualize(1.0), v2.RandomGrayscale(1.0), v2.GaussianBlur(3), v2.ColorJitter(0.5)],
    ids=lambda transform: type(transform).__name__,
)
def test_a_recipe_follows_any_transform_with_the_pixels_it_was_given(before: Any) -> None:
    image = tv_tensors.Image(torch.from_numpy(scene(48, 64)).permute(2, 0, 1))
    changed = before(image)
    mask = tv_tensors.Mask(torch.zeros(48, 64, dtype=torch.uint8))
    found, _ = presets.resize(32)(changed, mask)
    plain = changed.as_subclass(torch.Tensor).clone(memory_format=torch.contiguous_format)
    assert torch.equal(found.as_subclass(torch.Tensor), v2.functional.resize(plain, [32, 32]))
