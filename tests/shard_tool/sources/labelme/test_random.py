"""Random files: any composition of habits reads like the plain truth, and no bytes do harm."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_tool.errors import AnnotationError
from shard_tool.sources.labelme.annotation import parse_labelme
from shard_tool.sources.labelme.json_file import read_labelme
from shard_tool.sources.notes import MEANINGS
from tests.kit.datasets.damaged import damaged
from tests.kit.datasets.labelme_files import ANT, BEE, labelme, mask_shape, shape

PLACE = "a.json"
WITHOUT_AREA = ("point", "points", "line", "linestrip")


class Truth(NamedTuple):
    """An object, as plainly as it can be said."""

    name: str
    box: tuple[float, ...]
    outlines: tuple[tuple[float, ...], ...] | None
    difficult: bool | None


numbers = st.integers(0, 60) | st.sampled_from([0.25, 7.5, 1e-3])
names = st.text("猫é ab&\"'", min_size=1, max_size=5).filter(str.strip)


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[str, list[Any], tuple[float, ...], Any]:
    x0, y0 = draw(numbers), draw(numbers)
    x1, y1 = x0 + 1 + draw(numbers), y0 + 1 + draw(numbers)
    two = st.sampled_from([((x0, y0), (x1, y1)), ((x1, y0), (x0, y1))]).flatmap(st.permutations)
    four = st.permutations([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    return "rectangle", draw(two | four), (x0, y0, x1, y1), None


@st.composite
def polygons(draw: st.DrawFn) -> tuple[str, list[Any], tuple[float, ...], Any]:
    points = draw(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=6))
    xs, ys = [x for x, _ in points], [y for _, y in points]
    flat = tuple(float(value) for point in points for value in point)
    return "polygon", points, (min(xs), min(ys), max(xs), max(ys)), (flat,)


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, list[Truth], set[str], int]:
    """A file's bytes, its objects, the codes of its notes and its number of unread shapes."""
    shapes, truths, codes, num_unread = list[Any](), list[Truth](), set[str](), 0
    groups = dict[tuple[str, int], int]()
    for _ in range(draw(st.integers(0, 5))):
        name = draw(names)
        if draw(st.integers(0, 4)) == 0:
            kind = draw(st.sampled_from(WITHOUT_AREA))
            shapes.append(shape(name, [(1, 2), (3, 4)], kind))
            codes.add("shape-without-area")
            num_unread += 1
            continue
        kind, points, box, outlines = draw(rectangles() | polygons())
        difficult = draw(st.sampled_from([True, False, None]))
        is_member = draw(st.booleans())
        said: dict[str, Any] = {} if difficult is None else {"difficult": difficult}
        more = said if is_member else {"flags": said}
        group = draw(st.sampled_from([None, None, 0, 1, 7]))
        shapes.append(shape(name, points, kind, group_id=group, **more))
        truth = Truth(name.strip(), box, outlines, difficult)
        at = groups.get((truth.name, group)) if group is not None else None
        if at is None:
            groups |= {} if group is None else {(truth.name, group): len(truths)}
            truths.append(truth)
            continue
        codes.add("shapes-joined")
        truths[at] = joined(truths[at], truth)
    path = draw(names)
    document = json.loads(labelme(path, *shapes))
    if draw(st.booleans()):
        document["imageData"] = "QUJD" * draw(st.integers(0, 50))
    items = draw(st.permutations([*document.items()]))
    text = json.dumps(dict(items), ensure_ascii=draw(st.booleans()))
    codec = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"]))
    return text.encode(codec), truths, codes, num_unread


def joined(one: Truth, other: Truth) -> Truth:
    """One object of two shapes: both outlines, and the box around both boxes."""
    (a, b, c, d), (e, f, g, h) = one.box, other.box
    said = [its for its in (one.difficult, other.difficult) if its is not None]
    return Truth(
        one.name,
        (min(a, e), min(b, f), max(c, g), max(d, h)),
        (*outline_or_box(one), *outline_or_box(other)),
        any(said) if said else None,
    )


def outline_or_box(truth: Truth) -> tuple[tuple[float, ...], ...]:
    x0, y0, x1, y1 = truth.box
    return truth.outlines or ((x0, y0, x1, y0, x1, y1, x0, y1),)


@pytest.mark.slow
@given(files())
def test_any_composition_reads_like_the_plain_truth(
    file: tuple[bytes, list[Truth], set[str], int],
) -> None:
    content, truths, codes, num_unread = file
    found = read_labelme(content)
    assert found is not None
    assert b"imageData" not in found.document
    annotation = parse_labelme(found.document, PLACE)
    assert [
        Truth(item.name, item.corners or (), item.polygons, item.difficult)
        for item in annotation.objects
    ] == truths
    assert annotation.bad_objects == ()
    assert {note.code for note in annotation.notes} == codes
    assert len((annotation.raw or {}).get("unread", ())) == num_unread
    assert annotation.size_whd == (20, 10, None)


SEEDS = [
    labelme("a.jpg", ANT, BEE, {**BEE, "group_id": 1}, {**ANT, "group_id": 1, "label": "bee"}),
    labelme("图.jpg", mask_shape("ant", [[1, 0], [1, 1]], (3, 4)), shape("p", [(1, 2)], "point")),
    labelme(None, shape("c", [(5, 5), (7, 7)], "circle"), imageData="QUJD"),
]
PIECES = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"NaN", b"-Infinity", b"1e999", b"true"),
    *(b'"shapes": [', b'"points"', b'"label"', b'"group_id": "x"', b'"shape_type": "mask"', b"\\"),
    *(b"9" * 5000, b"[" * 3000, b'"\\ud800"', b"\xef\xbb\xbf", b"\xff\xfe", b"\xa1\xa2", b"\0"),
    *(b'"flags": {"difficult": true}', b'"mask": "QUJD"', b"-1", b"0.5", b"\xe9"),
)


@pytest.mark.slow
@settings(max_examples=600)
@given(damaged(SEEDS, PIECES) | st.binary(max_size=200))
def test_any_bytes_give_an_annotation_or_our_error(content: bytes) -> None:
    try:
        found = read_labelme(content)
    except ValueError:
        return
    if found is None:
        return
    found.image_path.encode()
    try:
        annotation = parse_labelme(found.document, PLACE)
    except AnnotationError as exc:
        assert exc.place == PLACE  # noqa: PT017  (either is right)
        return
    for value in [annotation.raw, *((item.raw, item.name) for item in annotation.objects)]:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    assert all(note.code in MEANINGS for note in annotation.notes)
    assert all(str(bad.problem).startswith(PLACE) for bad in annotation.bad_objects)
    indices = [item.index for item in (*annotation.objects, *annotation.bad_objects)]
    assert len(set(indices)) == len(indices)
