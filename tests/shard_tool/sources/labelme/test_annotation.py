"""What shapes mean: a table of those that labelme and X-AnyLabeling write, and of broken ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import AnnotationError
from shard_tool.sources.labelme.annotation import parse_labelme
from shard_tool.sources.labelme.json_file import read_labelme
from shard_tool.sources.notes import MEANINGS
from tests.kit.datasets.labelme_files import ANT, Shape, labelme, mask_shape, shape

if TYPE_CHECKING:
    from shard_tool.sources.annotation import Annotation, ObjectAnnotation

PLACE = "a.json"
TRIANGLE = [(2, 3), (10, 8), (4, 9.5)]


def parsed(*shapes: Shape, **more: Any) -> Annotation:
    found = read_labelme(labelme("a.jpg", *shapes, **more))
    assert found is not None
    return parse_labelme(found.document, PLACE)


def one(*shapes: Shape, **more: Any) -> ObjectAnnotation:
    (item,) = parsed(*shapes, **more).objects
    return item


def codes(*shapes: Shape) -> list[str]:
    notes = parsed(*shapes).notes
    assert all(note.code in MEANINGS for note in notes)
    return [note.code for note in notes]


def problem(*shapes: Shape, **more: Any) -> str:
    (bad,) = parsed(*shapes, **more).bad_objects
    assert bad.problem.place.startswith(PLACE)
    return bad.problem.problem


# Shapes with an area ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "points",
    [
        *[[(2, 3), (10, 8)], [(10, 8), (2, 3)], [(2, 8), (10, 3)], [(10, 3), (2, 8)]],
        [(2, 3), (10, 3), (10, 8), (2, 8)],
        [(10, 8), (2, 8), (2, 3), (10, 3)],
    ],
)
def test_corners_of_a_rectangle_come_in_any_order_two_or_all_four(points: Any) -> None:
    item = one(shape("ant", points))
    assert item.corners == (2, 3, 10, 8)
    assert (item.name, item.polygons, item.rle, item.raw) == ("ant", None, None, None)
    assert codes(shape("ant", points)) == []


@pytest.mark.parametrize("kind", ["polygon", "quadrilateral"])
def test_a_polygon_keeps_its_points_and_gets_the_box_around_them(kind: str) -> None:
    item = one(shape("ant", TRIANGLE, kind))
    assert item.corners == (2, 3, 10, 9.5)
    assert item.polygons == ((2, 3, 10, 8, 4, 9.5),)


def test_a_shape_without_type_is_a_polygon_as_in_early_versions() -> None:
    old = {"label": "ant", "points": TRIANGLE, "line_color": None, "fill_color": [1, 2, 3, 4]}
    item = one(old)
    assert item.polygons == ((2, 3, 10, 8, 4, 9.5),)
    assert item.raw is None


def test_a_circle_is_its_own_box_and_a_polygon_on_its_rim() -> None:
    item = one(shape("ant", [(8, 5), (8, 2)], "circle"))
    assert item.corners == (5, 2, 11, 8)
    assert item.polygons is not None
    xs, ys = item.polygons[0][::2], item.polygons[0][1::2]
    for at, (x, y) in enumerate(zip(xs, ys, strict=True)):
        assert math.dist((x, y), (8, 5)) == pytest.approx(3, abs=1e-4)
        middle = ((x + xs[at - 1]) / 2, (y + ys[at - 1]) / 2)
        assert math.dist(middle, (8, 5)) >= 2.9
    assert item.raw == {"shape_type": "circle", "points": [[8, 5], [8, 2]]}
    assert codes(shape("ant", [(8, 5), (8, 2)], "circle")) == ["curve-as-polygon"]


@pytest.mark.parametrize("kind", ["rotation", "rectangle", "oriented_rectangle"])
def test_a_turned_rectangle_of_x_anylabeling_is_a_polygon_in_an_upright_box(kind: str) -> None:
    turned = shape("ant", [(5, 2), (9, 5), (6, 9), (2, 6)], kind, direction=0.6435)
    item = one(turned)
    assert item.corners == (2, 2, 9, 9)
    assert item.polygons == ((5, 2, 9, 5, 6, 9, 2, 6),)
    assert item.raw == {"direction": 0.6435}
    assert codes(turned) == ["rotated-box"]


def test_a_mask_becomes_run_lengths_and_its_pixels_box() -> None:
    item = one(mask_shape("ant", [[1, 0, 1], [1, 1, 0]], (4, 3)))
    assert item.corners == (4, 3, 7, 5)
    # columns of 10 pixels: column 4 has rows 3 and 4, column 5 row 4, column 6 row 3
    assert item.rle == {"size": [10, 20], "counts": [43, 2, 9, 1, 8, 1, 136]}
    assert item.polygons is None


def test_a_mask_that_begins_within_a_pixel_is_moved_to_the_nearest_as_labelme_does() -> None:
    mask = mask_shape("ant", [[1, 1]], (4, 3)) | {"points": [[3.6, 3.2], [5.4, 4.1]]}
    item = one(mask)
    assert item.corners == (4, 3, 6, 4)
    assert item.rle == {"size": [10, 20], "counts": [43, 1, 9, 1, 146]}
    assert item.raw == {"shape_type": "mask", "points": [[3.6, 3.2], [5.4, 4.1]]}
    assert codes(mask) == ["mask-rounded"]


def test_a_mask_needs_the_pictures_size() -> None:
    mask = mask_shape("ant", [[1]], (4, 3))
    item = one(mask, imageHeight=None, imageWidth=None)
    assert (item.corners, item.rle) == ((4, 3, 5, 4), None)
    notes = parsed(mask, imageHeight=None, imageWidth=None).notes
    assert [note.code for note in notes] == ["mask-without-size"]


# Shapes without, and regions that are none --------------------------------------------------------


@pytest.mark.parametrize("kind", ["point", "points", "line", "linestrip"])
def test_shapes_without_area_are_counted_and_stay_in_raw(kind: str) -> None:
    tip = shape("tip", [(4, 6), (5, 7)], kind)
    annotation = parsed(tip, ANT)
    assert [(item.index, item.name) for item in annotation.objects] == [(1, "ant")]
    assert annotation.raw == {"unread": [{**tip, "points": [[4, 6], [5, 7]]}]}
    assert codes(tip) == ["shape-without-area"]


def test_a_region_to_ignore_is_no_object() -> None:
    region = shape("__ignore__", TRIANGLE, "polygon")
    annotation = parsed(region)
    assert annotation.objects == ()
    assert annotation.raw is not None
    assert annotation.raw["unread"][0]["label"] == "__ignore__"
    assert codes(region) == ["region-ignored"]


# Groups -------------------------------------------------------------------------------------------


def test_shapes_of_one_label_and_group_are_one_object() -> None:
    parts = [
        shape("ant", TRIANGLE, "polygon", group_id=0),
        shape("ant", TRIANGLE, "polygon"),
        shape("ant", [(12, 1), (15, 2)], group_id=0, description="its leg"),
        shape("bee", [(12, 1), (15, 2)], group_id=0),
    ]
    objects = parsed(*parts).objects
    assert [(item.index, item.name) for item in objects] == [(0, "ant"), (1, "ant"), (3, "bee")]
    assert objects[0].corners == (2, 1, 15, 9.5)
    assert objects[0].polygons == ((2, 3, 10, 8, 4, 9.5), (12, 1, 15, 1, 15, 2, 12, 2))
    legs = {"description": "its leg", "group_id": 0}
    assert objects[0].raw == {"shapes": [{"group_id": 0}, legs]}
    assert objects[2].raw == {"group_id": 0}
    assert codes(*parts) == ["shapes-joined"]


def test_masks_of_a_group_are_united() -> None:
    left = mask_shape("ant", [[1, 1]], (4, 3), group_id=7)
    right = mask_shape("ant", [[1], [1]], (5, 3), group_id=7)
    item = one(left, right)
    assert item.corners == (4, 3, 6, 5)
    assert item.rle == {"size": [10, 20], "counts": [43, 1, 9, 2, 145]}


def test_masks_of_a_picture_that_cannot_be_are_refused_before_they_take_memory() -> None:
    far = [mask_shape("ant", [[1]], (at, 3), group_id=7) for at in (4, 2_000_000_000)]
    sides = {"imageHeight": 2_000_000_000, "imageWidth": 2_000_000_000}
    told = problem(*far, **sides)
    assert told.startswith("has a mask for a picture of 2000000000 x 2000000000 px")
    assert problem(*far) == "has a mask that leaves its picture of 20 x 10 px"


def test_a_mask_and_another_shape_are_not_joined() -> None:
    mask = mask_shape("ant", [[1]], (4, 3), group_id=7)
    told = problem(mask, shape("ant", [(1, 2), (3, 4)], group_id=7))
    assert told == "joins a mask and another shape by group_id"


# Flags and raw ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, (None, None, None)),
        ({"difficult": True}, (True, None, None)),
        ({"difficult": False}, (False, None, None)),
        ({"flags": {"occluded": True, "Truncated": False}}, (None, False, True)),
        ({"difficult": False, "flags": {"difficult": True}}, (True, None, None)),
        ({"difficult": "maybe", "flags": None}, (None, None, None)),
    ],
)
def test_flags_are_members_of_a_shape_or_its_flags(members: Any, expected: Any) -> None:
    item = one(shape("ant", [(2, 3), (10, 8)], **members))
    assert (item.difficult, item.truncated, item.occluded) == expected


def test_what_a_shape_and_a_picture_say_besides_stays_in_raw() -> None:
    said = {"score": 0.5, "flags": {"wet": True}, "attributes": {"age": "2"}, "group_id": 3}
    annotation = parsed(shape("ant", [(2, 3), (10, 8)], **said), flags={"night": True}, text="é")
    assert annotation.objects[0].raw == said
    assert annotation.raw == {"flags": {"night": True}, "text": "é"}


@pytest.mark.parametrize(
    ("height", "width", "size", "is_noted"),
    [
        *[(10, 20, (20, 10, None), False), (10.0, 20.0, (20, 10, None), False)],
        *[(None, None, None, False), (0, 0, None, True), ("10", "20", None, True)],
        *[(10, None, None, True), (10.5, 20, None, True), (True, True, None, True)],
    ],
)
def test_the_size_is_two_whole_numbers_or_not_known(
    height: Any, width: Any, size: Any, is_noted: bool
) -> None:
    annotation = parsed(ANT, imageHeight=height, imageWidth=width)
    assert annotation.size_whd == size
    assert [note.code for note in annotation.notes] == ["size-unusable"] * is_noted


# Errors -------------------------------------------------------------------------------------------

BOX = [(2, 3), (10, 8)]
PAIRS = "has points that are not pairs of finite numbers"


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (shape(None, BOX), "is a shape without a label"),
        (shape(" ", BOX), "is a shape without a label"),
        (shape(["ant"], BOX), "is a shape without a label"),
        (shape("ant", [(2, 3)]), "is a rectangle of 1 points, expected 2 or 4"),
        (shape("ant", BOX, "polygon"), "is a polygon of 2 points, expected 3 or more"),
        (shape("ant", BOX[:1], "circle"), "is a circle of 1 points, expected 2"),
        (shape("ant", [(2, 3), (2, 3)], "circle"), "is a circle with radius 0"),
        (shape("ant", BOX, "cuboid"), "has the unknown shape_type 'cuboid'"),
        (shape("ant", BOX) | {"points": None}, "has no points"),
        (shape("ant", BOX) | {"points": [[2, 3], [10]]}, PAIRS),
        (shape("ant", BOX) | {"points": [[2, 3], [10, "8"]]}, PAIRS),
        (shape("ant", BOX) | {"points": [[2, 3], [10, True]]}, PAIRS),
        (shape("ant", BOX) | {"points": [[2, 3], [10, math.nan]]}, PAIRS),
        (shape("ant", BOX) | {"points": [[2, 3], [10, 10**400]]}, PAIRS),
        (shape("ant", BOX, score=math.inf), "holds inf, which is no number"),
        (shape("ant\ud800", BOX), "holds half of a pair of surrogates, which is no text"),
        (mask_shape("ant", [[1]], (4, 3)) | {"mask": None}, "has a mask that is no PNG in base64"),
        (mask_shape("ant", [[1]], (4, 3)) | {"mask": "é"}, "has a mask that is no PNG in base64"),
        (mask_shape("ant", [[1]], (4, 3)) | {"mask": 3}, "has a mask that is no PNG in base64"),
        (
            mask_shape("ant", [[1]], (4, 3)) | {"points": [[4, 3], [5, 3]]},
            "has a mask of 1 x 1 px, expected 2 x 1 by its points",
        ),
        (mask_shape("ant", [[1, 1]], (19, 3)), "has a mask that leaves its picture of 20 x 10 px"),
        (mask_shape("ant", [[1]], (-1, 3)), "has a mask that leaves its picture of 20 x 10 px"),
    ],
)
def test_a_shape_that_cannot_be_read_is_a_bad_object_and_leaves_the_others(
    broken: Shape, told: str
) -> None:
    assert problem(broken) == told
    annotation = parsed(ANT, broken, ANT)
    assert [item.index for item in annotation.objects] == [0, 2]
    assert [bad.index for bad in annotation.bad_objects] == [1]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (b"{", "not JSON: Expecting property name enclosed in double quotes"),
        (b"[]", "has no list of shapes"),
        (b'{"shapes": null}', "has no list of shapes"),
        (b'{"shapes": [], "flags": 1e999}', "holds inf, which is no number"),
        (
            b'{"shapes": [], "flags": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}",
            "holds more than 32 levels of lists and objects",
        ),
    ],
)
def test_a_file_that_no_sample_can_hold_is_an_error(document: bytes, told: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse_labelme(document, PLACE)
    assert caught.value.problem.startswith(told)
    assert caught.value.place == PLACE


def test_shapes_that_are_no_objects_of_json_are_bad_objects() -> None:
    annotation = parse_labelme(b'{"shapes": [3, null, []]}', PLACE)
    assert [bad.problem.problem for bad in annotation.bad_objects] == [
        "is a shape without a label"
    ] * 3
