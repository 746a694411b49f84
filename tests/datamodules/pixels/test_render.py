"""Rendering by a plan, compared with torchvision's steps one after the other."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from datamodules import ShardDataset, ShardLoader, presets
from datamodules.pixels.color import ColorChange
from datamodules.pixels.decode import decode_image, decode_scaled
from datamodules.pixels.geometry import Plan, View, decode_factor, letterbox, stretch
from datamodules.pixels.render import VOID, render, render_mask
from datamodules.transforms.fused import Drawn, FusedTransform
from shard_tool.errors import SampleError
from tests.datamodules.pixels.test_geometry import cases, through_torchvision
from tests.kit.datasets.pictures import encoded, scene
from tests.kit.datasets.samples import PLACE, load, raw_of, refusal, rendered, sample_of, with_mask
from tests.kit.models.recorder import digest

if TYPE_CHECKING:
    from pathlib import Path

FILL = (123, 117, 104)
SIZE = (375, 500)


pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"  # the machine may have fewer cores
)


@pytest.fixture(scope="module")
def picture() -> tuple[bytes, torch.Tensor]:
    """A JPEG of 500 x 375 px, and its pixels uint8 [3, H, W].

    With the spectrum of photographs (amplitudes fall as 1 / frequency: Field 1987), which bounds on
    mean errors are about: noise would differ more, a gradient not at all.
    """
    source = np.random.default_rng(4)
    across, down = np.meshgrid(np.fft.fftfreq(SIZE[1]), np.fft.fftfreq(SIZE[0]))
    fall = 1 / np.maximum(np.hypot(across, down), 1 / SIZE[1])
    waves = np.fft.fft2(source.standard_normal((3, *SIZE))) * fall
    channels = np.fft.ifft2(waves).real
    channels = 0.7 * channels.mean(0) * 3**0.5 + 0.3 * channels
    levels = 120 + 55 * channels / channels.std()
    content = encoded(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0), quality=90)
    return content, decode_image(content, place="").contiguous()


def in_steps(pixels: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Pad, crop, resize, pad, flip: what torchvision's transforms would do."""
    view, (height, width) = plan.view, plan.scaled_hw
    below, right = (
        view.top + view.height - pixels.shape[1],
        view.left + view.width - pixels.shape[2],
    )
    margin = max(0, -view.top, -view.left, below, right)
    big = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].expand(
        3, pixels.shape[1] + 2 * margin, pixels.shape[2] + 2 * margin
    )
    big = big.clone()
    big[:, margin : margin + pixels.shape[1], margin : margin + pixels.shape[2]] = pixels
    part = tvf.crop(big, view.top + margin, view.left + margin, view.height, view.width)
    part = tvf.resize(part, [height, width], antialias=True)
    output = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].repeat(1, *plan.size_hw)
    output[:, :height, :width] = part
    return tvf.horizontal_flip(output) if plan.is_flipped else output


def mean_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert (found.dtype, found.shape) == (torch.uint8, expected.shape)
    return float((found.float() - expected.float()).abs().mean())


