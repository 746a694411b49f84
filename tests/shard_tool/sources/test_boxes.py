"""Corners as tools write them become boxes inside the picture, or errors in the file's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import BoxError
from shard_tool.sources.boxes import CORNERS, DEVKIT, Placed, box_of, placed
from tests.kit.datasets.annotations import BOX_HINT, NO_CLIP_HINT

if TYPE_CHECKING:
    from shard_tool.sources.boxes import Corners


def place(corners: Corners, convention: str = DEVKIT, **options: Any) -> Placed:
    given = {"size_wh": (500, 375), "place": "VOC/a.xml", "object_index": 1, "name": "cat"}
    return placed(corners, convention=convention, **given | options)


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        pytest.param((1, 1, 500, 375), (0, 0, 500, 375), id="whole picture"),
        pytest.param((1, 1, 1, 1), (0, 0, 1, 1), id="first pixel"),
        pytest.param((500, 375, 500, 375), (499, 374, 500, 375), id="last pixel"),
        pytest.param((1, 1, 499.5, 1.5), (0, 0, 499.5, 1.5), id="fractions"),
    ],
)
def test_only_the_near_corner_moves(corners: Corners, box: Corners) -> None:
    assert box_of(corners, DEVKIT) == box
    assert all(isinstance(value, float) for value in box_of(corners, DEVKIT))
    assert place(corners) == Placed(box)


@pytest.mark.parametrize(
    "corners", [(0, 0, 500, 375), (0.25, 0.5, 0.75, 0.875), (499, 374, 500, 375)]
)
def test_corners_from_zero_stay_as_they_are(corners: Corners) -> None:
    assert place(corners, CORNERS) == Placed(corners)
    assert all(isinstance(value, float) for value in box_of(corners, CORNERS))


@pytest.mark.parametrize(
    ("corners", "convention", "box"),
    [
        ((0, 1, 9, 9), DEVKIT, (0, 0, 9, 9)),
        ((1, 0.5, 9, 9), DEVKIT, (0, 0, 9, 9)),
        ((1, 1, 501, 9), DEVKIT, (0, 0, 500, 9)),
        ((1, 1, 9, 375.5), DEVKIT, (0, 0, 9, 375)),
        ((1, 1, 500.0000001, 9), DEVKIT, (0, 0, 500, 9)),
        ((-1, -0.5, 501, 376), CORNERS, (0, 0, 500, 375)),
    ],
)
def test_box_that_leaves_by_a_pixel_at_most_is_clipped_and_said(
    corners: Corners, convention: str, box: Corners
) -> None:
    assert place(corners, convention) == Placed(box, "box-clipped")


@pytest.mark.parametrize(
    ("corners", "rule"),
    [
        ((-1, 1, 9, 9), "xmin -1 is below 1 (VOC counts pixels from 1)"),
        ((1, -0.5, 9, 9), "ymin -0.5 is below 1 (VOC counts pixels from 1)"),
        ((1, 1, 502, 9), "xmax 502 is outside width 500"),
        ((1, 1, 9, 376.5), "ymax 376.5 is outside height 375"),
        ((1, 1, 501.0000001, 9), "xmax 501.0000001 is outside width 500"),
        ((-1, 1, 502, 9), "xmin -1 is below 1 (VOC counts pixels from 1)"),
    ],
)
def test_box_that_leaves_by_more_is_named_with_file_object_and_value(
    corners: Corners, rule: str
) -> None:
    with pytest.raises(BoxError) as caught:
        place(corners)
    assert str(caught.value) == f"VOC/a.xml: object 2 'cat': {rule}{BOX_HINT}"
    clipped = place(corners, clips=True)
    assert clipped.code == "bad-box-clipped"
    x0, y0, x1, y1 = box_of(corners, DEVKIT)
    assert clipped.box == (max(x0, 0), max(y0, 0), min(x1, 500), min(y1, 375))


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize(
    ("corners", "convention", "rule"),
    [
        ((10, 1, 9, 9), DEVKIT, "xmin 10 lies right of xmax 9"),
        ((10, 1, 9.5, 9), DEVKIT, "xmin 10 lies right of xmax 9.5"),
        ((1, 30, 9, 9), DEVKIT, "ymin 30 lies below ymax 9"),
        ((0, 600, 501, 9), DEVKIT, "ymin 600 lies below ymax 9"),
        ((1, 1, float("nan"), 9), DEVKIT, "the box is not finite"),
        ((501, 1, 501, 9), DEVKIT, "xmax 501 is outside width 500"),
        ((3, 1, 3, 9), CORNERS, "xmin 3 is xmax: the box is empty"),
        ((1, 9, 3, 9), CORNERS, "ymin 9 is ymax: the box is empty"),
        ((-9, -9, -3, -3), CORNERS, "xmin -9 is below 0"),
        ((0, 380, 9, 390), CORNERS, "ymax 390 is outside height 375"),
    ],
)
def test_box_without_a_part_in_the_picture_is_never_clipped(
    corners: Corners, convention: str, rule: str, clips: bool
) -> None:
    with pytest.raises(BoxError) as caught:
        place(corners, convention, clips=clips)
    assert str(caught.value) == f"VOC/a.xml: object 2 'cat': {rule}{NO_CLIP_HINT}"


def test_a_box_that_ends_before_the_picture_begins_says_so() -> None:
    with pytest.raises(BoxError, match=r"xmax -0.25 is not above 0: nothing of the box is inside"):
        place((-0.75, 5, -0.25, 9), CORNERS)
    with pytest.raises(BoxError, match=r"ymax 0 is not above 0: nothing of the box is inside"):
        place((3, -0.5, 9, 0), CORNERS)


def test_box_of_another_size_is_scaled_and_its_error_has_the_numbers_of_the_file() -> None:
    scale = (2.0, 3.0)
    assert place((1, 2, 250, 125), scale=scale) == Placed((0, 3, 500, 375))
    with pytest.raises(BoxError) as caught:
        place((1, 2, 260, 125), scale=scale)
    assert caught.value.problem == "object 2 'cat': xmax 260 is outside width 250"
