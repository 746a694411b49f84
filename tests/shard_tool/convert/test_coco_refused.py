"""What in COCO data is refused, left out or counted: each with its place and the way out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.convert.rules import Choices
from shard_tool.errors import BoxError, OptionError, ShardToolError, SourceError
from tests.kit.datasets.coco_files import ANT, BEE, BOX, coco, image, one_of_each, thing, written
from tests.kit.datasets.converted import converted, manifest_of
from tests.kit.datasets.wild import ANT as XML_ANT
from tests.kit.datasets.wild import boxes, counted, documents, folder, pairs

if TYPE_CHECKING:
    from pathlib import Path

A = [image(1, "a.jpg")]
AB = [image(1, "a.jpg"), image(2, "b.jpg")]


def told(root: Path, files: dict[str, Any], *, error: type = SourceError, **options: Any) -> str:
    """What is said of a source with the pictures a and b."""
    source = written(root / "in", files, ["a.jpg", "b.jpg"])
    with pytest.raises(error) as caught:
        converted(source, root / "out", **options)
    return str(caught.value).replace(f"{root}/", "")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(
            coco([*A, image(1, "b.jpg"), image("1", "c.jpg")], []),
            "in/x.json: 3 images have the id 1; give each of the images an id of its own",
            id="image-ids",
        ),
        pytest.param(
            coco(AB, [thing(5, 1), thing(5, 2), thing(6, 1), thing("6", 1)]),
            "in/x.json: 2 annotations have the id 5 (and 1 more ids); give each of the annotations "
            "an id of its own",
            id="annotation-ids",
        ),
        pytest.param(
            coco([*A, image(2, "./a.jpg"), image(3, "b.jpg"), image(4, "b.png")], []),
            "in/x.json: the images 1 ('a.jpg') and 2 ('./a.jpg') have one picture (and 1 more); "
            "give their annotations to one of them, and remove the other",
            id="file-names",
        ),
        pytest.param(
            coco(A, [thing(1, 1), thing(2, 9), thing(3, "x")]),
            "in/x.json: 2 of 3 annotations are of no image: annotations[1] has the image_id 9; "
            "add what is missing to images, or remove these annotations",
            id="no-image",
        ),
        pytest.param(
            coco(A, [{"id": 1, "bbox": BOX, "category_id": 1}]),
            "in/x.json: 1 of 1 annotations are of no image: annotations[0] has the image_id None; "
            "add what is missing to images, or remove these annotations",
            id="no-image-id",
        ),
        pytest.param(
            coco([{"file_name": "a.jpg"}], []),
            "in/x.json: images[0]: has no id; give each image one",
            id="no-id",
        ),
        pytest.param(
            coco([{"id": 3}], []),
            "in/x.json: images[0]: has no file_name; name its picture",
            id="no-file-name",
        ),
        pytest.param(
            coco([*A, 5], []),  # type: ignore[list-item]
            "in/x.json: images[1]: cannot be read: Expected `object`, got `int`",
            id="image",
        ),
        pytest.param(
            coco(A, [[1]]),  # type: ignore[list-item]
            "in/x.json: annotations[0]: cannot be read: Expected `object`, got `array`",
            id="annotation",
        ),
        pytest.param(
            coco(A, [], [ANT, {"id": 2, "name": "ant"}]),
            "in/x.json: the categories 1 and 2 have one name, 'ant'; give them two names, or one "
            "id: classes are known by their names",
            id="category-names",
        ),
        pytest.param(
            coco(A, [], [ANT, {"id": 1, "name": "bee"}]),
            "in/x.json: the categories 'ant' and 'bee' have one id, 1; give each category an id of "
            "its own",
            id="category-ids",
        ),
        pytest.param(
            coco(A, [], [{"id": "x", "name": "ant"}]),
            "in/x.json: categories[0]: has the id 'x', expected a whole number",
            id="category-id",
        ),
        pytest.param(
            coco(A, [], [{"id": 1}]),
            "in/x.json: categories[0]: has the name None, expected text",
            id="category-name",
        ),
        pytest.param(
            coco(A, [], ["ant"]),  # type: ignore[list-item]
            "in/x.json: categories[0]: is 'ant', expected an object with id and name",
            id="category",
        ),
        pytest.param(
            coco(A, [], []),
            "in/x.json: has no categories; name the classes there, each with an id",
            id="no-categories",
        ),
        pytest.param(
            {"images": A, "categories": [ANT]},
            "in/x.json: lists pictures and has no annotations, as COCO's test sets; give the "
            "folder that holds an instances_*.json as well",
            id="no-annotations",
        ),
        pytest.param(
            coco(A, [{"id": 1, "image_id": 1, "caption": "an ant"}], []),
            "in/x.json: holds captions, which are texts and no objects; give the folder that holds "
            "an instances_*.json as well",
            id="captions",
        ),
        pytest.param(
            coco(A, [{"image_id": 1, "file_name": "a.png", "segments_info": []}]),
            "in/x.json: holds panoptic segments, which are pixels of PNG files and no objects; "
            "give the folder that holds an instances_*.json as well",
            id="panoptic",
        ),
    ],
)
def test_a_file_that_is_refused_says_what_is_wrong(
    tmp_path: Path, document: Any, expected: str
) -> None:
    assert told(tmp_path, {"x.json": document}) == expected


def test_a_category_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    source = written(tmp_path / "in", {"x.json": coco(A, [], [ANT, BEE, ANT])}, ["a.jpg"])
    converted(source, tmp_path / "out")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_lacks_is_named_with_its_place(tmp_path: Path, number: str) -> None:
    text = json.dumps(one_of_each("a"), indent=1).replace("3,", f"{number},", 1)
    line = next(n for n, its in enumerate(text.splitlines(), start=1) if number in its)
    assert told(tmp_path, {"x.json": text.encode()}) == (
        f"in/x.json: holds {number} at line {line}, byte {text.index(number)}, and JSON knows no "
        "such number (Python writes it); write null there, or leave the object out"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda its: its[:-40], "in/x.json: is not JSON, or cut short: Input data was truncated"),
        (lambda its: its.replace(b"],", b"]", 1), "in/x.json: is not JSON: JSON is malformed"),
        (lambda its: its + b"x", "in/x.json: is not JSON: JSON is malformed: trailing characters"),
        (
            lambda its: its.replace(b'"info":', b'"info":' + b"[" * 9999),
            "in/x.json: its JSON is nested too deeply",
        ),
        (
            lambda its: b"\xff\xfe" + its.decode().encode("utf-16-le") + b"x",
            "in/x.json: begins as UTF-16 and is not",
        ),
        (lambda its: its.replace(b"a.jpg", b"\xe9.jpg"), "in/x.json: images[0]: cannot be read"),
    ],
    ids=["cut", "comma", "more", "deep", "utf-16", "latin-1"],
)
def test_a_file_that_is_no_json_is_named(tmp_path: Path, change: Any, expected: str) -> None:
    content = change(json.dumps(one_of_each("a")).encode())
    assert told(tmp_path, {"x.json": content}).startswith(expected)


def test_a_file_without_images_is_no_split(tmp_path: Path) -> None:
    assert "names a picture" in told(tmp_path, {"x.json": coco([], [])})
    files = {"train.json": one_of_each("a"), "val.json": coco([], [])}
    converted(written(tmp_path / "two", files, ["a.jpg"]), tmp_path / "two-out")
    assert [*manifest_of(tmp_path / "two-out")["splits"]] == ["train"]


# Which files are taken ----------------------------------------------------------------------------


def test_two_files_of_one_split_are_refused(tmp_path: Path) -> None:
    files = {"annotations/a_train.json": one_of_each("a"), "train/b.json": one_of_each("b")}
    assert told(tmp_path, files) == (
        "in: 'annotations/a_train.json' and 'train/b.json' are both of split 'train'; name each "
        "as its split (train.json, val.json), give the folder of each as a SOURCE of its own, or "
        "name the pictures by --split-file train=LIST"
    )


def test_a_file_without_a_split_beside_others_is_refused(tmp_path: Path) -> None:
    files = {"one.json": one_of_each("a"), "val.json": one_of_each("b")}
    assert told(tmp_path, files).startswith(
        "in: nothing tells of which split 'one.json' is, beside 1 more; name each as its split"
    )


def test_a_picture_in_two_splits_is_refused(tmp_path: Path) -> None:
    files = {"train.json": one_of_each("a", "b"), "val.json": one_of_each("b")}
    expected = "in/val.json: picture 'b' is in split 'train' as well; convert splits that share no"
    assert told(tmp_path, files).startswith(expected)


def test_other_files_of_coco_beside_instances_are_counted(tmp_path: Path) -> None:
    caption = coco(A, [{"id": 1, "image_id": 1, "caption": "an ant"}], [])
    panoptic = coco(A, [{"image_id": 1, "segments_info": []}])
    files = {
        "annotations/instances_train2017.json": one_of_each("a"),
        "annotations/captions_train2017.json": caption,
        "annotations/person_keypoints_train2017.json": one_of_each("a"),
        "annotations/stuff_train2017.json": one_of_each("a"),
        "annotations/panoptic_train2017.json": panoptic,
        "annotations/texts.json": caption,
        "annotations/image_info_test2017.json": {"images": [image(1, "b.jpg")], "categories": []},
        "results.json": [{"image_id": 1, "bbox": BOX}],
    }
    converted(written(tmp_path / "in", files, ["a.jpg", "test2017/b.jpg"]), tmp_path / "out")
    assert [*boxes(tmp_path / "out")] == ["a"]
    assert counted(tmp_path / "out") == {
        "json-beside-instances": 5,
        "json-other": 1,
        "json-without-annotations": 1,
        "picture-apart": 1,
    }


def test_key_points_and_stuff_alone_are_instances(tmp_path: Path) -> None:
    for name in ("person_keypoints_val2017", "stuff_val2017"):
        source = written(tmp_path / name, {f"{name}.json": one_of_each("a")}, ["a.jpg"])
        converted(source, tmp_path / f"{name}-out")
        assert [*boxes(tmp_path / f"{name}-out", "val")] == ["a"]


def test_xml_beside_coco_is_asked_about(tmp_path: Path) -> None:
    files = {"x.json": one_of_each("a")}
    source = folder(written(tmp_path / "in", files, ["a.jpg"]), pairs("b", items=(XML_ANT,)))
    with pytest.raises(OptionError, match=r"add --source-format coco or --source-format voc-flat"):
        converted(source, tmp_path / "out")
    converted(source, tmp_path / "coco", format="coco")
    assert [*boxes(tmp_path / "coco")] == ["a"]
    assert counted(tmp_path / "coco") == {"in-no-list": 1}
    converted(source, tmp_path / "voc", format="voc-flat")
    assert [*boxes(tmp_path / "voc")] == ["b"]


def test_broken_coco_is_no_obstacle_where_another_format_is_asked_for(tmp_path: Path) -> None:
    source = folder(written(tmp_path / "in", {"x.json": b'{"images": [1, '}), pairs("b"))
    converted(source, tmp_path / "voc", format="voc-flat")
    assert [*boxes(tmp_path / "voc")] == ["b"]


def test_json_of_other_forms_is_not_coco(tmp_path: Path) -> None:
    files = {
        "a.json": {"shapes": []},
        "datumaro.json": {"categories": {}, "items": [{"annotations": [{"id": 0}]}]},
        "list.json": [1, 2],
        "images.json": {"images": [{"id": 1}]},
        "text.json": b'"images": [',
    }
    message = told(tmp_path, files)
    assert "holds pictures and neither VOC's XML nor masks" in message


# Objects and pictures -----------------------------------------------------------------------------


def test_a_missing_picture_is_an_error_or_skipped(tmp_path: Path) -> None:
    files = {"annotations/instances_train.json": one_of_each("a", "gone")}
    message = told(tmp_path, files)
    assert message.startswith(
        "in/gone.jpg: is missing: an annotation without its picture "
        "(annotations/instances_train.json#2 names 'gone')"
    )
    converted(tmp_path / "in", tmp_path / "out", on_bad_record="skip")
    assert [*boxes(tmp_path / "out")] == ["a"]
    assert counted(tmp_path / "out") == {"bad-record-skipped": 1, "in-no-list": 1}


@pytest.mark.parametrize(
    ("written_path", "place"),
    [
        ("gone.jpg", "in/set/gone.jpg"),
        ("images/gone.jpg", "in/set/images/gone.jpg"),
        ("other/a.jpg", "in/set/other/a.jpg"),
        ("/data/x/gone.jpg", "in/data/x/gone.jpg"),
    ],
)
def test_a_missing_picture_is_named_where_it_is_looked_for(
    tmp_path: Path, written_path: str, place: str
) -> None:
    document = coco([image(1, "images/a.jpg"), image(2, written_path)], [])
    source = written(tmp_path / "in", {"set/x.json": document}, ["set/images/a.jpg", "set/a.jpg"])
    with pytest.raises(SourceError) as caught:
        converted(source, tmp_path / "out")
    assert caught.value.place.replace(f"{tmp_path}/", "") == place


def test_a_picture_of_another_file_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    files = {"one/train.json": one_of_each("a", "b"), "two/val.json": one_of_each("a", "b")}
    source = written(tmp_path / "in", files, ["one/a.jpg", "one/b.jpg", "two/a.jpg"])
    with pytest.raises(SourceError) as caught:
        converted(source, tmp_path / "out")
    assert caught.value.place.endswith("in/two/b.jpg")


def test_pictures_of_one_name_but_for_the_suffix_are_refused(tmp_path: Path) -> None:
    files = {"x.json": coco([image(1, "a.jpg")], [])}
    source = written(tmp_path / "in", files, ["a.jpg", "a.jpeg"])
    with pytest.raises(SourceError, match=r"has the name of 'a.jpe?g' but for the suffix"):
        converted(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ([2, 3, 0, 5], "object 1 'ant': xmin 2 is xmax: the box is empty"),
        ([2, 3, 5, -1], "object 1 'ant': ymin 3 lies below ymax 2"),
        ([2, 3, 40, 5], "object 1 'ant': xmax 42 is outside width 20"),
        ([30, 3, 4, 5], "object 1 'ant': xmax 34 is outside width 20"),
    ],
    ids=repr,
)
def test_bad_boxes_are_dropped_by_their_option(
    tmp_path: Path, bbox: list[int], expected: str
) -> None:
    things = [thing(1, 1, 1, bbox), thing(2, 1)]
    files = {"x.json": coco(A, things)}
    message = told(tmp_path, files, error=BoxError)
    assert message.startswith(f"in/x.json#1: {expected}")
    assert "--bad-boxes" in message
    converted(tmp_path / "in", tmp_path / "out", choices=Choices(bad_boxes="drop"))
    assert boxes(tmp_path / "out") == {"a": [("ant", [2, 3, 10, 8])]}
    assert counted(tmp_path / "out") == {"bad-box-dropped": 1, "in-no-list": 1}


def test_bad_objects_are_dropped_by_their_option(tmp_path: Path) -> None:
    bad = [
        thing(1, 1, 1, []),
        thing(2, 1, 1, ["1", "2", "3", "4"]),
        thing(3, 1, 9),
        thing(4, 1, segmentation={"size": [10, 20], "counts": [5]}),
        thing(5, 1, segmentation={"size": [20, 10], "counts": [200]}),
    ]
    files = {"x.json": coco(A, [*bad, thing(6, 1)])}
    message = told(tmp_path, files, error=ShardToolError)
    assert message.startswith("in/x.json#1: object 1 'ant': has neither a bbox nor")
    assert "--on-bad-record skip" in message
    converted(tmp_path / "in", tmp_path / "out", on_bad_record="skip")
    assert counted(tmp_path / "out") == {"bad-object-dropped": 5, "in-no-list": 1}
    (its,) = documents(tmp_path / "out").values()
    assert [one["raw"] for one in its["objects"]] == [{"id": 6}]
    log = (tmp_path / "out/bad_records.jsonl").read_text()
    assert "run lengths of 10 x 20 px, its picture has 20 x 10" in log


@pytest.mark.parametrize("task", ["segmentation", "layout", "action"])
def test_tasks_that_coco_has_no_annotations_for_are_refused(tmp_path: Path, task: str) -> None:
    message = told(tmp_path, {"x.json": one_of_each("a")}, task=task)
    assert message == (
        f"in: has no annotations for {task}: found COCO JSON: x.json; add --task detection"
    )


def test_pictures_of_a_declared_size_that_is_another_are_asked_about(tmp_path: Path) -> None:
    files = {"x.json": coco([image(1, "a.jpg", (40, 20))], [thing(1, 1, 1, [4, 6, 16, 10])])}
    assert "--size-mismatch scale" in told(tmp_path, files, error=ShardToolError)
    converted(tmp_path / "in", tmp_path / "out", choices=Choices(size_mismatch="scale"))
    (its,) = documents(tmp_path / "out").values()
    assert its["objects"][0]["bbox"] == [2, 3, 10, 8]
    assert its["objects"][0]["raw"] == {"id": 1, "bbox": [4, 6, 16, 10]}


def test_an_annotation_of_no_image_with_bytes_that_are_no_text_is_refused(tmp_path: Path) -> None:
    """msgspec looks at text only where it decodes it."""
    document = json.dumps(coco(A, [thing(1, 9) | {"note": "?"}])).encode().replace(b"?", b"\xff")
    message = told(tmp_path, {"x.json": document})
    assert message.startswith("in/x.json: 1 of 1 annotations are of no image: annotations[0] has")