PLANS = {
    "whole": stretch(View(0, 0, 500, 375), (300, 300)),
    "flipped": Plan(View(0, 0, 500, 375), (300, 300), is_flipped=True),
    "crop": stretch(View(120, 31, 203, 310), (300, 300)),
    "enlarged": stretch(View(200, 100, 60, 40), (240, 320)),
    "as it is": stretch(View(10, 20, 300, 200), (200, 300)),
    "letterbox": letterbox(View(0, 0, 500, 375), 320),
    "flipped letterbox": Plan(View(0, 0, 500, 375), (320, 320), (240, 320), is_flipped=True),
    "zoomed out": stretch(View(-150, -40, 700, 560), (300, 300)),
    "out and cropped": Plan(View(-90, 60, 400, 350), (300, 300), is_flipped=True),
}
SHRINKING = {
    "whole, by 2": lambda h, w: stretch(View(0, 0, w, h), (h * 10 // 31, w * 10 // 31)),
    "whole, by 4": lambda h, w: stretch(View(0, 0, w, h), (h * 10 // 62, w * 10 // 62)),
    "whole, by 8": lambda h, w: stretch(View(0, 0, w, h), (h * 10 // 124, w * 10 // 124)),
    "a crop by 2": lambda h, w: stretch(View(33, 15, w - 63, h - 42), (h // 4, w // 4)),
    "out by 2": lambda h, w: Plan(
        View(-77, -55, w + 150, h + 99), (h // 3, w // 3), is_flipped=True
    ),
    "out by 4": lambda h, w: stretch(View(-99, -80, w + 180, h + 220), (h // 5, w // 5)),
}
"""By (height, width) of a picture."""


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_pixels_are_those_of_torchvisions_steps(
    picture: tuple[bytes, torch.Tensor], plan: Plan
) -> None:
    content, pixels = picture
    found = rendered(content, plan, SIZE, fill=FILL)
    view = plan.view
    is_inside = min(view.left, view.top) >= 0 and view.left + view.width <= 500
    error = mean_error(found, in_steps(pixels, plan))
    assert error < (0.02 if is_inside else 1)
    assert found.stride()[0] == 1, "channels last"


@pytest.mark.slow
@pytest.mark.parametrize("plan_of", SHRINKING.values(), ids=SHRINKING)
def test_pixels_of_photographs_decoded_smaller_are_close(voc_sample: Path, plan_of: Any) -> None:
    """Most photographs' sides are no multiples of 8: what is decoded smaller reaches beyond."""
    errors = []
    for path in sorted(voc_sample.rglob("*.jpg"))[:40]:
        content = path.read_bytes()
        pixels = decode_image(content, place="").contiguous()
        size_hw = (pixels.shape[1], pixels.shape[2])
        plan = plan_of(*size_hw)
        assert decode_factor(plan, size_hw) > 1
        found = rendered(content, plan, size_hw, fill=FILL)
        shown = tvf.to_image(np.full((*size_hw, 3), 255, np.uint8))
        is_shown = (in_steps(shown, plan) != torch.tensor(FILL)[:, None, None]).any(0)
        expected = in_steps(pixels, plan)
        errors.append(mean_error(found[:, is_shown], expected[:, is_shown]))
    assert len(errors) >= 10
    assert np.mean(errors) < 2


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(cases())
def test_masks_are_those_of_torchvisions_steps(case: Any) -> None:
    (height, width), _, plan = case
    mask = torch.from_numpy(np.arange(height * width).reshape(height, width) % 21).to(torch.uint8)
    found, expected = render_mask(mask, plan), through_torchvision(mask, plan, fill=VOID)
    rows = is_between(plan.view.height, plan.scaled_hw[0], plan.size_hw[0])
    columns = is_between(plan.view.width, plan.scaled_hw[1], plan.size_hw[1])
    if plan.is_flipped:
        columns = columns[::-1]
    differs = (found != expected).numpy()
    assert not differs[~rows][:, ~columns].any()


def is_between(length: int, scaled: int, full: int) -> np.ndarray:
    """bool [full]: centres that fall between two stored pixels, where float32 may take either."""
    centres = (np.arange(full) + 0.5) * length / scaled
    return np.abs(centres - np.rint(centres)) < 1e-4


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(cases())
def test_any_view_of_any_picture_is_rendered(case: Any) -> None:
    (height, width), _, plan = case
    pixels = torch.full((height, width, 3), 200, dtype=torch.uint8)
    found = render(pixels, plan, (height, width), fill=(1, 2, 3))
    assert found.shape == (3, *plan.size_hw)
    low, high = found.flatten(1).min(1).values, found.flatten(1).max(1).values
    assert (low >= torch.tensor([1, 2, 3])).all()
    assert (high <= 200).all()
    if not plan.view.meets((height, width)):
        assert (found == torch.tensor([1, 2, 3])[:, None, None]).all()
    if plan.view == View(0, 0, width, height) and plan.scaled_hw == plan.size_hw:
        assert (found == 200).all()


BESIDE = {
    "right": View(40, 0, 30, 30),
    "left": View(-30, 0, 30, 30),
    "above": View(0, -35, 30, 30),
    "below": View(5, 400, 9, 3),
}


@pytest.mark.parametrize("view", BESIDE.values(), ids=BESIDE)
def test_a_view_beside_the_picture_shows_none_of_it(view: View) -> None:
    """Nothing is decoded either."""
    found = rendered(b"no JPEG", stretch(view, (30, 20)), (60, 40), fill=(1, 2, 3))
    assert (found == torch.tensor([1, 2, 3])[:, None, None]).all()


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("flipped", [False, True])
def test_the_edges_of_a_picture_decoded_smaller_are_its_own(factor: int, flipped: bool) -> None:
    """Its last pixels may cover less than others: the rest repeats them and is not filled."""
    for height, width in [(375, 500), (371, 333), (281, 499)]:
        pixels = torch.full((-(-height // factor), -(-width // factor), 3), 200, dtype=torch.uint8)
        size_hw = (int(height / factor / 1.6), int(width / factor / 1.6))
        for view in (View(0, 0, width, height), View(width // 3, height // 3, width // 2, 99)):
            plan = Plan(view, size_hw, is_flipped=flipped)
            assert (render(pixels, plan, (height, width), fill=(1, 2, 3)) == 200).all()


@pytest.mark.parametrize("left", [-23, 17, 16])
def test_views_of_less_than_half_an_output_pixel_are_rendered(left: int) -> None:
    """Less than half an output pixel of the picture is in view."""
    pixels = torch.full((54, 18, 3), 200, dtype=torch.uint8)
    found = render(pixels, stretch(View(left, 5, 35, 29), (24, 1)), (54, 18), fill=(1, 2, 3))
    assert found.shape == (3, 24, 1)
    assert int(found.max()) > 3


@pytest.mark.slow
@given(
    st.integers(20, 60), st.integers(0, 200), st.integers(0, 200), st.integers(60, 300), st.data()
)
@settings(max_examples=200, deadline=None)
def test_fill_keeps_its_colour(
    side: int, left: int, top: int, more: int, data: st.DataObject
) -> None:
    """But for the output pixels that the picture's edge crosses, and contrast is about the rest."""
    view = View(-left, -top, side + left + more, side + top + more)
    plan = Plan(view, (224, 300), is_flipped=data.draw(st.booleans()))
    change = ColorChange(brightness=1.5, contrast=0.5)
    pixels = torch.full((side, side, 3), 100, dtype=torch.uint8)
    found = render(pixels, plan, (side, side), change=change, fill=FILL)
    shown = plan.boxes(np.array([[0, 0, side, side]], np.float32))[0]
    low = np.floor(shown[:2] - 0.01).clip(0).astype(int)
    high = np.ceil(shown[2:] + 0.01).astype(int)
    is_fill = torch.ones(224, 300, dtype=torch.bool)
    is_fill[low[1] : high[1], low[0] : high[0]] = False
    assert (found[:, is_fill] == torch.tensor(FILL)[:, None]).all()
    inner = found[:, low[1] + 2 : high[1] - 2, low[0] + 2 : high[0] - 2].float()
    if inner.numel():
        assert abs(float(inner.mean()) - 150) < 8, "a few pixels of the edge are of fill"


def test_pixels_of_another_picture_are_refused() -> None:
    with pytest.raises(ValueError, match=r"are not those of a picture of \(H, W\) = \(40, 20\)"):
        render(
            torch.zeros(40, 21, 3, dtype=torch.uint8), stretch(View(0, 0, 9, 9), (3, 3)), (40, 20)
        )


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_other_formats_are_decoded_whole(factor: int) -> None:
    file = io.BytesIO()
    Image.fromarray(scene(20, 30)).save(file, "PNG")
    assert decode_scaled(file.getvalue(), factor, place="").shape == (20, 30, 3)


# As a transform ---------------------------------------------------------------------------------


def draw_left_half(size_hw: tuple[int, int], boxes: Any, generator: Any) -> Drawn:
    return Drawn(stretch(View(0, 0, size_hw[1] // 2, size_hw[0]), (24, 32)))


def test_boxes_labels_and_flags_stay_together() -> None:
    sample = sample_of()
    item = load(FusedTransform(draw_left_half), sample=sample)
    expected = [i for i, o in enumerate(sample.objects) if o.bbox and o.bbox[0] < 32]
    assert item.target["labels"].tolist() == [sample.objects[i].label for i in expected]
    flags = [bool(sample.objects[i].difficult) for i in expected]
    assert item.target["difficult"].tolist() == flags
    assert item.target["boxes"][0].tolist() == [0, 0, 10, 5]
    assert item.image.shape == (3, 24, 32)
    assert (item.sample_id, item.orig_size) == (17, (48, 64))


def draw_corner(size_hw: tuple[int, int], boxes: Any, generator: Any) -> Drawn:
    return Drawn(stretch(View(62, 0, 2, 2), (8, 8)))


def test_a_picture_without_boxes_left_is_legal() -> None:
    item = load(FusedTransform(draw_corner))
    assert item.target["boxes"].shape == (0, 4)
    assert item.target["labels"].shape == item.target["difficult"].shape == (0,)


def test_a_recipe_does_the_same_to_a_decoded_picture() -> None:
    fused = FusedTransform(draw_left_half)
    item, in_a_chain = load(fused), load(v2.Compose([fused]))
    assert torch.equal(item.image, in_a_chain.image)
    for name in ("boxes", "labels", "difficult"):
        assert torch.equal(item.target[name], in_a_chain.target[name])


def test_a_recipe_after_other_transforms_and_before_others() -> None:
    chain = v2.Compose([v2.RandomHorizontalFlip(1.0), presets.ssd(32).then(v2.GaussianBlur(3))])
    item = load(chain)
    assert item.image.shape == (3, 32, 32)
    plain = load(presets.detection_eval(32))
    then = load(presets.detection_eval(32).then(v2.RandomHorizontalFlip(1.0)))
    assert torch.equal(then.image, plain.image.flip(2))
    assert torch.equal(then.target["boxes"][:, [2, 0]], 32 - plain.target["boxes"][:, [0, 2]])


def test_a_recipe_after_a_conversion_to_float_is_refused_with_a_hint() -> None:
    chain = v2.Compose([v2.ToDtype(torch.float32, scale=True), presets.ssd(32)])
    expected = "a recipe takes uint8 [3, H, W], not torch.float32: convert to float after it"
    assert f"raised TypeError: {expected}" in refusal(chain)


def test_transforms_after_a_recipe_draw_by_the_samples_key() -> None:
    jitter = presets.detection_eval(32).then(v2.ColorJitter(0.5))
    images = [load(jitter, random_key=("k", i)).image for i in (1, 1, 2)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


@pytest.mark.parametrize("make", [presets.ssd, presets.detection_train, presets.retinanet])
def test_a_recipe_draws_by_the_samples_key_alone(make: Any) -> None:
    """Twice the same, whatever happened before; and another key draws otherwise."""
    items = []
    for key in (1, 1, 2, 3, 4, 5):
        torch.manual_seed(len(items))
        items.append(load(make(40), random_key=("k", key)))
    assert torch.equal(items[0].image, items[1].image)
    assert torch.equal(items[0].target["boxes"], items[1].target["boxes"])
    assert any(not torch.equal(items[0].image, item.image) for item in items[2:])


def test_masks_follow_their_picture() -> None:
    values, raw = with_mask()
    item = load(presets.segmentation_eval(12), task="segmentation", raw=raw)
    assert item.target.shape == (12, 12)
    assert set(item.target.unique().tolist()) <= set(np.unique(values).tolist())
    plan = stretch(View(0, 0, values.shape[1], values.shape[0]), (12, 12))
    assert torch.equal(item.target, render_mask(torch.from_numpy(values), plan))


def test_a_bad_picture_is_a_bad_sample() -> None:
    broken = raw_of(sample_of(), jpg=b"no picture")
    assert refusal(presets.ssd(32), raw=broken) == f"{PLACE}.jpg: is not a picture"
    other = raw_of(sample_of(), jpg=encoded(scene(48, 65)))
    expected = f"{PLACE}.jpg: is 65 x 48 px, the JSON says 64 x 48"
    assert refusal(presets.ssd(32), raw=other) == expected


def failing(size_hw: tuple[int, int], boxes: Any, generator: Any) -> Drawn:
    raise KeyError(*size_hw)


def test_a_recipe_that_fails_is_named() -> None:
    with pytest.raises(SampleError, match="transform 'failing' raised KeyError"):
        load(FusedTransform(failing))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_a_recipe_gives_the_same_pixels_with_any_number_of_workers(
    mini_dataset: Path, num_workers: int
) -> None:
    def digests(count: int, **options: Any) -> list[str]:
        data = ShardDataset(str(mini_dataset), transform=presets.ssd(64), seed=3)
        loader = ShardLoader(data, batch_size=4, num_workers=count, **options)
        return [digest(batch) for batch in loader]

    context = {"multiprocessing_context": "forkserver"} if num_workers == 3 else {}
    assert digests(num_workers, **context) == digests(0)


def test_recipes_reach_spawned_workers() -> None:
    import pickle

    for recipe in presets.RECIPES.values():
        for transform in (recipe.train(32), recipe.evaluation(32)):
            again = pickle.loads(pickle.dumps(transform))
            assert isinstance(again.draw, partial)
            assert torch.equal(load(again).image, load(transform).image)
