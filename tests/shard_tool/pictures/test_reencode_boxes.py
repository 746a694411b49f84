"""Re-encoding scales boxes, parts and points with their picture."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shard_tool.format.sample import Part, SampleObject
from shard_tool.pictures.reencode import reencoded, scaled_box
from tests.kit.datasets.pictures import by_pillow, encoded, scene
from tests.kit.datasets.reencoding import PLACE, sample_of, wanted

sides = st.integers(1, 4000)


@st.composite
def box_in_a_picture(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[float, ...]]:
    size = draw(sides), draw(sides)
    spans = []
    for side in size:
        bounds = st.floats(0, side, allow_subnormal=False)
        low, high = sorted(draw(st.lists(bounds, min_size=2, max_size=2, unique=True)))
        if draw(st.booleans()):  # as thin as possible: scaling may make both sides equal
            high = math.nextafter(low, math.inf)
        spans.append((low, high))
    (x0, x1), (y0, y1) = spans
    return size, (x0, y0, x1, y1)


@given(box_in_a_picture(), st.integers(16, 4000))
@example(((500, 375), (0.0, 0.0, 500.0, 375.0)), 333)
@example(((38, 38), (0.0, 0.0, 38.0, 38.0)), 21)  # 38 * (21 / 38) is more than 21
@example(((501, 499), (500.99999999999994, 498.99999999999994, 501.0, 499.0)), 500)
def test_a_scaled_box_follows_the_plain_formula_stays_inside_and_is_not_empty(
    case: tuple[tuple[int, int], tuple[float, float, float, float]], side: int
) -> None:
    (width, height), box = case
    new_w, new_h = wanted(side).fitted((width, height))
    x0, y0, x1, y1 = scaled_box(box, (width, height), (new_w, new_h))
    assert 0 <= x0 < x1 <= new_w
    assert 0 <= y0 < y1 <= new_h
    obvious = np.array(box) * ([new_w / width, new_h / height] * 2)
    assert [x0, y0, x1, y1] == pytest.approx(list(obvious), rel=1e-12, abs=1e-12)


def test_boxes_parts_and_points_are_scaled_and_the_rest_stays() -> None:
    box = SampleObject(
        name="person",
        label=15,
        bbox=(10.0, 20.0, 401.0, 375.0),
        difficult=False,
        truncated=True,
        pose="Left",
        parts=(Part(name="hand", bbox=(0.0, 30.0, 500.0, 375.0)),),
        actions={"jumping": True},
    )
    point = SampleObject(name="person", label=15, point=(100.0, 50.0))
    content = encoded(scene(375, 500))
    sample = replace(sample_of(500, 375, box, point), segmented=None)
    _, found = reencoded(wanted(250), {"jpg": content}, sample, place=PLACE)
    assert (found.width, found.height) == (250, 188)  # 187.5 is rounded up: widths shrink more
    y = 188 / 375
    new_box, new_point = found.objects
    (hand,) = new_box.parts or ()
    assert new_box.bbox == pytest.approx((5.0, 20 * y, 200.5, 188.0))
    assert hand.bbox == pytest.approx((0.0, 30 * y, 250.0, 188.0))
    assert new_point.point == pytest.approx((50.0, 50 * y))
    back = (
        replace(new_box, bbox=box.bbox, parts=box.parts),
        replace(new_point, point=point.point),
    )
    assert replace(found, width=500, height=375, objects=back) == sample


def test_coco_area_is_scaled_and_a_box_of_the_larger_picture_goes() -> None:
    raw = {"id": 7, "area": 100, "bbox": [-1, 0, 9, 9], "score": 2}
    item = SampleObject(name="cat", label=8, bbox=(0.0, 0.0, 8.0, 9.0), raw=raw)
    content = encoded(scene(48, 64))
    _, sample = reencoded(wanted(32), {"jpg": content}, sample_of(64, 48, item), place=PLACE)
    assert sample.objects[0].raw == {"id": 7, "area": 25.0, "score": 2}


def test_a_box_drawn_in_the_picture_lies_at_its_scaled_box() -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[60:180, 100:260] = 255
    item = SampleObject(name="dog", label=12, bbox=(100.0, 60.0, 260.0, 180.0))
    made, sample = reencoded(
        wanted(200), {"jpg": encoded(pixels, quality=95)}, sample_of(400, 300, item), place=PLACE
    )
    rows, columns = np.nonzero(by_pillow(made["jpg"])[..., 0] > 127)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert sample.objects[0].bbox == found
