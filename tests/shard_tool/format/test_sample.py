"""A sample's JSON has one encoding and is read back whole; nothing in it is guessed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_tool.errors import SampleError
from shard_tool.format.sample import (
    VOC_CLASSES,
    Part,
    Sample,
    SampleObject,
    Source,
    encode_sample,
    parse_sample,
)

COORDINATES = st.floats(0, 10_000)
BOXES = st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES)
FLAGS = st.none() | st.booleans()
POLYGONS = st.lists(
    st.lists(COORDINATES, min_size=6, max_size=6).map(tuple), min_size=1, max_size=2
)
RUN_LENGTHS = st.fixed_dictionaries(
    {
        "size": st.lists(st.integers(1, 99), min_size=2, max_size=2),
        "counts": st.text("0123Qa`", min_size=1) | st.lists(st.integers(0, 9)),
    }
)
RAW = st.dictionaries(st.sampled_from(["id", "area"]), st.integers() | st.text(max_size=3))
OBJECTS = st.builds(
    SampleObject,
    name=st.sampled_from(VOC_CLASSES),
    label=st.integers(1, 20),
    bbox=st.none() | BOXES,
    difficult=FLAGS,
    truncated=FLAGS,
    occluded=FLAGS,
    pose=st.none() | st.text(max_size=5),
    parts=st.none() | st.lists(st.builds(Part, name=st.text(max_size=4), bbox=BOXES)).map(tuple),
    actions=st.none() | st.dictionaries(st.sampled_from(["walking", "other"]), st.booleans()),
    point=st.none() | st.tuples(COORDINATES, COORDINATES),
    polygons=st.none() | POLYGONS.map(tuple),
    rle=st.none() | RUN_LENGTHS,
    crowd=FLAGS,
    raw=st.none() | RAW,
)
SAMPLES = st.builds(
    Sample,
    key=st.text("0123456789_\u732b", min_size=1),
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
    objects=st.lists(OBJECTS, max_size=2).map(tuple),
    segmented=FLAGS,
    image_sets=st.lists(st.sampled_from(["Main/train", "Layout/val"])).map(tuple),
    source=st.builds(Source, year=st.sampled_from(["2007", "unknown"]), archive=st.just(0)),
    raw=st.none() | RAW,
)
CAT = SampleObject(name="cat", label=8, bbox=(0.0, 1.0, 3.0, 4.5))
SAMPLE = Sample(
    key="000005",
    width=500,
    height=375,
    objects=(CAT,),
    segmented=None,
    image_sets=("Main/train",),
    source=Source(year="2007", archive=0),
)


@given(SAMPLES)
@settings(max_examples=50)
def test_sample_comes_back_as_it_was(sample: Sample) -> None:
    assert parse_sample(encode_sample(sample), place="a.json") == sample


def test_json_is_the_documented_one() -> None:
    """Others read these bytes, and every shard's digest depends on them."""
    assert encode_sample(SAMPLE) == (
        b'{"key":"000005","width":500,"height":375,"objects":[{"name":"cat","label":8,'
        b'"bbox":[0.0,1.0,3.0,4.5],"difficult":null,"truncated":null,"occluded":null,'
        b'"pose":null,"parts":null,"actions":null,"point":null}],"segmented":null,'
        b'"image_sets":["Main/train"],"source":{"year":"2007","archive":0}}\n'
    )


def test_number_that_json_does_not_know_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_sample(replace(SAMPLE, objects=(replace(CAT, point=(float("nan"), 0.0)),)))


def document(**changes: Any) -> bytes:
    return json.dumps(json.loads(encode_sample(SAMPLE)) | changes).encode()


def with_object(**changes: Any) -> bytes:
    return document(objects=[json.loads(encode_sample(SAMPLE))["objects"][0] | changes])


@pytest.mark.parametrize(
    ("content", "field"),
    [({"key": "a"}, "objects"), ({"objects": [{"bbox": [0, 0, 1, 1]}]}, "name")],
)
def test_missing_field_is_named(content: dict[str, Any], field: str) -> None:
    with pytest.raises(SampleError) as caught:
        parse_sample(json.dumps(content).encode(), place="a.json")
    assert str(caught.value) == f"a.json: field {field!r} is missing"


def test_tars_of_others_need_objects_with_a_name_or_a_label_alone() -> None:
    objects = [{"name": "cat", "bbox": [0, 0, 1, 1]}, {"label": 3, "bbox": [0, 0, 1, 1]}]
    found = parse_sample(json.dumps({"objects": objects}).encode(), place="a.json")
    assert [(item.name, item.label) for item in found.objects] == [("cat", 0), ("", 3)]
    assert (found.key, found.width, found.height, found.orientation) == ("", 0, 0, 1)


