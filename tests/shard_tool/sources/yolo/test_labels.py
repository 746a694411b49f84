"""Lines of YOLO's labels as tools and people write them."""

from __future__ import annotations

import pickle
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_tool.errors import AnnotationError
from shard_tool.sources.boxes import NORMALIZED, placed
from shard_tool.sources.yolo.labels import parse_labels
from tests.kit.datasets.yolo_files import line_of

if TYPE_CHECKING:
    from shard_tool.sources.annotation import Annotation

NAMES = {0: "ant", 1: "bee", 7: "fly"}
ROW = "1 0.5 0.5 0.25 0.5"
CORNERS = (0.375, 0.25, 0.625, 0.75)


def parsed(text: str | bytes, num_keypoints: int = 0) -> Annotation:
    content = text.encode() if isinstance(text, str) else text
    return parse_labels(content, "a.txt", names=NAMES, num_keypoints=num_keypoints)


def problem(line: str, num_keypoints: int = 0) -> AnnotationError:
    """Why a line is no object; the one after it still is."""
    found = parsed(f"{line}\n{ROW}\n", num_keypoints)
    assert [item.index for item in found.objects] == [1]
    (bad,) = found.bad_objects
    assert (bad.index, bad.problem.place) == (0, "a.txt: line 1")
    assert not found.notes
    return bad.problem


# Good lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        ROW,
        "1.0 0.5 0.5 0.25 0.5",
        "1e0 .5 5e-1 +0.25 0.5",
        "1\t0.5  0.5\t\t0.25 0.5   ",
        "  \t1 0.5 0.5 0.25 0.5",
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r", "\n\n \n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_box(line: str, end: str, mark: str) -> None:
    found = parsed(f"{mark}{line}{end}")
    (item,) = found.objects
    assert (item.index, item.name, item.corners, item.polygons) == (0, "bee", CORNERS, None)
    assert (item.difficult, item.raw, found.size_whd, found.bad_objects) == (None, None, None, ())
    assert not found.notes


def test_utf_16_with_a_mark() -> None:
    (item,) = parsed(f"{ROW}\r\n".encode("utf-16")).objects
    assert item.corners == CORNERS


@pytest.mark.parametrize("line", ["1,0.5,0.5,0.25,0.5", "1, 0.5, 0.5, 0.25, 0.5,"])
def test_commas_between_numbers_are_counted(line: str) -> None:
    found = parsed(f"{line}\n{line.replace('1', '0')}\n")
    assert [item.corners for item in found.objects] == [CORNERS, CORNERS]
    assert [(note.code, note.detail) for note in found.notes] == [("commas", "2 lines")]


@pytest.mark.parametrize("text", ["", "\n", " \n\t\r\n", "\ufeff"])
def test_a_file_without_lines_has_no_objects(text: str) -> None:
    assert parsed(text) == parsed("")
    assert not parsed(text).objects
    assert not parsed(text).bad_objects


def test_a_polygon_is_kept_and_gives_its_box() -> None:
    found = parsed("7 0.1 0.2 0.5 0.2 0.25 0.75 0.1 0.2\n")
    (item,) = found.objects
    assert item.polygons == ((0.1, 0.2, 0.5, 0.2, 0.25, 0.75, 0.1, 0.2),)
    assert item.corners == (0.1, 0.2, 0.5, 0.75)
    (note,) = found.notes
    assert (note.code, note.detail, note.object_index) == ("box-from-polygon", "line 1 'fly'", 0)


def test_boxes_and_polygons_in_one_file() -> None:
    triangle = "0 0 0 1 0 1 1"
    found = parsed(f"{ROW}\n{triangle}\n{ROW.replace('1', '0')}\n")
    assert [item.polygons for item in found.objects] == [None, ((0, 0, 1, 0, 1, 1),), None]
    assert [item.corners for item in found.objects] == [CORNERS, (0, 0, 1, 1), CORNERS]


def test_a_polygon_is_clipped_and_its_box_is_left_to_the_rule_for_boxes() -> None:
    (item,) = parsed("0 -0.004 0.5 1.003 0.5 0.5 1.5\n").objects
    assert item.polygons == ((0.0, 0.5, 1.0, 0.5, 0.5, 1.0),)
    assert item.corners == (-0.004, 0.5, 1.003, 1.5)


def test_keypoints_stay_in_raw_and_are_counted() -> None:
    found = parsed(f"{ROW} 0.5 0.5 2 0 0 0\n{ROW}\n", num_keypoints=6)
    with_them, without = found.objects
    assert with_them.raw == {"keypoints": [0.5, 0.5, 2, 0, 0, 0]}
    assert (with_them.corners, with_them.polygons) == (CORNERS, None)
    assert (without.corners, without.raw) == (CORNERS, None)
    assert [(note.code, note.object_index) for note in found.notes] == [("keypoints-unread", 0)]


def test_a_line_again_is_counted_and_taken_once() -> None:
    found = parsed(f"{ROW}\n0 0.5 0.5 0.25 0.5\n\n1.0 0.50 .5 0.25 0.5\n{ROW.replace('5', '4')}\n")
    assert [(item.index, item.name) for item in found.objects] == [
        (0, "bee"),
        (1, "ant"),
        (3, "bee"),
    ]
    (note,) = found.notes
    assert (note.code, note.detail, note.object_index) == ("object-twice", "line 4", 2)


