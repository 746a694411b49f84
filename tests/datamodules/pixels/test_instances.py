"""Masks of objects: which pixels a polygon fills, and that recipes move all kinds alike."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from datamodules.pixels import instances
from datamodules.pixels.geometry import Plan, View
from datamodules.pixels.instances import NO_NUMBER, Outlines
from datamodules.pixels.kernels import kernels
from shard_tool.format.run_lengths import counts_of_pixels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SIZE = (13, 17)

coordinates = st.one_of(
    st.integers(-8, 80).map(lambda n: n / 4),  # often exactly on a centre
    st.floats(-30, 50, allow_subnormal=False),
)
polygons = st.lists(coordinates, min_size=6, max_size=16).map(lambda its: its[: len(its) // 2 * 2])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any view, in and beyond the picture, at any scale, in part of the output or all of it."""
    view = View(*(draw(st.integers(-9, 12)) for _ in range(2)), *(draw(sides) for _ in range(2)))
    inner = (draw(sides), draw(sides))
    size = (inner[0] + draw(st.integers(0, 4)), inner[1] + draw(st.integers(0, 4)))
    return Plan(view, size, inner, draw(st.booleans()))


sides = st.integers(1, 24)


def outlines(*objects: Sequence[Sequence[float]], **given: Any) -> Outlines:
    numbers = given.pop("numbers", [NO_NUMBER] * len(objects))
    values = given.pop("values", None)
    return Outlines(objects, given.pop("runs", {}), np.array(numbers, np.int64), values)


def of_runs(pixels: np.ndarray) -> Outlines:
    return outlines((), runs={0: counts_of_pixels(pixels.astype(bool))})


def masks(its: Outlines, size_hw: tuple[int, int] = SIZE, plan: Plan | None = None) -> np.ndarray:
    found: np.ndarray = its.masks(size_hw, plan).numpy()
    return found


@pytest.fixture(params=["compiled", "numpy"], autouse=True, scope="module")
def way(request: pytest.FixtureRequest) -> Iterable[str]:
    """Fill by the compiled function, or as nodes without it do."""
    patch = pytest.MonkeyPatch()
    if request.param == "numpy":
        patch.setattr(instances, "kernels", lambda: None)
    elif kernels() is None:
        pytest.skip("there is no compiled function")
    yield request.param
    patch.undo()


def is_inside(polygon: Sequence[float], x: Fraction, y: Fraction) -> tuple[bool, bool]:
    """Whether a point is inside, and whether it is so near to an edge that rounding may decide."""
    corners = [(Fraction(a), Fraction(b)) for a, b in zip(polygon[::2], polygon[1::2], strict=True)]
    crossings, is_near = 0, False
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (y0 <= y) == (y1 <= y):
            continue
        crossed = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
        is_near |= crossed != x and abs(crossed - x) < Fraction(1, 10**9)
        is_near |= crossed == x and x0 != x1
        crossings += crossed <= x
    return crossings % 2 == 1, is_near


@settings(max_examples=60)
@given(polygons, plans())
def test_a_pixel_is_filled_if_its_centre_lies_inside(polygon: list[float], plan: Plan) -> None:
    """The centre's place in the picture, where nothing beyond its edges is filled."""
    found = masks(outlines((polygon,)), plan=plan)[0]
    view, (height, width) = plan.view, plan.scaled_hw
    scale = (Fraction(view.width, width), Fraction(view.height, height))
    for row in range(plan.size_hw[0]):
        for column in range(plan.size_hw[1]):
            before = plan.size_hw[1] - 1 - column if plan.is_flipped else column
            x = view.left + (before + Fraction(1, 2)) * scale[0]
            y = view.top + (row + Fraction(1, 2)) * scale[1]
            if before >= width or row >= height:
                expected, is_near = False, False
            else:
                expected, is_near = is_inside(polygon, x, y)
                expected &= 0 <= x < SIZE[1] and 0 <= y < SIZE[0]
            is_near |= y in polygon[1::2] or _rounds(polygon, y)
            assert is_near or bool(found[row, column]) == expected, (row, column)


