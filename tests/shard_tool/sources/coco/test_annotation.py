"""What an annotation of COCO's means, quirk by quirk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import AnnotationError
from shard_tool.sources.coco.annotation import parse_document
from tests.kit.datasets.coco_files import BOX, image, thing

if TYPE_CHECKING:
    from shard_tool.sources.annotation import Annotation, ObjectAnnotation

NAMES = {"x": {"1": "ant", "2": "bee"}}
POLYGON = [1, 1, 9, 1, 9, 6.5]
RLE = {"size": [10, 20], "counts": [0, 3, 197]}


def parsed(*things: dict[str, Any], of: dict[str, Any] | None = None) -> Annotation:
    document = {"categories": "x", "image": of or image(7, "a.jpg"), "annotations": [*things]}
    return parse_document(json.dumps(document).encode(), "coco.json#7", names=NAMES)


def one(**fields: Any) -> ObjectAnnotation:
    """The only object of an annotation."""
    found = parsed(thing(3, 7, **fields))
    assert not found.bad_objects, found.bad_objects
    (its,) = found.objects
    return its


def codes(**fields: Any) -> list[str]:
    return [note.code for note in parsed(thing(3, 7, **fields)).notes]


def problem(**fields: Any) -> str:
    """What is wrong with the only object."""
    found = parsed(thing(3, 7, **fields))
    assert not found.objects
    assert not found.notes, "what is noted of a bad object is not counted"
    (bad,) = found.bad_objects
    return f"{bad.problem.place}: {bad.problem.problem}"


def test_a_plain_annotation() -> None:
    found = parsed(thing(3, 7, area=40.5, iscrowd=0, segmentation=[POLYGON], score=0.5))
    (its,) = found.objects
    assert (its.index, its.name, its.corners) == (0, "ant", (2, 3, 10, 8))
    assert its.polygons == (tuple(POLYGON),)
    assert its.rle is None
    assert its.crowd is False
    assert its.raw == {"id": 3, "area": 40.5, "score": 0.5, "bbox": BOX}
    assert found.size_whd == (20, 10, None)
    assert found.raw == {"id": 7}
    assert (found.notes, found.bad_objects) == ((), ())


def test_an_image_without_annotations_has_no_objects() -> None:
    assert parsed()[6:8] == ((), ())


def test_what_an_image_says_beside_is_kept() -> None:
    more = {"license": 4, "coco_url": "http://x/a.jpg", "date_captured": None}
    assert parsed(of=image("a", "a.jpg", **more)).raw == {"id": "a", **more}


@pytest.mark.parametrize(
    ("size", "expected", "noted"),
    [
        ({"width": 20, "height": 10}, (20, 10, None), []),
        ({"width": 20.0, "height": 10}, (20, 10, None), []),
        ({}, None, []),
        ({"width": None, "height": 10}, None, []),
        ({"width": 20}, None, []),
        ({"width": 0, "height": 0}, None, ["size-unusable"]),
        ({"width": -20, "height": 10}, None, ["size-unusable"]),
        ({"width": "20", "height": 10}, None, ["size-unusable"]),
        ({"width": 20.5, "height": 10}, None, ["size-unusable"]),
        ({"width": True, "height": True}, None, ["size-unusable"]),
    ],
)
def test_sizes(size: dict[str, Any], expected: Any, noted: list[str]) -> None:
    found = parsed(of={"id": 7, "file_name": "a.jpg", **size})
    assert found.size_whd == expected
    assert [note.code for note in found.notes] == noted


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ([2, 3, 8, 5], (2, 3, 10, 8)),
        ([0.1, 0.7, 0.2, 0.1], (0.1, 0.7, 0.1 + 0.2, 0.7 + 0.1)),
        ([-4, 3, 2, 5], (-4, 3, -2, 8)),
        ([2, 3, 0, 5], (2, 3, 2, 8)),
        ([9, 8, -7, -5], (9, 8, 2, 3)),
    ],
)
def test_boxes_are_corners_in_doubles_and_kept_as_written(bbox: Any, expected: Any) -> None:
    its = one(bbox=bbox)
    assert its.corners == expected
    assert its.raw is not None
    assert its.raw["bbox"] == bbox


@pytest.mark.parametrize(
    "bbox",
    [
        *(["1", "2", "3", "4"], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, None], [1, 2, 3, True]),
        *([[1, 2, 3, 4]], {"x": 1}, "1 2 3 4", 5, [10**400, 1, 2, 3]),
    ],
)
def test_a_box_without_four_numbers_is_a_bad_object(bbox: Any) -> None:
    told = problem(bbox=bbox)
    assert told.startswith("coco.json#7: object 1 'ant': bbox is ")


@pytest.mark.parametrize("bbox", ["absent", None, []])
def test_an_object_without_a_box_gets_that_of_its_shape(bbox: Any) -> None:
    its = one(bbox=bbox, segmentation=[POLYGON, [3, 0, 4, 9, 5, 5]])
    assert its.corners == (1, 0, 9, 9)
    assert its.raw == {"id": 3}
    assert codes(bbox=bbox, segmentation=[POLYGON]) == ["box-from-polygon"]
    assert one(bbox=bbox, segmentation=RLE).corners == (0, 0, 1, 3)
    assert codes(bbox=bbox, segmentation=RLE) == ["box-from-mask"]
    some_empty = {"size": [10, 20], "counts": [3, 0, 10, 4, 100, 0, 83]}
    assert one(bbox=bbox, segmentation=some_empty).corners == (1, 3, 2, 7)
    empty = {"size": [10, 20], "counts": [200]}
    for nothing in (None, [], {}, [[]], [[1, 2]], empty):
        told = problem(bbox=bbox, segmentation=nothing)
        assert told.endswith("has neither a bbox nor a segmentation with an area")


@pytest.mark.parametrize("nothing", [None, [], {}, "", [[]], 0])
def test_an_object_without_a_segmentation_has_none(nothing: Any) -> None:
    its = one(segmentation=nothing)
    assert (its.polygons, its.rle) == (None, None)
    assert codes(segmentation=nothing) == []


def test_one_list_of_numbers_is_one_polygon() -> None:
    assert one(segmentation=POLYGON).polygons == (tuple(POLYGON),)
    assert codes(segmentation=POLYGON) == ["polygon-flat"]


@pytest.mark.parametrize("bad", [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]])
def test_a_polygon_without_three_whole_corners_is_left_out(bad: list[int]) -> None:
    assert one(segmentation=[bad, POLYGON]).polygons == (tuple(POLYGON),)
    assert codes(segmentation=[bad, POLYGON, bad]) == ["polygon-dropped"] * 2
    assert one(segmentation=[bad]).polygons is None


@pytest.mark.parametrize(
    "bad",
    [
        *([[1, 2, 3, 4, 5, "6"]], [[[1, 2], [3, 4], [5, 6]]], "text", 5, True, [POLYGON, 5]),
        *([[1, 2, 3, 4, 5, None]], [None]),
    ],
)
def test_what_is_no_segmentation_is_a_bad_object(bad: Any) -> None:
    assert ": segmentation " in problem(segmentation=bad)


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [10, 20], "counts": [0, 3, 197]},
        {"size": [10, 20], "counts": [200]},
        {"size": [10, 20], "counts": "03U6"},
    ],
)
def test_run_lengths_are_kept_as_written(rle: Any) -> None:
    its = one(segmentation=rle, iscrowd=1)
    assert (its.rle, its.polygons, its.crowd) == (rle, None, True)


@pytest.mark.parametrize(
    ("rle", "expected"),
    [
        ({"size": [10, 20], "counts": [POLYGON]}, "polygons as the counts"),
        ({"size": [10, 20], "counts": [0, 3, 196]}, "the runs have 199 pixels"),
        ({"size": [10, 20], "counts": "03U7"}, "the runs have"),
        ({"size": [10, 20], "counts": "~"}, "not one of run lengths"),
        ({"size": [10, 20], "counts": "é"}, "not one of run lengths"),
        ({"size": [10, 20], "counts": [-3, 203]}, "shorter than 0"),
        ({"size": [10, 20], "counts": [0, 3.5, 196.5]}, "expected a text or whole numbers"),
        ({"size": [10, 20], "counts": None}, "expected a text or whole numbers"),
        ({"size": [10, 20]}, "expected a text or whole numbers"),
        ({"counts": [200]}, "expected [height, width]"),
        ({"size": [10, 20.0], "counts": [200]}, "expected [height, width]"),
        ({"size": [0, 20], "counts": [0]}, "expected [height, width]"),
        ({"size": "10", "counts": [0]}, "expected [height, width]"),
        ({"size": [10, 20], "counts": [10**30, 2]}, "segmentation"),
    ],
)
def test_run_lengths_that_are_none_are_a_bad_object(rle: Any, expected: str) -> None:
    assert expected in problem(segmentation=rle)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), (0, False), (1, True), (False, False), (True, True), (1.0, True)],
    ids=repr,
)
def test_crowds(value: Any, expected: bool | None) -> None:
    assert one(iscrowd=value).crowd is expected
    assert one().crowd is None


@pytest.mark.parametrize("value", [2, -1, "0", [], 0.5], ids=repr)
def test_what_says_neither_crowd_nor_not_is_a_bad_object(value: Any) -> None:
    assert "iscrowd is" in problem(iscrowd=value)


def test_a_box_that_cvat_rotated_is_the_hull() -> None:
    its = one(bbox=[0, 0, 8, 4], attributes={"occluded": False, "rotation": 90.0})
    assert its.corners == pytest.approx((2, -2, 6, 6))
    assert its.raw is not None
    assert its.raw["bbox"] == [0, 0, 8, 4]
    assert codes(attributes={"rotation": 30}) == ["rotated-box"]
    upright = (2, 3, 10, 8)
    for attributes in ({"rotation": 0.0}, {}, None, {"rotation": "90"}, {"rotation": True}, []):
        assert one(attributes=attributes).corners == upright
        assert codes(attributes=attributes) == []
    assert one(attributes={"rotation": 90}, segmentation=[POLYGON]).corners == upright
    assert one(attributes={"rotation": 90}, bbox=[9, 8, -7, -5]).corners == (9, 8, 2, 3)


def test_key_points_are_counted_and_kept() -> None:
    points = [1, 2, 2] * 17
    assert one(keypoints=points, num_keypoints=17).raw == {
        "id": 3,
        "keypoints": points,
        "num_keypoints": 17,
        "bbox": BOX,
    }
    assert codes(keypoints=points) == ["keypoints-unread"]
    assert codes(keypoints=[]) == []


@pytest.mark.parametrize("category", [1, 1.0, "1", "01"], ids=repr)
def test_categories_are_known_by_their_number(category: Any) -> None:
    assert one(category_id=category).name == "ant"


@pytest.mark.parametrize("category", [3, "ant", 1.5, None, [1], True], ids=repr)
def test_an_object_of_no_category_is_a_bad_object(category: Any) -> None:
    told = problem(category_id=category)
    assert "category_id" in told


def test_a_bad_object_leaves_the_others_and_its_number() -> None:
    found = parsed(thing(1, 7), thing(2, 7, bbox=5), thing(3, 7, 2))
    assert [(its.index, its.name) for its in found.objects] == [(0, "ant"), (2, "bee")]
    assert [(bad.index, bad.name) for bad in found.bad_objects] == [(1, "ant")]


@pytest.mark.parametrize("number", ["1e999", '"\\ud800"'])
def test_what_no_sample_can_hold_is_an_error(number: str) -> None:
    text = f'{{"categories":"x","image":{{"id":7}},"annotations":[{{"id":{number}}}]}}'
    with pytest.raises(AnnotationError, match=r"coco.json#7: cannot be read: "):
        parse_document(text.encode(), "coco.json#7", names=NAMES)
