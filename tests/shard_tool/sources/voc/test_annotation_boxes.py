"""Boxes of objects that are not drawn as a plain `bndbox`: rotated, polygons, others."""

from __future__ import annotations

import math

import pytest

from shard_tool.sources.voc.annotation import Annotation, parse_annotation

PLACE = "a.xml"
BOX = "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>50</xmax><ymax>40</ymax></bndbox>"


def parse(inner: str) -> Annotation:
    content = f"<annotation><object><name>cat</name>{inner}</object></annotation>"
    return parse_annotation(content.encode(), place=PLACE)


def corners_of(inner: str) -> tuple[float, ...]:
    (item,) = parse(inner).objects
    assert item.corners is not None
    return item.corners


def notes_of(inner: str) -> list[tuple[str, str]]:
    return [(note.code, note.detail) for note in parse(inner).notes]


def bad(inner: str) -> str:
    (item,) = parse(inner).bad_objects
    return str(item.problem)


def turned(value: str, name: str = "rotation") -> str:
    pair = f"<attribute><name>{name}</name><value>{value}</value></attribute>"
    other = "<attribute><name>colour</name><value>red</value></attribute>"
    return f"{BOX}<attributes>{other}{pair}</attributes>"


def hull(centre: tuple[float, float], size: tuple[float, float], radians: float) -> list[float]:
    """By its four corners, as CVAT turns them (RotatedBoxesToPolygons in transformations.py)."""
    cosine, sine = math.cos(radians), math.sin(radians)
    around = [(dx * size[0] / 2, dy * size[1] / 2) for dx in (-1, 1) for dy in (-1, 1)]
    xs = [centre[0] + x * cosine - y * sine for x, y in around]
    ys = [centre[1] + x * sine + y * cosine for x, y in around]
    return [min(xs), min(ys), max(xs), max(ys)]


# CVAT -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [30, 90, 123.5, 180, 359.9, -45])
def test_box_with_a_rotation_becomes_the_hull_around_its_centre(degrees: float) -> None:
    expected = hull((30, 30), (40, 20), math.radians(degrees))
    assert corners_of(turned(str(degrees))) == pytest.approx(expected)
    detail = f"bndbox turned by {degrees:g} degrees"
    assert notes_of(turned(str(degrees))) == [("rotated-box", detail)]


def test_a_quarter_turn_swaps_the_sides() -> None:
    assert corners_of(turned("90.0")) == pytest.approx((20, 10, 40, 50))


@pytest.mark.parametrize(
    "inner",
    [
        turned("0.0"),
        turned("-0"),
        turned("left"),
        turned(""),
        turned("30", name="colour"),
        f"{BOX}<attributes/>",
    ],
)
def test_upright_box_stays_as_written(inner: str) -> None:
    assert corners_of(inner) == (10, 20, 50, 40)
    assert notes_of(inner) == []


def test_inverted_box_stays_inverted() -> None:
    inner = turned("30").replace("<xmin>10", "<xmin>60")
    assert corners_of(inner) == (60, 20, 50, 40)
    assert notes_of(inner) == []


# roLabelImg -----------------------------------------------------------------------------------


def robndbox(angle: object, width: object = 40, height: object = 20) -> str:
    values = {"cx": 30, "cy": 30, "w": width, "h": height, "angle": angle}
    inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in values.items())
    return f"<type>robndbox</type><robndbox>{inner}</robndbox>"


@pytest.mark.parametrize("radians", [0, 0.5, math.pi / 2, 3.141592, -1.2])
def test_robndbox_becomes_its_hull(radians: float) -> None:
    expected = hull((30, 30), (40, 20), radians)
    assert corners_of(robndbox(radians)) == pytest.approx(expected)
    detail = f"robndbox turned by {radians:g} radians"
    assert notes_of(robndbox(radians)) == [("rotated-box", detail)]