def _rounds(polygon: list[float], y: Fraction) -> bool:
    """Whether a corner is so near to a row of centres that rounding may decide."""
    return any(abs(Fraction(its) - y) < Fraction(1, 10**9) for its in polygon[1::2])


def test_a_centre_on_an_edge_belongs_to_what_lies_right_of_it_or_below() -> None:
    square = (2.5, 3.5, 6.5, 3.5, 6.5, 7.5, 2.5, 7.5)
    (found,) = masks(outlines((square,)))
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 6, 2, 5)
    assert found.sum() == 16
    assert found.dtype == np.uint8


@settings(max_examples=60)
@given(st.lists(polygons, min_size=1, max_size=4), plans())
def test_the_compiled_function_and_numpy_fill_the_same_pixels(
    given_polygons: list[list[float]], plan: Plan
) -> None:
    found = masks(outlines(given_polygons, given_polygons[:1]), plan=plan)
    patch = pytest.MonkeyPatch()
    patch.setattr(instances, "kernels", lambda: None)
    expected = masks(outlines(given_polygons, given_polygons[:1]), plan=plan)
    patch.undo()
    assert np.array_equal(found, expected)


@settings(max_examples=60)
@given(polygons, plans())
def test_a_flip_mirrors_and_a_crop_cuts_and_scaling_scales_corners(
    polygon: list[float], plan: Plan
) -> None:
    plain = Plan(plan.view, plan.size_hw, plan.inner_hw)
    upright, mirrored = (
        masks(outlines((polygon,)), plan=its)
        for its in (plain, Plan(plan.view, plan.size_hw, plan.inner_hw, is_flipped=True))
    )
    assert np.array_equal(upright[..., ::-1], mirrored)

    whole = np.pad(masks(outlines((polygon,)))[0], 50)
    view = plan.view
    (found,) = masks(outlines((polygon,)), plan=Plan(view, (view.height, view.width)))
    top, left = view.top + 50, view.left + 50
    assert np.array_equal(found, whole[top : top + view.height, left : left + view.width])

    twice = Plan(View.whole(SIZE), (2 * SIZE[0], 4 * SIZE[1]))
    scaled = [number * (2 if at % 2 else 4) for at, number in enumerate(polygon)]
    expected = masks(outlines((scaled,)), size_hw=twice.size_hw)
    assert np.array_equal(masks(outlines((polygon,)), plan=twice), expected)


@settings(max_examples=40)
@given(st.lists(coordinates, min_size=8, max_size=8), plans())
def test_triangles_round_a_point_cover_each_pixel_once(places: list[float], plan: Plan) -> None:
    """Neighbours share an edge; together they are the square, wherever the corner point lies."""
    x, y = abs(places[0]) % SIZE[1], abs(places[1]) % SIZE[0]
    corners = [(0.0, 0.0), (17.0, 0.0), (17.0, 13.0), (0.0, 13.0)]
    sectors = [((*a, *b, x, y),) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)]
    found = masks(outlines(*sectors), plan=plan).sum(0)
    (square,) = masks(outlines(((0, 0, 17, 0, 17, 13, 0, 13),)), plan=plan)
    assert np.array_equal(found, square)


def test_what_crosses_itself_is_even_odd_and_polygons_of_an_object_add_up() -> None:
    star = (8, 0, 12, 12, 1, 4, 15, 4, 4, 12)
    (found,) = masks(outlines((star,)))
    assert found[7, 8] == 0, "its middle is crossed twice"
    inner = (5, 4, 11, 4, 11, 9, 5, 9)
    (both,) = masks(outlines((star, inner)))
    assert both[7, 8] == 1
    (alone,) = masks(outlines((inner,)))
    assert np.array_equal(both, found | alone)


@pytest.mark.parametrize(
    "polygon",
    [
        (1e308, 1e308, -1e308, 1e308, 0, -1e308),
        (-1e9, 4, 1e9, 4, 1e9, 9, -1e9, 9),
        (3, 3, 3, 3, 3, 3),
        (3, 3, 9, 3, 5, 3),
        (-9, -9, -3, -9, -3, -3),
        (40, 40, 50, 40, 50, 50),
    ],
    ids=["huge", "wide", "a point", "a line", "left above", "right below"],
)
def test_odd_polygons_fill_what_of_them_is_in_the_picture(polygon: tuple[float, ...]) -> None:
    (found,) = masks(outlines((polygon,)), plan=Plan(View(-5, -5, 30, 30), (60, 60)))
    assert not found[:10].any()
    assert not found[36:].any()
    assert not found[:, :10].any()
    assert not found[:, 44:].any()
    if polygon[0] == -1e9:
        assert found[18:28, 10:44].all()


