"""Views and plans are drawn, and boxes moved, as torchvision's own transforms do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from datamodules.pixels.geometry import (
    Plan,
    View,
    center_crop,
    decode_factor,
    flip,
    iou_crop,
    kept_boxes,
    letterbox,
    resized_crop,
    scaled_crop,
    short_side,
    stretch,
    zoom_out,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

HALF = 0.5 + 1e-4
"""A rectangle of whole pixels is at most this far from the one it stands for."""


def generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(list(key)))


def boxes_of(*boxes: tuple[float, float, float, float]) -> NDArray[np.float32]:
    return np.array(boxes, np.float32).reshape(-1, 4)


# Boxes against masks ----------------------------------------------------------------------------


@st.composite
def cases(draw: Any) -> tuple[tuple[int, int], tuple[int, int, int, int], Plan]:
    """A picture's size, a box of whole pixels in it, and any plan of it."""
    height, width = draw(st.tuples(*[st.integers(4, 60)] * 2))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    left, top = draw(st.integers(-40, width - 1)), draw(st.integers(-40, height - 1))
    view = View(left, top, draw(st.integers(1, 120)), draw(st.integers(1, 120)))
    inner = draw(st.tuples(*[st.integers(1, 90)] * 2))
    size = (inner[0] + draw(st.integers(0, 9)), inner[1] + draw(st.integers(0, 9)))
    plan = Plan(view, size, inner if size != inner else None, is_flipped=draw(st.booleans()))
    return (height, width), (x0, y0, x1, y1), plan


def through_torchvision(mask: torch.Tensor, plan: Plan, fill: int = 0) -> torch.Tensor:
    """The plan step by step: pad and crop, resize by nearest neighbour, pad, flip."""
    view, (height, width) = plan.view, plan.scaled_hw
    big = tvf.pad(mask[None], [200, 200, 200, 200], fill=fill)
    part = tvf.crop(big, view.top + 200, view.left + 200, view.height, view.width)
    part = tvf.resize(part, [height, width], interpolation=v2.InterpolationMode.NEAREST_EXACT)
    rest = [0, 0, plan.size_hw[1] - width, plan.size_hw[0] - height]
    part = tvf.pad(part, rest, fill=fill)
    return (tvf.horizontal_flip(part) if plan.is_flipped else part)[0]


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(cases())
@example(((10, 10), (0, 0, 10, 10), Plan(View(0, 0, 10, 10), (7, 13))))
@example(((10, 10), (9, 9, 10, 10), Plan(View(0, 0, 10, 10), (90, 90), is_flipped=True)))
@example(((10, 10), (3, 3, 4, 4), Plan(View(-5, -5, 20, 20), (80, 80))))
def test_boxes_move_like_masks_of_them(
    case: tuple[tuple[int, int], tuple[int, int, int, int], Plan],
) -> None:
    (height, width), (x0, y0, x1, y1), plan = case
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[y0:y1, x0:x1] = 1
    (found,) = plan.boxes(boxes_of((x0, y0, x1, y1)))
    rows, columns = torch.nonzero(through_torchvision(mask, plan), as_tuple=True)
    if not len(rows):  # narrower than a pixel, or not in the view
        assert (found[2:] - found[:2]).min() <= 1 + 1e-4
        return
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(found - np.array(expected, np.float32)).max() <= HALF
    assert (found[:2] >= 0).all()
    assert (found[2:] <= [plan.size_hw[1], plan.size_hw[0]]).all()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_visible_share_of_a_box_is_that_of_its_mask(
    case: tuple[tuple[int, int], tuple[int, int, int, int], Plan],
) -> None:
    _, (x0, y0, x1, y1), plan = case
    view = plan.view
    rows = sum(view.top <= y < view.top + view.height for y in range(y0, y1))
    columns = sum(view.left <= x < view.left + view.width for x in range(x0, x1))
    expected = rows * columns / ((y1 - y0) * (x1 - x0))
    assert plan.visible(boxes_of((x0, y0, x1, y1))) == pytest.approx(expected)


def test_a_plan_of_no_boxes_gives_none() -> None:
    plan = stretch(View(0, 0, 10, 10), (5, 5))
    moved, is_kept = kept_boxes(plan, boxes_of(), min_visible=0.5)
    assert moved.shape == (0, 4)
    assert is_kept.shape == (0,)