@pytest.mark.parametrize(
    ("inner", "problem"),
    [
        (robndbox(45), "<angle> is 45, expected radians within a turn"),
        (robndbox(1, width=0), "<robndbox> has width 0 and height 20"),
        (robndbox(1, height=-3), "<robndbox> has width 40 and height -3"),
        (robndbox("x"), "<angle> is 'x', expected a number"),
        (robndbox(1).replace("cx>", "x>"), "<robndbox> has no <cx>"),
    ],
)
def test_robndbox_without_a_certain_box_is_an_error(inner: str, problem: str) -> None:
    assert bad(inner) == f"{PLACE}: object 1 'cat': {problem}"


# Polygons and others --------------------------------------------------------------------------


def polygon(*points: tuple[object, object]) -> str:
    tags = (f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(points, start=1))
    return f"<polygon>{''.join(tags)}</polygon>"


TRIANGLE = polygon((10, 25), (50.5, 20), (30, 40))


def test_object_with_only_a_polygon_gets_its_hull() -> None:
    assert corners_of(TRIANGLE) == (10, 20, 50.5, 40)
    assert notes_of(TRIANGLE) == [("box-from-polygon", "3 points")]
    capitals = TRIANGLE.replace("polygon", "Polygon").replace("x1", "X1")
    assert corners_of(capitals) == (10, 20, 50.5, 40)


def test_all_polygons_of_an_object_are_within_its_box() -> None:
    inner = TRIANGLE + polygon((0, 22), (5, 22), (5, 99))
    assert corners_of(inner) == (0, 20, 50.5, 99)
    assert notes_of(inner) == [("box-from-polygon", "6 points")]


@pytest.mark.parametrize(
    ("inner", "shapes"),
    [
        (BOX + TRIANGLE, "<polygon>"),
        (BOX + TRIANGLE + TRIANGLE + robndbox(1), "<polygon> <robndbox>"),
        (BOX + "<segmentation>1 2 3 4</segmentation>", "<segmentation>"),
    ],
)
def test_shape_beside_a_box_is_dropped_and_noted(inner: str, shapes: str) -> None:
    assert corners_of(inner) == (10, 20, 50, 40)
    assert notes_of(inner) == [("shape-dropped", shapes)]


@pytest.mark.parametrize(
    ("inner", "problem"),
    [
        ("<polygon/>", "<polygon> holds nothing, expected <x1>, <y1>, <x2>, … of 3 points or more"),
        (
            polygon((1, 2), (3, 4)),
            "<polygon> holds <x1>, <y1>, <x2>, expected <x1>, <y1>, <x2>, … of 3 points or more",
        ),
        (
            TRIANGLE.replace("x2", "x9"),
            "<polygon> holds <x1>, <y1>, <x9>, expected <x1>, <y1>, <x2>, … of 3 points or more",
        ),
        (
            TRIANGLE.replace("</polygon>", "<x1>99</x1></polygon>"),
            "<polygon> holds <x1>, <y1>, <x2>, expected <x1>, <y1>, <x2>, … of 3 points or more",
        ),
        (
            TRIANGLE.replace("y3", "x1"),
            "<polygon> holds <x1>, <y1>, <x2>, expected <x1>, <y1>, <x2>, … of 3 points or more",
        ),
        (
            "<polygon><pt><x>1</x><y>2</y></pt></polygon>",  # MIT's LabelMe
            "<polygon> holds <pt>, expected <x1>, <y1>, <x2>, … of 3 points or more",
        ),
        (polygon((1, 2), (3, 4), (5, "x")), "<y3> is 'x', expected a number"),
        ("<segment/>", "has no <bndbox> (nor a <point>); it has <segment>"),
        (
            "<bbox>1 2 3 4</bbox><id>7</id>",
            "has no <bndbox> (nor a <point>); it has <bbox>, <id>",
        ),
        ("<bndbox xmin='1' ymin='2' xmax='3' ymax='4'/>", "<bndbox> has no <xmin>"),
        (
            "<bndbox><x>1</x><y>2</y><w>3</w><h>4</h></bndbox>",
            "<bndbox> has no <xmin>",
        ),
    ],
)
def test_object_without_a_certain_box_is_an_error(inner: str, problem: str) -> None:
    assert bad(inner) == f"{PLACE}: object 1 'cat': {problem}"
