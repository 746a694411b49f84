"""Random files: any composition reads like the plain truth, and no bytes do harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_tool.errors import AnnotationError, DataError
from shard_tool.sources.cvat.annotation import parse_cvat
from shard_tool.sources.cvat.xml_file import is_cvat, read_cvat
from shard_tool.sources.notes import MEANINGS
from tests.kit.datasets.cvat_files import (
    ANT,
    BEE,
    attribute,
    box,
    cvat,
    element,
    image,
    mask,
    polygon,
    shape,
)
from tests.kit.datasets.damaged import damaged

PLACE = "annotations.xml"

names = st.text("猫é ab&<>\"'/", min_size=1, max_size=6).filter(str.strip)
numbers = st.integers(0, 9999).map(lambda value: value / 100)
Truth = tuple[str, tuple[float, ...], Any, bool]


@st.composite
def boxes(draw: st.DrawFn) -> tuple[str, Truth]:
    name, corners, occluded = draw(names), draw(st.tuples(*[numbers] * 4)), draw(st.booleans())
    inner = [attribute(draw(names), draw(names))] if draw(st.booleans()) else []
    drawn = box(name, corners, *inner, occluded=int(occluded))
    return drawn, (name.strip(), corners, None, occluded)


@st.composite
def polygons(draw: st.DrawFn) -> tuple[str, Truth]:
    name = draw(names)
    points = draw(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=6))
    xs, ys = [x for x, _ in points], [y for _, y in points]
    flat = tuple(value for point in points for value in point)
    truth = (name.strip(), (min(xs), min(ys), max(xs), max(ys)), (flat,), False)
    return polygon(name, points), truth


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, str, list[Truth], int]]]:
    """A file, and of each image its name, subset, objects and number of unread shapes."""
    images, truths = list[str](), list[tuple[str, str, list[Truth], int]]()
    for number in range(draw(st.integers(0, 4))):
        shapes, objects, num_unread = list[str](), list[Truth](), 0
        for _ in range(draw(st.integers(0, 4))):
            if draw(st.integers(0, 3)) == 0:
                tag = draw(st.sampled_from(["polyline", "points", "cuboid", "skeleton", "tag"]))
                shapes.append(shape(tag, draw(names)))
                num_unread += 1
            else:
                drawn, truth = draw(boxes() | polygons())
                shapes.append(drawn)
                objects.append(truth)
        name, subset = draw(names), draw(st.sampled_from(["", "Train", "val"]))
        more = {"subset": subset} if subset else {}
        images.append(image(name, *shapes, id_=number, **more))
        images.append(draw(st.sampled_from(["", "\n", "<!-- <image/> -->", "<?image?>"])))
        truths.append((name, subset, objects, num_unread))
    content = cvat(*images, labels=draw(st.lists(names.map(str.strip), max_size=3)))
    codec = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]))
    return content.decode().encode(codec), truths


@pytest.mark.slow
@given(files())
def test_any_composition_reads_like_the_plain_truth(
    file: tuple[bytes, list[tuple[str, str, list[Truth], int]]],
) -> None:
    content, truths = file
    assert is_cvat(content)
    read = read_cvat(content, PLACE)
    found = []
    for its in read.images:
        annotation = parse_cvat(read.document(its), PLACE)
        assert annotation.bad_objects == ()
        objects = [
            (item.name, item.corners, item.polygons, item.occluded) for item in annotation.objects
        ]
        unread = (annotation.raw or {}).get("unread", ())
        assert len(annotation.notes) == len(unread)
        found.append((its.name, its.subset, objects, len(unread)))
    assert found == truths


SEEDS = [
    cvat(image("a.jpg", ANT, BEE), image("b.jpg", mask("ant", [[1, 0], [1, 1]], (3, 4)))),
    cvat(
        image("a.jpg", shape("ellipse", "c", cx="5.00", cy="5.00", rx="2.00", ry="1.00")),
        image("b.jpg", element("tag", label="x"), box("ant", (1, 2, 3, 4), rotation="30")),
        labels=(),
    ),
]
PIECES = (
    *(b"<image>", b"</image>", b'<image name="a"/>', b"<track>", b"<annotations>", b"</meta>"),
    *(b"<labels>", b"<label>", b"<name>", b"<subset>", b"<!DOCTYPE a>", b"]]>", b"<![CDATA["),
    *(b"<!ENTITY a 'b'>", b"&a;", b"&#0;", b"&amp;", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xa1"),
    *(b'"', b"'", b">", b"nan", b"1e999", b"9" * 400, b"-", b"; ;", b'rotation="x"', b"\n"),
    *(b'rle="0, 9"', b'width="0"', b"<mask ", b"<ellipse ", b"<?xml encoding='gbk'?>"),
)


@pytest.mark.slow
@settings(max_examples=600)
@given(damaged(SEEDS, PIECES) | st.binary(max_size=200))
def test_any_bytes_give_annotations_or_our_error(content: bytes) -> None:
    is_cvat(content)
    try:
        read = read_cvat(content, PLACE)
    except DataError as exc:
        assert exc.place == PLACE  # noqa: PT017  (either is right)
        return
    for its in read.images:
        try:
            annotation = parse_cvat(read.document(its), PLACE)
        except AnnotationError as exc:
            assert exc.place == PLACE  # noqa: PT017
            continue
        assert annotation.filename == its.name
        said = [annotation.raw, *((item.raw, item.name) for item in annotation.objects)]
        json.dumps(said, ensure_ascii=False, allow_nan=False).encode()
        assert all(note.code in MEANINGS for note in annotation.notes)
        assert all(str(bad.problem).startswith(PLACE) for bad in annotation.bad_objects)