def test_file_and_orientation_are_written_only_where_they_say_something() -> None:
    assert b'"file"' not in encode_sample(SAMPLE)
    assert b'"orientation"' not in encode_sample(SAMPLE)
    turned = replace(SAMPLE, file="images/a b.jpg", orientation=6)
    assert parse_sample(encode_sample(turned), place="a.json") == turned


def test_what_other_formats_say_is_written_only_where_they_say_it() -> None:
    rle = {"size": [375, 500], "counts": "0a1"}
    told = replace(CAT, polygons=((0.0, 1.0, 3.0, 1.0, 3.0, 4.5),), crowd=False, raw={"id": 7})
    content = encode_sample(replace(SAMPLE, objects=(told, replace(CAT, rle=rle)), raw={"id": "x"}))
    assert (
        b'"point":null,"polygons":[[0.0,1.0,3.0,1.0,3.0,4.5]],"crowd":false,"raw":{"id":7}},'
        in content
    )
    assert b'"point":null,"rle":{"size":[375,500],"counts":"0a1"}}],' in content
    assert content.endswith(b',"raw":{"id":"x"}}\n')


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[]", id="a list"),
        pytest.param(document(orientation=9), id="no EXIF orientation"),
        pytest.param(b"[" * 100_000, id="nested without end"),
        pytest.param(document(key=5), id="key is a number"),
        pytest.param(document(width="wide"), id="width is text"),
        pytest.param(document(width=float("inf")), id="width is infinite"),
        pytest.param(document(width=500.5), id="width is a fraction"),
        pytest.param(document(objects=None), id="objects is null"),
        pytest.param(document(objects=["cat"]), id="object is text"),
        pytest.param(document(image_sets=3), id="image_sets is a number"),
        pytest.param(document(segmented="yes"), id="segmented is text"),
        pytest.param(with_object(bbox=[0, 1, 2]), id="box of three"),
        pytest.param(with_object(bbox="0123"), id="box is text"),
        pytest.param(with_object(bbox=[0, 1, float("nan"), 4]), id="box is not finite"),
        pytest.param(with_object(bbox=[0, 1, 10**400, 4]), id="box beyond any number"),
        pytest.param(with_object(point=[]), id="point is empty"),
        pytest.param(with_object(label="cat"), id="label is text"),
        pytest.param(with_object(name=5), id="name is a number"),
        pytest.param(with_object(polygons=[[0, 1, 2, 3]]), id="polygon of two corners"),
        pytest.param(with_object(polygons=[[0, 1, 2, 3, 4, 5, 6]]), id="half a corner"),
        pytest.param(with_object(polygons=[0, 1, 2, 3, 4, 5]), id="polygon is no list"),
        pytest.param(with_object(rle={"size": [3, 0], "counts": "0"}), id="run lengths of nothing"),
        pytest.param(with_object(rle={"size": [3, 3], "counts": [1.5]}), id="half a run length"),
        pytest.param(with_object(rle={"counts": "0"})[:-1], id="cut off"),
        pytest.param(with_object(rle=[3, 3]), id="run lengths are no object"),
        pytest.param(with_object(crowd=0), id="crowd is a number"),
        pytest.param(with_object(raw=[1]), id="raw is a list"),
        pytest.param(document(raw="x"), id="raw is text"),
        pytest.param(with_object(parts=3), id="parts is a number"),
        pytest.param(with_object(difficult="no"), id="difficult is text"),
        pytest.param(with_object(name="a\ud800"), id="name is half of a pair"),
        pytest.param(document(key="\udfff"), id="key is half of a pair"),
        pytest.param(document(image_labels={"\ud800": 1}), id="label of half of a pair"),
    ],
)
def test_content_that_is_no_sample_is_refused(content: bytes) -> None:
    with pytest.raises(SampleError) as caught:
        parse_sample(content, place="a.json")
    assert str(caught.value).startswith("a.json: not the JSON of a sample: ")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"[]", "[]"),
        (b'[{"name": "cat"}]', '[{"name": "cat"}]'),
        (b'"cat"', '"cat"'),
        (b"null", "null"),
        (document(objects=["cat"]), '"cat"'),
        (document(objects={"cat": 1}), '"cat"'),
        (document(source=["2007"]), '["2007"]'),
        (json.dumps(["cat"] * 100).encode(), '["cat", "cat", "cat", "cat", "ca'),
    ],
)
def test_what_is_no_object_is_shown(content: bytes, found: str) -> None:
    with pytest.raises(SampleError) as caught:
        parse_sample(content, place="a.json")
    told = f"not the JSON of a sample: expected an object, found {found}"
    assert str(caught.value) == f"a.json: {told}"