def test_small_and_hardly_visible_boxes_are_dropped() -> None:
    plan = stretch(View(0, 0, 100, 100), (50, 50))
    boxes = boxes_of((0, 0, 100, 100), (10, 10, 11, 90), (90, 0, 190, 100), (150, 0, 180, 9))
    assert kept_boxes(plan, boxes)[1].tolist() == [True, False, True, False]
    assert kept_boxes(plan, boxes, min_size=0.5)[1].tolist() == [True, True, True, False]
    assert kept_boxes(plan, boxes, min_visible=0.2)[1].tolist() == [True, False, False, False]
    assert kept_boxes(plan, boxes, min_size=0)[1].tolist() == [True] * 4


# Plans ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "short", "longest", "expected"),
    [
        (View(0, 0, 500, 375), 800, 1333, (800, 1066)),
        (View(0, 0, 375, 500), 800, 1333, (1066, 800)),
        (View(0, 0, 500, 100), 800, 1333, (266, 1333)),
        (View(3, 5, 500, 375), 64, 1333, (64, 85)),
    ],
)
def test_the_shorter_side_is_scaled_as_torchvision_does(
    view: View, short: int, longest: int, expected: tuple[int, int]
) -> None:
    assert short_side(view, short, longest).size_hw == expected
    image = torch.zeros(3, view.height, view.width, dtype=torch.uint8)
    theirs = tvf.resize(image, [short], max_size=longest).shape[1:]
    assert np.abs(np.array(theirs) - expected).max() <= 1


def test_a_letterbox_keeps_the_aspect_and_fills_the_rest() -> None:
    plan = letterbox(View(0, 0, 500, 375), 300)
    assert (plan.size_hw, plan.scaled_hw) == ((300, 300), (225, 300))
    (whole,) = plan.boxes(boxes_of((0, 0, 500, 375)))
    assert whole.tolist() == [0, 0, 300, 225]
    flipped = Plan(plan.view, plan.size_hw, plan.inner_hw, is_flipped=True)
    tall = letterbox(View(0, 0, 375, 500), 300)
    assert flipped.boxes(boxes_of((0, 0, 250, 375)))[0].tolist() == [150, 0, 300, 225]
    assert tall.scaled_hw == (300, 225)


@pytest.mark.parametrize(
    ("view", "factor"),
    [
        (View(0, 0, 500, 375), 1),
        (View(0, 0, 899, 2000), 1),
        (View(0, 0, 900, 900), 2),
        (View(-500, -500, 1900, 1800), 4),
        (View(0, 0, 90_000, 90_000), 8),
    ],
)
def test_pictures_are_decoded_smaller_by_powers_of_two(view: View, factor: int) -> None:
    assert decode_factor(stretch(view, (300, 300)), (500, 500)) == factor


# What is drawn ----------------------------------------------------------------------------------

BOXES = boxes_of((10, 20, 60, 90), (100, 40, 180, 140), (5, 5, 12, 10), (150, 10, 199, 60))
SIZE = (150, 200)
DRAWS = 2000


def quantiles(values: Any) -> NDArray[np.float64]:
    return np.quantile(np.asarray(values, np.float64), [0.05, 0.25, 0.5, 0.75, 0.95])


def assert_alike(ours: list[float], theirs: list[float], within: float) -> None:
    """Quantiles agree; the standard error of each is below a third of `within`."""
    assert np.abs(quantiles(ours) - quantiles(theirs)).max() < within


def theirs_of(transform: Callable[..., Any], count: int) -> list[tuple[torch.Tensor, Any]]:
    torch.manual_seed(7)
    found = []
    for _ in range(count):
        image = tv_tensors.Image(torch.zeros(1, *SIZE, dtype=torch.uint8))
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(BOXES.copy()), format="XYXY", canvas_size=SIZE
        )
        found.append(transform(image, boxes))
    return found


@pytest.mark.slow
def test_zoom_out_is_drawn_as_torchvision_draws_it() -> None:
    whole = View.whole(SIZE)
    ours = [zoom_out(whole, generator(1, i)) for i in range(DRAWS)]
    theirs = theirs_of(v2.RandomZoomOut(), DRAWS)
    is_zoomed = [view != whole for view in ours]
    assert np.mean(is_zoomed) == pytest.approx(0.5, abs=0.03)
    factors = [view.width / 200 for view in ours if view != whole]
    their_factors = [image.shape[2] / 200 for image, _ in theirs if image.shape[2] != 200]
    assert_alike(factors, their_factors, 0.2)
    lefts = [-view.left / (view.width - 200) for view in ours if view.width > 210]
    their_lefts = [
        float(boxes[0, 0] - 10) / (image.shape[2] - 200)
        for image, boxes in theirs
        if image.shape[2] > 210
    ]
    assert_alike(lefts, their_lefts, 0.06)
    tops = [-view.top / (view.height - SIZE[0]) for view in ours if view.width > 210]
    assert abs(np.corrcoef(lefts, tops)[0, 1]) < 0.1, "each side is drawn for itself"


