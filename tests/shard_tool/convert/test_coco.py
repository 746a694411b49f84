"""COCO datasets wherever people put them: each layout gives the pictures and boxes it holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.convert.rules import Choices
from shard_tool.errors import DataError
from tests.kit.datasets.coco_files import ANT, BEE, coco, image, one_of_each, thing, written
from tests.kit.datasets.converted import converted, manifest_of
from tests.kit.datasets.wild import boxes, classes, counted, documents

if TYPE_CHECKING:
    from pathlib import Path

BOX = [("ant", [2.0, 3.0, 10.0, 8.0])]


def test_a_sample_holds_what_coco_says(tmp_path: Path) -> None:
    polygon, rle = [1, 1.5, 9, 1, 9, 6], {"size": [10, 20], "counts": [0, 3, 197]}
    document = coco(
        [image(397, "a.jpg", license=3, coco_url="http://x/a.jpg"), image(9, "b.jpg")],
        [
            thing(11, 397, 2, [0.1, 0.7, 0.2, 0.1], area=0.02, iscrowd=0, segmentation=[polygon]),
            thing(12, 397, 1, segmentation=rle, iscrowd=1),
        ],
    )
    source = written(tmp_path / "in", {"x.json": document}, ["a.jpg", "b.jpg"])
    converted(source, tmp_path / "out")
    a, b = documents(tmp_path / "out").values()
    assert a["raw"] == {"id": 397, "license": 3, "coco_url": "http://x/a.jpg"}
    assert (a["width"], a["height"], a["file"]) == (20, 10, "a.jpg")
    bee, ant = a["objects"]
    assert (bee["name"], bee["label"]) == ("bee", 2)
    assert bee["bbox"] == [0.1, 0.7, 0.1 + 0.2, 0.7 + 0.1]
    assert (bee["polygons"], bee["crowd"], bee["raw"]) == (
        [polygon],
        False,
        {"id": 11, "area": 0.02},
    )
    assert "rle" not in bee
    assert (ant["rle"], ant["crowd"], ant["raw"]) == (rle, True, {"id": 12})
    assert (b["objects"], b["raw"]) == ([], {"id": 9})
    assert counted(tmp_path / "out") == {"background": 1}
    manifest = manifest_of(tmp_path / "out")
    (entry,) = manifest["sources"]
    assert (entry["format"], entry["class_ids"]) == ("coco", {"ant": 1, "bee": 2})
    assert manifest["options"]["boxes"] == "corners"


OFFICIAL = ("annotations/instances_train2017.json", "annotations/instances_val2017.json")


@pytest.mark.parametrize(
    ("files", "pictures"),
    [
        pytest.param(OFFICIAL, ("train2017/a.jpg", "val2017/b.jpg"), id="official"),
        pytest.param(OFFICIAL, ("images/train2017/a.jpg", "images/val2017/b.jpg"), id="below"),
        pytest.param(OFFICIAL, ("images/a.jpg", "images/b.jpg"), id="one-folder"),
        pytest.param(OFFICIAL, ("x/y/a.jpg", "x/y/b.jpg"), id="anywhere"),
        pytest.param(
            ("train/_annotations.coco.json", "valid/_annotations.coco.json"),
            ("train/a.jpg", "valid/b.jpg"),
            id="Roboflow",
        ),
        pytest.param(
            ("train/annotations.json", "valid/annotations.json"),
            ("train/images/a.jpg", "valid/images/b.jpg"),
            id="images-beside",
        ),
        pytest.param(
            ("data/coco/train.json", "data/coco/Val.json"),
            ("data/coco/Train/a.jpg", "data/coco/val/b.jpg"),
            id="deep",
        ),
        pytest.param(
            ("annotations/instances_default.json", "annotations/instances_Validation.json"),
            ("images/default/a.jpg", "images/Validation/b.jpg"),
            id="CVAT",
        ),
        pytest.param(
            ("instances_minitrain2017.json", "instances_minival2017.json"),
            ("train2017/a.jpg", "val2017/b.jpg"),
            id="mini",
        ),
    ],
)
def test_layouts_of_two_splits(
    tmp_path: Path, files: tuple[str, str], pictures: tuple[str, str]
) -> None:
    documents_ = [one_of_each("a"), one_of_each("b")]
    source = written(tmp_path / "in", dict(zip(files, documents_, strict=True)), pictures)
    converted(source, tmp_path / "out")
    train, val = (name.removesuffix(".jpg") for name in pictures)
    assert boxes(tmp_path / "out") == {train: BOX}
    assert boxes(tmp_path / "out", "val") == {val: BOX}
    assert counted(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("file", "picture"),
    [
        ("annotations.json", "images/a.jpg"),
        ("annotations.json", "a.jpg"),
        ("labels.json", "data/a.jpg"),
        ("annotations/instances_default.json", "images/a.jpg"),
        ("result.json", "deep/er/a.jpg"),
        ("x/y.json", "a.jpeg"),
    ],
)
def test_one_file_without_a_split_is_train(tmp_path: Path, file: str, picture: str) -> None:
    source = written(tmp_path / "in", {file: one_of_each("a")}, [picture])
    converted(source, tmp_path / "out")
    assert boxes(tmp_path / "out") == {picture.rpartition(".")[0]: BOX}


def test_pictures_of_equal_names_are_those_of_the_split(tmp_path: Path) -> None:
    files = {f"annotations/{split}.json": one_of_each("0", "1") for split in ("train", "val")}
    pictures = [f"images/{split}/{n}.jpg" for split in ("train", "val", "test") for n in "01"]
    source = written(tmp_path / "in", files, [its for its in pictures if its != "images/val/1.jpg"])
    converted(source, tmp_path / "out", on_bad_record="skip")
    assert set(boxes(tmp_path / "out")) == {"images/train/0", "images/train/1"}
    assert set(boxes(tmp_path / "out", "val")) == {"images/val/0"}
    bad = (tmp_path / "out/bad_records.jsonl").read_text()
    assert "in/images/val/1.jpg: is missing" in bad
    assert counted(tmp_path / "out") == {"bad-record-skipped": 1, "picture-apart": 2}


WRITTEN = {
    "plain": "{0}.jpg",
    "folders": "train2017/{0}.jpg",
    "dots": "./{0}.jpg",
    "up": "../train2017/{0}.jpg",
    "back-slashes": "train2017\\{0}.jpg",
    "windows": "C:\\Users\\me\\train2017\\{0}.jpg",
    "absolute": "/content/drive/coco/train2017/{0}.jpg",
    "dead": "somebody/else/{0}.jpg",
    "other-suffix": "{0}.png",
    "no-suffix": "{0}",
    "url": "https://x.org/train2017/{0}.jpg",
}


@pytest.mark.parametrize("form", WRITTEN.values(), ids=[*WRITTEN])
def test_written_paths(tmp_path: Path, form: str) -> None:
    stems = ["a", "b c", "d%e", "ü"]
    document = one_of_each(*stems)
    for its, stem in zip(document["images"], stems, strict=True):
        its["file_name"] = form.format(stem)
    pictures = [f"train2017/{stem}.jpg" for stem in stems]
    source = written(tmp_path / "in", {OFFICIAL[0]: document}, pictures)
    converted(source, tmp_path / "out")
    assert [its["file"] for its in documents(tmp_path / "out").values()] == sorted(pictures)


def test_paths_encoded_as_in_urls(tmp_path: Path) -> None:
    document = one_of_each("x/a%20b", "x%2F%C3%BC", "x/c")
    pictures = ["x/a b.jpg", "x/ü.jpg", "x/c.jpg", "y/a b.jpg"]
    source = written(tmp_path / "in", {"x.json": document}, pictures)
    converted(source, tmp_path / "out")
    assert set(boxes(tmp_path / "out")) == {"x/a%20b", "x/c", "x/ü"}


def test_images_without_a_file_name_are_found_by_their_url(tmp_path: Path) -> None:
    its = {"id": 1, "coco_url": "http://images.cocodataset.org/train2017/a.jpg"}
    document = coco([its], [thing(1, 1)])
    source = written(tmp_path / "in", {"lvis_v1_train.json": document}, ["train2017/a.jpg"])
    converted(source, tmp_path / "out")
    assert boxes(tmp_path / "out") == {"train2017/a": BOX}


@pytest.mark.parametrize(
    ("of_image", "of_thing"),
    [
        (0, 0),
        ("17", "17"),
        ("17", 17),
        (17, "17"),
        ("a.jpg", "a.jpg"),
        (17.0, 17),
        (10**15, 10**15),
    ],
    ids=repr,
)
def test_ids_may_be_any(tmp_path: Path, of_image: Any, of_thing: Any) -> None:
    document = coco(
        [image(of_image, "a.jpg"), image(99, "b.jpg")],
        [thing("x", of_thing), thing(None, 99), thing(None, 99, 2)],
    )
    source = written(tmp_path / "in", {"x.json": document}, ["a.jpg", "b.jpg"])
    converted(source, tmp_path / "out")
    found = documents(tmp_path / "out")
    assert boxes(tmp_path / "out")["a"] == BOX
    assert found["a"]["raw"]["id"] == of_image
    assert found["a"]["objects"][0]["raw"]["id"] == "x"
    assert len(found["b"]["objects"]) == 2


def test_classes_are_in_the_order_of_ids_with_or_without_objects(tmp_path: Path) -> None:
    categories = [{"id": 90, "name": "zebra"}, {"id": 0, "name": "dog"}, {"id": 5, "name": "Ant"}]
    document = coco([image(1, "a.jpg")], [thing(1, 1, 5)], categories)
    converted(written(tmp_path / "in", {"x.json": document}, ["a.jpg"]), tmp_path / "out")
    assert classes(tmp_path / "out") == {"dog": 1, "Ant": 2, "zebra": 3}
    (entry,) = manifest_of(tmp_path / "out")["sources"]
    assert entry["class_ids"] == {"dog": 0, "Ant": 5, "zebra": 90}


def test_a_parent_without_objects_is_no_class(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "insects", "supercategory": "none"},
        {**ANT, "supercategory": "insects"},
        {**BEE, "supercategory": "bee"},
    ]
    for name, category in (("without", 1), ("with", 0)):
        document = coco([image(1, "a.jpg")], [thing(1, 1, category)], categories)
        source = written(tmp_path / f"in-{name}", {"x.json": document}, ["a.jpg"])
        converted(source, tmp_path / name)
    assert classes(tmp_path / "without") == {"ant": 1, "bee": 2}
    assert counted(tmp_path / "without") == {"category-parent": 1}
    assert classes(tmp_path / "with") == {"insects": 1, "ant": 2, "bee": 3}
    assert counted(tmp_path / "with") == {}


def test_files_that_agree_on_ids_are_one_source(tmp_path: Path) -> None:
    train = coco([image(1, "a.jpg")], [thing(1, 1, 2)], [BEE, ANT])
    val = coco([image(1, "b.jpg")], [thing(1, 1, 3)], [{"id": 3, "name": "cow"}, ANT])
    source = written(
        tmp_path / "in", dict(zip(OFFICIAL, (train, val), strict=True)), ["a.jpg", "b.jpg"]
    )
    converted(source, tmp_path / "out")
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2, "cow": 3}
    (entry,) = manifest_of(tmp_path / "out")["sources"]
    assert entry["class_ids"] == {"ant": 1, "bee": 2, "cow": 3}


def test_one_id_for_two_names_is_no_agreement(tmp_path: Path) -> None:
    val = coco([image(1, "b.jpg")], [thing(1, 1, 1)], [{"id": 1, "name": "cow"}])
    files = dict(zip(OFFICIAL, (one_of_each("a"), val), strict=True))
    converted(written(tmp_path / "in", files, ["a.jpg", "b.jpg"]), tmp_path / "out")
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2, "cow": 3}
    entries = manifest_of(tmp_path / "out")["sources"]
    assert [its["class_ids"] for its in entries] == [{"ant": 1, "bee": 2}, {"cow": 1}]


def test_files_with_other_ids_join_by_name_as_two_sources(tmp_path: Path) -> None:
    train = coco([image(1, "a.jpg")], [thing(1, 1, 2)], [ANT, BEE])
    other = [{"id": 1, "name": "bee"}, {"id": 2, "name": "ant"}]
    val = coco([image(1, "b.jpg")], [thing(1, 1, 1)], other)
    pictures = ["a.jpg", "b.jpg", "free.jpg"]
    source = written(tmp_path / "in", dict(zip(OFFICIAL, (train, val), strict=True)), pictures)
    converted(source, tmp_path / "out")
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2}
    box = [("bee", [2, 3, 10, 8])]
    assert boxes(tmp_path / "out") == {"a": box}
    assert boxes(tmp_path / "out", "val") == {"b": box}
    entries = manifest_of(tmp_path / "out")["sources"]
    assert [its["class_ids"] for its in entries] == [{"ant": 1, "bee": 2}, {"bee": 1, "ant": 2}]
    (its,) = documents(tmp_path / "out", "val").values()
    assert its["source"]["archive"] == 1
    assert counted(tmp_path / "out") == {"in-no-list": 1}
    converted(source, tmp_path / "only", splits=("val",))
    assert [*manifest_of(tmp_path / "only")["splits"]] == ["val"]


def test_a_box_that_is_changed_is_kept_as_written(tmp_path: Path) -> None:
    slightly, far = [10, 2, 10.75, 4], [-3, 2, 40, 4]
    document = coco(
        [image(1, "a.jpg")], [thing(1, 1, 1, slightly), thing(2, 1, 1, far), thing(3, 1)]
    )
    source = written(tmp_path / "in", {"x.json": document}, ["a.jpg"])
    converted(source, tmp_path / "out", choices=Choices(bad_boxes="clip"))
    (its,) = documents(tmp_path / "out").values()
    assert [one["bbox"] for one in its["objects"]] == [[10, 2, 20, 6], [0, 2, 20, 6], [2, 3, 10, 8]]
    raw = [one["raw"] for one in its["objects"]]
    assert raw == [{"id": 1, "bbox": slightly}, {"id": 2, "bbox": far}, {"id": 3}]
    assert counted(tmp_path / "out") == {"box-clipped": 1, "bad-box-clipped": 1}


def test_a_rotated_box_is_kept_as_written(tmp_path: Path) -> None:
    attributes = {"occluded": False, "rotation": 90.0}
    document = coco([image(1, "a.jpg")], [thing(1, 1, 1, [6, 3, 8, 4], attributes=attributes)])
    converted(written(tmp_path / "in", {"x.json": document}, ["a.jpg"]), tmp_path / "out")
    (its,) = documents(tmp_path / "out").values()
    assert its["objects"][0]["bbox"] == pytest.approx([8, 1, 12, 9])
    assert its["objects"][0]["raw"] == {"id": 1, "attributes": attributes, "bbox": [6, 3, 8, 4]}
    assert counted(tmp_path / "out") == {"rotated-box": 1}


def test_files_in_other_encodings(tmp_path: Path) -> None:
    text = json.dumps(one_of_each("ü"), ensure_ascii=False)
    forms = {
        "bom": text.encode("utf-8-sig"),
        "utf-16": text.encode("utf-16"),
        "utf-16-be": text.encode("utf-16-be"),
        "utf-16-le": text.encode("utf-16-le"),
        "indented": json.dumps(one_of_each("ü"), indent=4).encode(),
    }
    for name, content in forms.items():
        converted(
            written(tmp_path / name, {"x.json": content}, ["ü.jpg"]), tmp_path / f"{name}-out"
        )
        assert boxes(tmp_path / f"{name}-out") == {"ü": BOX}, name


@pytest.mark.parametrize(
    ("declared", "options", "area"),
    [
        ((20, 10), {"resize": 16}, 64),
        ((40, 20), {"choices": Choices(size_mismatch="scale")}, 25),
        ((20, 10), {}, 100),
    ],
)
def test_the_area_of_an_object_follows_its_picture(
    tmp_path: Path, declared: tuple[int, int], options: Any, area: float
) -> None:
    document = coco([image(1, "a.jpg", declared)], [thing(1, 1, area=100), thing(2, 1, area="big")])
    source = written(tmp_path / "in", {"x.json": document}, ["a.jpg"])
    converted(source, tmp_path / "out", **options)
    (its,) = documents(tmp_path / "out").values()
    areas = [item["raw"]["area"] for item in its["objects"]]
    assert areas == [pytest.approx(area), "big"]


def test_names_that_look_alike_are_offered_in_the_order_of_ids(tmp_path: Path) -> None:
    names = [{"id": 1, "name": "ant"}, {"id": 2, "name": "Ant"}, {"id": 3, "name": "a nt"}]
    document = coco([image(1, "a.jpg")], [thing(1, 1)], names)
    source = written(tmp_path / "in", {"x.json": document}, ["a.jpg"])
    with pytest.raises(DataError) as caught:
        converted(source, tmp_path / "out")
    assert "add --classes 'ant,Ant,a nt' to take all names as they are" in str(caught.value)
