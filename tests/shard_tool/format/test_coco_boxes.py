"""COCO's boxes come back from corners as they were written; names of files never climb out."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shard_tool.errors import DataError
from shard_tool.format.coco_boxes import area_of, coco_box, written_box
from shard_tool.format.file_names import FileNames, path_of_key, safe_name
from shard_tool.format.sample import Sample, SampleObject, Source
from shard_tool.format.source_ids import category_ids

SIDES = st.floats(0, 5000, allow_subnormal=False)


@given(st.tuples(*[st.integers(1, 500_000)] * 4))
def test_two_decimals_as_in_coco_come_back_as_written(hundredths: tuple[int, ...]) -> None:
    x, y, width, height = (number / 100 for number in hundredths)
    assert coco_box((x, y, x + width, y + height)) == (x, y, width, height)


@given(SIDES, SIDES)
def test_any_width_that_was_added_gives_the_corner_again(x: float, width: float) -> None:
    assume(x + width > x)
    box = (x, 0.0, x + width, 1.0)
    found = coco_box(box)
    assert x + found[2] == box[2]


def test_corners_that_no_width_reaches_get_the_nearest() -> None:
    box = (2.0**-53, 0.0, 1 + 2.0**-52, 1.0)
    x, _, width, _ = coco_box(box)
    assert x + width != box[2]
    assert abs(x + width - box[2]) <= 2.0**-52


def test_what_the_file_says_is_taken_where_the_box_was_clipped() -> None:
    item = SampleObject(name="a", label=1, bbox=(0, 0, 9.5, 8), raw={"bbox": [-0.5, 0, 10, 8.25]})
    sample = Sample(
        key="a",
        width=20,
        height=8,
        objects=(item,),
        segmented=None,
        image_sets=(),
        source=Source(year="unknown", archive=0),
    )
    assert written_box(item, sample) == (-0.5, 0, 10, 8.25)
    scaled = replace(item, bbox=(0.0, 0.0, 19.0, 16.0))  # the sample is of another size now
    assert written_box(scaled, replace(sample, height=16)) == (0, 0, 19, 16)


def test_the_annotation_s_area_is_taken_where_it_is_a_number() -> None:
    box = (0.0, 0.0, 4.0, 5.0)
    for raw, area in (({"area": 7}, 7), ({"area": "7"}, 20), ({"area": True}, 20), (None, 20)):
        item = SampleObject(name="a", label=1, bbox=(0, 0, 4, 5), raw=raw)
        assert area_of(item, box) == area


# Ids --------------------------------------------------------------------------------------------


def test_category_ids_are_the_sources_own_where_they_agree() -> None:
    classes = {"cat": 1, "dog": 2}
    one, both = {"cat": 17}, {"cat": 17, "dog": 18}

    def found(*tables: dict[str, int], format_: str = "coco") -> dict[str, int | str]:
        return category_ids(classes, [{"format": format_, "class_ids": its} for its in tables])

    assert found(both) == found(one, both) == both
    assert found(one) == found(both, {"dog": 3}) == found() == classes
    assert found({"cat": 17, "dog": 17}) == found(both, format_="yolo") == classes


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["../x", "/etc/x", "a/../../x", "..", "", "a//b", "a%2F..%2F..%2Fb", "%2E%2E/x", "a\0b"]
)
def test_no_path_leaves_its_folder(key: str) -> None:
    path = path_of_key(key)
    assert os.path.normpath(path) == path
    assert not path.startswith(("/", ".."))
    assert "\0" not in path


@given(st.text(max_size=20))
def test_any_name_is_one_name_of_a_file(text: str) -> None:
    name = safe_name(text)
    assert "/" not in name
    assert name not in ("", ".", "..")


def test_a_split_s_own_folder_is_no_folder_in_it() -> None:
    names = FileNames("val")
    keys = ["val2017/1", "images/val/2", "valid/images/3", "4", "valley/5", "val2014/1"]
    assert [names.of(key) for key in keys] == ["1", "2", "3", "4", "valley/5", "val2014/1"]
    with pytest.raises(DataError, match=r"^sample '4': another sample's file would be called '4'"):
        names.of("4")