@pytest.mark.slow
def test_iou_crop_is_drawn_as_torchvision_draws_it() -> None:
    whole = View.whole(SIZE)
    ours = [iou_crop(whole, BOXES, generator(2, i)) for i in range(DRAWS)]
    theirs = theirs_of(v2.RandomIoUCrop(), DRAWS)
    our_share = np.mean([view == whole for view, _ in ours])
    their_share = np.mean([tuple(image.shape[1:]) == SIZE for image, _ in theirs])
    assert our_share == pytest.approx(their_share, abs=0.04)
    cropped = [(view, kept) for view, kept in ours if view != whole]
    their_cropped = [(image, boxes) for image, boxes in theirs if tuple(image.shape[1:]) != SIZE]
    assert_alike(
        [view.width for view, _ in cropped],
        [image.shape[2] for image, _ in their_cropped],
        8,
    )
    assert_alike(
        [view.width / view.height for view, _ in cropped],
        [image.shape[2] / image.shape[1] for image, _ in their_cropped],
        0.08,
    )
    counts = [np.mean([kept[i] for _, kept in cropped]) for i in range(len(BOXES))]
    their_counts = [
        np.mean([bool(boxes[i].any()) for _, boxes in their_cropped]) for i in range(len(BOXES))
    ]
    assert counts == pytest.approx(their_counts, abs=0.04)


def test_resized_crop_is_drawn_as_torchvision_draws_it() -> None:
    whole = View.whole(SIZE)
    ours = [resized_crop(whole, generator(3, i)) for i in range(DRAWS)]
    torch.manual_seed(3)
    image = torch.zeros(1, *SIZE)
    transform = v2.RandomResizedCrop((9, 9))
    theirs = [transform.make_params([image]) for _ in range(DRAWS)]
    for name in ("left", "top", "width", "height"):
        values = [getattr(view, name) for view in ours]
        assert_alike(values, [params[name] for params in theirs], 8)


@pytest.mark.parametrize("size_hw", [(10, 1000), (1000, 10)])
def test_resized_crop_of_a_strip_is_its_centre(size_hw: tuple[int, int]) -> None:
    view = resized_crop(View.whole(size_hw), generator(4), scale=(0.9, 1.0))
    left, top, width, height = view
    assert min(width, height) == 10
    assert max(width, height) == 13
    assert abs(left + width / 2 - size_hw[1] / 2) <= 1
    assert abs(top + height / 2 - size_hw[0] / 2) <= 1