def test_comments_are_counted() -> None:
    found = parsed(f"# by hand\n{ROW}\n  #{ROW}\n")
    assert [item.index for item in found.objects] == [0]
    assert [(note.code, note.detail) for note in found.notes] == [
        ("comment", "line 1"),
        ("comment", "line 3"),
    ]


# Bad lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 has no name (there are 0 … 7)"),
        ("1e9 0.5 0.5 0.1 0.1", "class 1000000000 has no name"),
        ("-1 0.5 0.5 0.1 0.1", "class '-1' is no number of a class"),
        ("0.5 0.5 0.5 0.1 0.1", "class '0.5' is no number of a class"),
        ("nan 0.5 0.5 0.1 0.1", "'nan' is no number"),
        ("inf 0.5 0.5 0.1 0.1", "'inf' is no number"),
        ("bee 0.5 0.5 0.1 0.1", "'bee' is no number"),
        ("1 0.5 NaN 0.1 0.1", "'NaN' is no number"),
        ("1 0.5 0.5 -inf 0.1", "'-inf' is no number"),
        ("1 0.5 0.5 1e999 0.1", "'1e999' is no number"),
        ("1 0.5 0.5 0.1 0.0_1", "'0.0_1' is no number"),
        ("1 0.5 0.5 0.1 \u0660.\u0661", "'\u0660.\u0661' is no number"),
        ("1 0.5 0.5 0.1 0.1 # bee", "'#' is no number"),
        ("1 0.5 0.5 0.1 0.1;", "'0.1;' is no number"),
        ("1 0.5 0.5 0.1", "has 4 columns"),
        ("1", "has 1 columns"),
        ("1 0.5 0.5 0.1 0.1 0.87", "has 6 columns"),
        ("1 0.1 0.1 0.5 0.1 0.5 0.5 0.87", "has 8 columns"),
        ("1 0,5 0,5 0,1 0,1", "'0,5' has a comma inside"),
        ("1 0.5,0.5,0.1,0.1", "'0.5,0.5,0.1,0.1' has a comma inside"),
        ("1 320 240 64 48", "has numbers from 48 to 320, which look like pixels"),
        ("1 0 0 64 0.5", "which look like pixels"),
        ("1 0.5 -2 0.5 0.5", "which look like pixels"),
        ("1 10 10 90 10 90 90", "which look like pixels"),
        (f"1 {'x' * 1000} 0.5 0.1 0.1", f"'{'x' * 24}' is no number"),
    ],
)
def test_a_line_that_is_no_object(line: str, told: str) -> None:
    found = problem(line)
    assert told in found.problem
    assert len(str(found)) < 300


def test_confidences_are_told_from_labels() -> None:
    assert "predictions have a confidence" in problem("1 0.5 0.5 0.1 0.1 0.87").hint
    assert not problem("1 0.5 0.5 0.1").hint


def test_other_columns_than_keypoints_have() -> None:
    its = problem("1 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5", num_keypoints=6)
    assert its.problem == "has 9 columns (expected 5, or 11 with keypoints)"
    assert "kpt_shape" in its.hint
    assert "'nan' is no number" in problem(f"{ROW} 0 0 2 0 nan 1", num_keypoints=6).problem


@pytest.mark.parametrize("content", [b"\xff\xfe0", b"caf\xe9", b"\xd8\x00\xd8\x00"])
def test_what_is_no_text(content: bytes) -> None:
    with pytest.raises(AnnotationError, match=r"a\.txt: is not text in UTF-8"):
        parsed(content)


# Properties ---------------------------------------------------------------------------------------


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_file_is_read_or_refused(content: str | bytes) -> None:
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    try:
        found = parsed(raw)
    except AnnotationError:
        return
    count = len(found.objects) + len(found.bad_objects)
    twice = sum(note.code == "object-twice" for note in found.notes)
    indexes = {its.index for its in found.objects} | {its.index for its in found.bad_objects}
    assert len(indexes) == count
    assert indexes <= set(range(count + twice))


SIDE = st.integers(1, 70000)


@given(st.data(), SIDE, SIDE)
def test_whole_pixels_come_back_exactly(data: st.DataObject, width: int, height: int) -> None:
    x0, x1 = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(
        data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True))
    )
    line = line_of(1, (x0, y0, x1, y1), (width, height))
    (item,) = parsed(line).objects
    assert item.corners is not None
    found = placed(
        item.corners,
        convention=NORMALIZED,
        size_wh=(width, height),
        place="a.txt",
        object_index=0,
        name="bee",
    )
    assert found == ((x0, y0, x1, y1), None)


def test_the_parser_travels_to_workers() -> None:
    parser = pickle.loads(pickle.dumps(partial(parse_labels, names=NAMES, num_keypoints=0)))
    assert parser(ROW.encode(), "a.txt") == parsed(ROW)
    bad = parsed("x\n")
    assert str(pickle.loads(pickle.dumps(bad)).bad_objects) == str(bad.bad_objects)