# Other kinds of outlines --------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 2**32), plans())
def test_runs_and_numbers_are_rendered_as_masks_are(seed: int, plan: Plan) -> None:
    """By the pixel under the middle of each output pixel; 0 beyond the picture."""
    pixels = np.random.default_rng(seed).random(SIZE) < 0.5
    numbered = np.where(pixels, 7, 255).astype(np.uint8)
    (by_runs,) = masks(of_runs(pixels), plan=plan)
    (by_number,) = masks(outlines((), numbers=[7], values=numbered), plan=plan)
    assert np.array_equal(by_runs, by_number)
    view, (height, width) = plan.view, plan.scaled_hw
    expected = np.zeros(plan.size_hw, np.uint8)
    for row in range(height):
        for column in range(width):
            y = view.top + int((row + 0.5) * (view.height / height))
            x = view.left + int((column + 0.5) * (view.width / width))
            if 0 <= y < SIZE[0] and 0 <= x < SIZE[1]:
                expected[row, column] = pixels[y, x]
    assert np.array_equal(by_runs, expected[:, ::-1] if plan.is_flipped else expected)


def test_kept_objects_of_all_kinds_keep_their_order() -> None:
    values = np.zeros(SIZE, np.uint8)
    values[2:5, 2:5] = 3
    pixels = np.zeros(SIZE, bool)
    pixels[6:9, 1:4] = True
    square = ((8.0, 8.0, 12.0, 8.0, 12.0, 12.0, 8.0, 12.0),)
    its = Outlines(
        ((), square, (), square),
        {0: counts_of_pixels(pixels)},
        np.array([NO_NUMBER, NO_NUMBER, 3, NO_NUMBER]),
        values,
    )
    everything = its.masks(SIZE).numpy()
    assert everything.sum((1, 2)).tolist() == [9, 16, 9, 16]
    for is_kept in ([1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]):
        some = its.masks(SIZE, is_kept=np.array(is_kept, bool)).numpy()
        assert np.array_equal(some, everything[np.array(is_kept, bool)])


# Beside pycocotools -------------------------------------------------------------------------------


def star(rng: np.random.Generator, radius: float, corners: int, wh: tuple[int, int]) -> list[float]:
    """An outline as annotators draw them: round a middle, uneven."""
    angles = np.sort(rng.random(corners)) * 2 * np.pi
    far = radius * (0.6 + 0.4 * rng.random(corners))
    middle = rng.random(2) * np.array(wh)
    points = middle + np.stack([np.cos(angles), np.sin(angles)], 1) * far[:, None]
    return [float(value) for value in np.clip(points, 0, np.array(wh)).round(2).ravel()]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
@pytest.mark.parametrize(("radius", "least", "mean"), [(8, 0.6, 0.85), (30, 0.85, 0.95)])
def test_polygons_agree_with_pycocotools_but_for_their_border(
    radius: float, least: float, mean: float
) -> None:
    """No pixel differs that is more than one pixel away from an edge."""
    rng, size = np.random.default_rng(3), (96, 128)
    found = []
    for _ in range(60):
        polygon = star(rng, radius, int(rng.integers(8, 40)), size[::-1])
        theirs = coco.decode(coco.merge(coco.frPyObjects([polygon], *size))).astype(bool)
        ours = masks(outlines((polygon,)), size_hw=size)[0].astype(bool)
        if theirs.sum() < 20:
            continue
        found.append((ours & theirs).sum() / (ours | theirs).sum())
        grown = np.pad(theirs, 1)
        near = [
            grown[1 + y : 1 + y + size[0], 1 + x : 1 + x + size[1]]
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
        ]
        assert not (ours & ~np.any(near, 0)).any()
        assert not (np.all(near, 0) & ~ours).any()
    assert min(found) > least
    assert np.mean(found) > mean