def test_scaled_crop_is_drawn_as_torchvisions_recipe_draws_it() -> None:
    """RandomResize, padding to the right and below, RandomCrop; all in pixels of the picture."""
    whole, crop, shorter = View.whole(SIZE), 140, (75, 300)
    ours = [scaled_crop(whole, generator(9, i), size=crop, shorter=shorter) for i in range(DRAWS)]
    torch.manual_seed(9)
    resize, cut = v2.RandomResize(shorter[0], shorter[1] + 1), v2.RandomCrop(crop)
    theirs = []
    for _ in range(DRAWS):
        (short,) = resize.make_params([])["size"]
        sides = [max(crop, side * short // SIZE[0]) for side in SIZE]
        found = cut.make_params([torch.empty(1, *sides, device="meta")])
        scale = SIZE[0] / short
        theirs.append((found["left"] * scale, found["top"] * scale, crop * scale))
    for name, values in zip(("left", "top", "width"), zip(*theirs, strict=True), strict=True):
        assert_alike([getattr(view, name) for view in ours], list(values), 8)
    assert all(view.width == view.height for view in ours), "aspects stay"
    beyond = [view for view in ours if view.width > SIZE[1]]
    assert beyond
    assert {(view.left, view.top) for view in beyond} == {(0, 0)}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(1, 400), st.integers(1, 300))
def test_a_scaled_crop_reaches_beyond_the_picture_only_to_the_right_and_below(
    seed: int, height: int, width: int, size: int
) -> None:
    view = View(-3, 5, width, height)
    found = scaled_crop(view, generator(10, seed), size=size, shorter=(20, 200))
    for low, side, start, length in (
        (view.left, view.width, found.left, found.width),
        (view.top, view.height, found.top, found.height),
    ):
        assert length >= 1
        assert start >= low
        assert start == low if length >= side else start + length <= low + side


@settings(max_examples=100, deadline=None)
@given(st.integers(8, 1000), st.integers(8, 1000))
@example(375, 500)
@example(500, 333)
def test_a_centre_crop_lies_where_torchvisions_does(height: int, width: int) -> None:
    """Which is one of 224 pixels after the shorter side became 256; in pixels of the picture."""
    short = min(height, width)
    resized = [max(256, 256 * side // short) for side in (height, width)]
    cut = [round((side - 224) / 2) for side in resized]
    view = center_crop(View.whole((height, width)), 224 / 256)
    for start, length, offset, stored, scaled in (
        (view.top, view.height, cut[0], height, resized[0]),
        (view.left, view.width, cut[1], width, resized[1]),
    ):
        scale = stored / scaled  # of a long side, torchvision's is off by what it cuts
        assert abs(start - offset * scale) <= 1 + scale
        assert abs(length - 224 * short / 256) <= 0.5
        assert 0 <= start <= start + length <= stored


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 400), st.integers(5, 400), st.data())
def test_a_crop_lies_in_its_view_and_contains_the_centres_it_returns(
    seed: int, height: int, width: int, data: Any
) -> None:
    x0 = data.draw(st.integers(0, width - 2))
    y0 = data.draw(st.integers(0, height - 2))
    boxes = boxes_of((x0, y0, x0 + 2, y0 + 2), (0, 0, width, height))
    source = generator(5, seed)
    view = zoom_out(View.whole((height, width)), source)
    crop, is_held = iou_crop(view, boxes, source)
    assert view.left <= crop.left <= crop.left + crop.width <= view.left + view.width
    assert view.top <= crop.top <= crop.top + crop.height <= view.top + view.height
    assert is_held.any()
    if crop != view:
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = (crop.left < centres[:, 0]) & (centres[:, 0] < crop.left + crop.width)
        inside &= (crop.top < centres[:, 1]) & (centres[:, 1] < crop.top + crop.height)
        assert is_held.tolist() == inside.tolist()


def test_a_picture_without_boxes_is_not_cropped() -> None:
    view = View(-3, -4, 50, 60)
    found, is_held = iou_crop(view, boxes_of(), generator(6))
    assert found == view
    assert is_held.shape == (0,)


def test_half_of_the_pictures_are_flipped() -> None:
    plan = stretch(View(0, 0, 9, 9), (5, 5))
    flips = [flip(plan, generator(7, i)).is_flipped for i in range(DRAWS)]
    assert np.mean(flips) == pytest.approx(0.5, abs=0.03)
    assert not flip(plan, generator(8), probability=0).is_flipped


@pytest.mark.parametrize(
    ("view", "size_hw", "inner_hw"),
    [
        (View(0, 0, 0, 10), (4, 4), None),
        (View(0, 0, 10, -1), (4, 4), None),
        (View(0.5, 0, 10, 10), (4, 4), None),  # type: ignore[arg-type]
        (View(0, 0, 10, 10), (4, 0), None),
        (View(0, 0, 10, 10), (4, 4), (5, 4)),
    ],
)
def test_a_plan_of_impossible_sizes_is_refused(
    view: View, size_hw: tuple[int, int], inner_hw: tuple[int, int] | None
) -> None:
    with pytest.raises(ValueError, match=r"must be whole numbers from 1|is larger than the output"):
        Plan(view, size_hw, inner_hw)


@pytest.mark.parametrize("overlaps", [(0.9,), (1.0,), (0.0, 2.0)])
def test_an_iou_crop_that_cannot_be_found_is_the_whole_view(overlaps: Any) -> None:
    view, generator = View(0, 0, 2000, 10), np.random.default_rng(1)
    corner = np.array([[0, 0, 2, 2]], np.float32)
    found, is_held = iou_crop(view, corner, generator, overlaps=overlaps)
    assert (found, is_held.tolist()) == (view, [True])


def test_a_resized_crop_of_a_line_is_not_empty() -> None:
    generator = np.random.default_rng(1)
    for view in (View(0, 0, 100, 1), View(0, 0, 1, 100)):
        for aspect in ((0.1, 0.2), (5.0, 9.0)):
            found = resized_crop(view, generator, aspect=aspect)
            assert min(found.width, found.height) >= 1
