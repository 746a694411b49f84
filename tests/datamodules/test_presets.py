"""Presets: each recipe draws what its docstring says, and refuses wrong arguments."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from datamodules import VOCDataModule, presets
from datamodules.pixels.geometry import (
    Plan,
    View,
    decode_factor,
    stretch,
)
from datamodules.transforms.fused import Drawn, FusedTransform
from datamodules.transforms.seeding import preserved_generators, seed_generators
from shard_tool.errors import OptionError
from shard_tool.keyed_random import digest_of
from tests.kit.datasets.pictures import encoded, scene, voc_mask
from tests.kit.datasets.samples import load, raw_of, sample_of

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
    """A share within five standard deviations of the expected one, over COUNT draws."""
    return pytest.approx(expected, abs=5 * (expected * (1 - expected) / COUNT) ** 0.5)


# What each recipe draws -------------------------------------------------------------------------


@pytest.mark.slow
def test_ssd_zooms_out_crops_flips_and_changes_colours() -> None:
    recipe = presets.ssd(300)
    assert recipe.fill == (123, 117, 104)
    alone, boxed = draws(recipe, NO_BOX), draws(recipe, BOX)
    zoomed = share([drawn.plan.view.width > SIZE[1] for drawn in alone])
    assert zoomed == near(0.5 * (1 - 1 / 1500))  # a factor this close to 1 adds no pixel
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


@pytest.mark.slow
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


def test_classification_crops_a_share_of_the_area_in_training_and_the_centre_in_evaluation() -> (
    None
):
    found = draws(presets.classification_train(), NO_BOX)
    areas = np.array([d.plan.view.width * d.plan.view.height for d in found]) / (SIZE[0] * SIZE[1])
    assert (areas.min(), areas.max()) == pytest.approx((0.08, 1), abs=0.04)
    assert share([drawn.plan.is_flipped for drawn in found]) == near(0.5)
    assert {drawn.plan.size_hw for drawn in found} == {(224, 224)}
    found = draws(presets.classification_eval(112), NO_BOX)
    assert {drawn.plan for drawn in found} == {Plan(View(86, 23, 328, 328), (112, 112))}


def test_classification_eval_agrees_with_torchvision() -> None:
    smooth = Image.fromarray(scene(47, 63)).resize((500, 375), Image.Resampling.BICUBIC)
    raw = raw_of(sample_of([], wh=(500, 375)), jpg=encoded(smooth, quality=95))
    ours = load(presets.classification_eval(), raw=raw, task="classification").image
    stored = load(raw=raw, task="classification").image
    theirs = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(stored)
    assert float((ours.float() - theirs.float()).abs().mean()) < 2, "within a stored pixel"
    shifted = torch.roll(theirs, 3, 2).float()
    assert float((ours.float() - shifted).abs().mean()) > 6


def test_letterbox_keeps_the_aspect_and_flips_only_in_training() -> None:
    for recipe, flipped in ((presets.letterbox(320), 0.5), (presets.letterbox_eval(320), 0)):
        found = draws(recipe, BOX)
        assert recipe.fill == (114, 114, 114)
        assert {(d.plan.size_hw, d.plan.scaled_hw) for d in found} == {((320, 320), (240, 320))}
        assert share([drawn.plan.is_flipped for drawn in found]) == near(flipped)


def test_random_scale_crop_scales_pictures_by_a_half_to_two() -> None:
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
def test_a_mask_is_void_beyond_its_picture(recipe: FusedTransform, fill: int) -> None:
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
def test_evaluation_keeps_every_box(recipe: FusedTransform) -> None:
    """A box is kept however small it becomes."""
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
def test_the_draws_of_a_key_do_not_change(name: str) -> None:
    """A changed draw breaks resuming older checkpoints: the changelog must say so."""
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


def states() -> list[str]:
    """The states of the global generators."""
    numpys = np.random.get_state()  # noqa: NPY002
    return [str(state) for state in (torch.get_rng_state().tolist(), numpys, random.getstate())]


RECIPES = {
    f"{name}, {when}": getattr(recipe, when)(64)
    for name, recipe in presets.RECIPES.items()
    for when in ("train", "evaluation")
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_draw_only_from_the_generator_they_are_given(recipe: FusedTransform) -> None:
    """The global generators are not seeded for them, because seeding takes time."""
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


def test_fast_decoding_is_close_to_exact_and_decodes_at_half_size_sooner() -> None:
    raw = raw_of(sample_of([], wh=(500, 375)))
    for size in (300, 224):
        exact = presets.detection_eval(size)
        fast = replace(exact, decode="fast")
        images = [load(recipe, raw=raw).image.float() for recipe in (exact, fast)]
        assert 0 < float((images[0] - images[1]).abs().mean()) < 4
    plan = stretch(View(0, 0, 500, 375), (224, 224))
    assert (decode_factor(plan, SIZE), decode_factor(plan, SIZE, fast=True)) == (1, 2)


def test_the_module_gives_its_recipes_decode_and_refuses_unknown_values(mini_dataset: Path) -> None:
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


# Recipes by name --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "recipe"), presets.RECIPES.items())
def test_the_module_uses_the_usual_size_of_a_recipe(
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
    problem = "transforms: 'ssd' is for detection and instances, the data is for segmentation"
    others = "letterbox or random_resized_crop or random_scale_crop"
    assert str(caught.value) == f"{problem}; take {others}"


@pytest.mark.parametrize("size", [0, -5, 2.5, "300", (300, 400)])
def test_an_invalid_image_size_is_refused(size: Any) -> None:
    with pytest.raises(
        OptionError, match=r"^image_size: .* is not a number of pixels from 1; give one"
    ):
        VOCDataModule("voc", image_size=size)


@pytest.mark.parametrize("transforms", [presets.ssd(30), ["ssd"], "sdd"])
def test_transforms_that_are_not_a_recipes_name_are_refused_with_the_way_out(
    transforms: Any,
) -> None:
    with pytest.raises(OptionError, match="give transforms themselves as train_transforms"):
        VOCDataModule("voc", transforms=transforms)


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
def test_wrong_arguments_are_refused_when_a_recipe_is_made(make: Any, expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    assert str(caught.value).split("\n")[0] == expected
