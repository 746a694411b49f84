"""What CVAT's shapes mean: a table of those that it exports, and of broken ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shard_tool.errors import AnnotationError
from shard_tool.sources.cvat.annotation import parse_cvat
from shard_tool.sources.notes import MEANINGS
from tests.kit.datasets.cvat_files import (
    ANT,
    attribute,
    box,
    element,
    image,
    mask,
    polygon,
    shape,
)

if TYPE_CHECKING:
    from shard_tool.sources.annotation import Annotation, ObjectAnnotation

PLACE = "annotations.xml#0"
POINTS = "2.00,3.00;10.00,8.00;4.00,9.50"
PLAIN = {"source": "manual", "z_order": "0"}


def parsed(*shapes: str, **more: Any) -> Annotation:
    return parse_cvat(image("a.jpg", *shapes, **more).encode(), PLACE)


def one(*shapes: str, **more: Any) -> ObjectAnnotation:
    (item,) = parsed(*shapes, **more).objects
    return item


def codes(*shapes: str) -> list[str]:
    notes = parsed(*shapes).notes
    assert all(note.code in MEANINGS for note in notes)
    return [note.code for note in notes]


def problem(*shapes: str) -> str:
    (bad,) = parsed(*shapes).bad_objects
    assert bad.problem.place.startswith(f"{PLACE}: object 1")
    return bad.problem.problem


def test_a_box_is_its_corners() -> None:
    item = one(box("ant", (2.25, 3, 10.5, 8), attribute("colour", "red"), attribute("age", "")))
    assert (item.name, item.corners) == ("ant", (2.25, 3, 10.5, 8))
    assert (item.polygons, item.rle, item.occluded, item.difficult) == (None, None, False, None)
    assert item.raw == PLAIN | {"attributes": {"colour": "red", "age": ""}}


@pytest.mark.parametrize("degrees", [30.0, 90.0, 359.5, -45.0])
def test_a_turned_box_is_the_upright_box_around_it(degrees: float) -> None:
    turned = box("ant", (4, 2, 10, 6), rotation=degrees)
    item = one(turned)
    angle = math.radians(degrees)
    corners = [(-3, -2), (3, -2), (3, 2), (-3, 2)]
    xs = [7 + x * math.cos(angle) - y * math.sin(angle) for x, y in corners]
    ys = [4 + x * math.sin(angle) + y * math.cos(angle) for x, y in corners]
    assert item.corners == pytest.approx((min(xs), min(ys), max(xs), max(ys)))
    assert item.raw is not None
    assert (item.raw["xtl"], item.raw["rotation"]) == ("4.00", str(degrees))
    assert codes(turned) == ["rotated-box"]
    assert codes(box("ant", (4, 2, 10, 6), rotation="0.00")) == []


def test_a_polygon_keeps_its_points_and_gets_the_box_around_them() -> None:
    item = one(shape("polygon", "ant", points=POINTS))
    assert item.corners == (2, 3, 10, 9.5)
    assert item.polygons == ((2, 3, 10, 8, 4, 9.5),)
    assert item.raw == PLAIN


@pytest.mark.parametrize("degrees", [None, 30.0])
def test_an_ellipse_is_a_polygon_on_its_rim_and_the_box_around_it(degrees: Any) -> None:
    more = {} if degrees is None else {"rotation": degrees}
    drawn = shape("ellipse", "ant", cx="10.00", cy="5.00", rx="4.00", ry="2.00", **more)
    item, angle = one(drawn), math.radians(degrees or 0)
    assert item.polygons is not None
    points = np.array(item.polygons[0]).reshape(-1, 2) - [10, 5]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    plain = points @ turn / [4, 2]
    np.testing.assert_allclose(np.hypot(*plain.T), 1, atol=1e-4)
    its = np.linspace(0, 7, 100_000)
    fine = np.stack([4 * np.cos(its), 2 * np.sin(its)], axis=1) @ turn.T + np.array([10, 5])
    hull = (*fine.min(0), *fine.max(0))
    assert item.corners == pytest.approx(hull, abs=1e-6)
    assert item.raw is not None
    assert (item.raw["shape"], item.raw["rx"]) == ("ellipse", "4.00")
    assert codes(drawn) == ["curve-as-polygon"]


def test_a_mask_becomes_run_lengths_and_the_box_of_its_part() -> None:
    item = one(mask("ant", [[1, 0, 1], [1, 1, 0]], (4, 3)))
    assert item.corners == (4, 3, 7, 5)
    assert item.rle == {"size": [10, 20], "counts": [43, 2, 9, 1, 8, 1, 136]}
    assert item.raw == PLAIN
    whole = one(mask("ant", [[1] * 20] * 10, (0, 0)))
    assert whole.rle == {"size": [10, 20], "counts": [0, 200]}


def test_a_mask_needs_the_pictures_size() -> None:
    annotation = parse_cvat(element("image", mask("ant", [[1]], (4, 3)), name="a").encode(), PLACE)
    assert annotation.size_whd is None
    assert (annotation.objects[0].corners, annotation.objects[0].rle) == ((4, 3, 5, 4), None)
    assert [note.code for note in annotation.notes] == ["mask-without-size"]


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (
            shape("polyline", "line", points="1.00,2.00;3.00,4.00"),
            {"shape": "polyline", "label": "line", "points": "1.00,2.00;3.00,4.00"},
        ),
        (shape("points", "tip", points="1.00,2.00"), {"shape": "points", "label": "tip"}),
        (shape("cuboid", "car", xtl1="1.00"), {"shape": "cuboid", "xtl1": "1.00"}),
        (
            shape("skeleton", "body", shape("points", "nose", points="1.00,2.00")),
            {"shape": "skeleton", "label": "body"},
        ),
    ],
)
def test_shapes_without_area_are_counted_and_stay_in_raw(drawn: str, said: Any) -> None:
    annotation = parsed(drawn, ANT)
    assert [item.index for item in annotation.objects] == [1]
    assert annotation.raw is not None
    (unread,) = annotation.raw["unread"]
    assert said.items() <= unread.items()
    assert codes(drawn) == ["shape-without-area"]
    if said["shape"] == "skeleton":
        assert unread["parts"][0]["label"] == "nose"


def test_tags_of_the_whole_picture_are_counted_and_stay_in_raw() -> None:
    night = element("tag", attribute("sure", "yes"), label="night", source="manual")
    annotation = parsed(night)
    assert annotation.objects == ()
    tag = {"shape": "tag", "label": "night", "source": "manual", "attributes": {"sure": "yes"}}
    assert annotation.raw == {"id": "0", "unread": [tag]}
    assert codes(night) == ["picture-tag"]


def test_what_an_image_says_besides_stays_in_raw_and_groups_join_nothing() -> None:
    boxes = [box("ant", (1, 2, 3, 4), group_id=5)] * 2
    annotation = parsed(*boxes, id_=17, subset="Train", task_id=7)
    assert annotation.raw == {"id": "17", "task_id": "7"}
    assert [item.raw for item in annotation.objects] == [PLAIN | {"group_id": "5"}] * 2
    assert (annotation.filename, annotation.size_whd) == ("a.jpg", (20, 10, None))


@pytest.mark.parametrize("value", ["", "0", "x", "-3", "1.5", "²", "9" * 12])
def test_a_size_that_is_none_is_noted(value: str) -> None:
    annotation = parse_cvat(f'<image name="a" width="{value}" height="10"/>'.encode(), PLACE)
    assert annotation.size_whd is None
    assert [note.code for note in annotation.notes] == ["size-unusable"]


PAIR = "expected x,y;x,y;x,y or more"


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (box(" ", (1, 2, 3, 4)), "is a <box> without a label"),
        (box("ant", (1, 2, 3, 4), occluded=2), "occluded is '2', expected 0 or 1"),
        (shape("box", "ant", xtl=1, ytl=2, xbr=3), "is a <box> without ybr"),
        (shape("box", "ant", xtl="", ytl=2, xbr=3, ybr=4), "xtl is '', expected a number"),
        (box("ant", (1, 2, math.nan, 4)), "xbr is 'nan', expected a number"),
        (shape("box", "ant", xtl="1_0", ytl=2, xbr=3, ybr=4), "xtl is '1_0', expected a number"),
        (box("ant", (1, 2, 3, 4), rotation="x"), "rotation is 'x', expected a number"),
        (polygon("ant", [(1, 2), (3, 4)]), f"has points '1.00,2.00;3.00,4.00', {PAIR}"),
        (shape("polygon", "ant"), f"has points '', {PAIR}"),
        (shape("polygon", "ant", points="1;2;3"), f"has points '1;2;3', {PAIR}"),
        (shape("polygon", "ant", points="1,2;3,4;5,z"), "points is 'z', expected a number"),
        (
            shape("ellipse", "ant", cx=1, cy=2, rx=0, ry=1),
            "is an ellipse with radii 0 and 1",
        ),
        (mask("ant", [[0, 0]], (1, 1)), "has a mask without a pixel"),
        (
            mask("ant", [[1, 1]], (19, 1)),
            "has a mask that leaves its picture of 20 x 10 px",
        ),
        (
            shape("mask", "ant", rle="0, 3", left=1, top=1, width=2, height=1),
            "has runs of 3 pixels for 2 x 1",
        ),
        (
            shape("mask", "ant", rle="", left=1, top=1, width=2, height=1),
            "rle is '', expected a whole number",
        ),
        (
            shape("mask", "ant", rle="0, 2", left=-1, top=1, width=2, height=1),
            "left is '-1', expected a whole number",
        ),
        (shape("mask", "ant", rle="0, 2", top=1), "left is missing, expected a whole number"),
    ],
)
def test_a_shape_that_cannot_be_read_is_a_bad_object_and_leaves_the_others(
    broken: str, told: str
) -> None:
    assert problem(broken) == told
    annotation = parsed(ANT, broken, ANT)
    assert [item.index for item in annotation.objects] == [0, 2]
    assert [bad.index for bad in annotation.bad_objects] == [1]


def test_an_inverted_box_keeps_its_corners_for_its_own_error() -> None:
    assert one(box("ant", (5, 2, 3, 4), rotation=30)).corners == (5, 2, 3, 4)


def test_what_is_no_xml_is_an_error() -> None:
    with pytest.raises(AnnotationError, match="not well-formed XML"):
        parse_cvat(b"<image", PLACE)
