"""What is exported and converted again has the same pictures and boxes."""

from __future__ import annotations

import json
import shutil
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shard_tool.convert.rules import Choices
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.sources.classes import ClassOptions
from tests.kit.datasets.coco_sets import coco_document
from tests.kit.datasets.converted import converted, manifest_of
from tests.kit.datasets.exports import (
    CLASSES,
    WH,
    coco_of,
    contents_of,
    dataset_of,
    exported,
    losses_of,
    sample_of,
    thing,
)
from tests.kit.datasets.voc_tree import jpeg, write

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = ("coco", "yolo", "voc")


def again(dataset: Path, folder: Path, format_: str) -> Path:
    """The dataset, exported and converted with the options that the export says."""
    report = exported(dataset, folder / "out", format_)
    chosen = dict(option.removeprefix("--").split(" ", 1) for option in report.options)
    classes = ClassOptions(
        classes=tuple(chosen.pop("classes").strip("'").split(",")) if "classes" in chosen else ()
    )
    task = chosen.pop("task", "detection")
    choices: Any = Choices(**chosen)
    converted(folder / "out", folder / "again", choices=choices, classes=classes, task=task)
    return folder / "again"


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_splits_may_have_pictures_of_one_name(tmp_path: Path, format_: str) -> None:
    """Roboflow's `train/images/0.jpg` and `valid/images/0.jpg`; VOC has one folder for both."""
    keys = {"train": ("train/images/0", "1"), "val": ("valid/images/0", "1")}
    boxes = iter([(1, 2, 30, 40), (2, 3, 30, 40), (3, 4, 30, 40), (4, 5, 30, 40)])
    splits = {
        split: [sample_of(key, thing(next(boxes))) for key in its] for split, its in keys.items()
    }
    dataset = dataset_of(tmp_path / "set", splits)
    assert contents_of(again(dataset, tmp_path, format_)) == contents_of(dataset)


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_folders_of_any_name_within_a_split_come_back(tmp_path: Path, format_: str) -> None:
    folders = ("images", "site/images", "Images/x", "site/JPEGImages", "labels", "x/Annotations")
    things = [thing((left, 2, 30, 40)) for left in range(len(folders))]
    samples = [
        sample_of(f"site/{folder}/{left}", one)
        for left, (folder, one) in enumerate(zip(folders, things, strict=True))
    ]
    dataset = dataset_of(tmp_path / "set", {"train": samples})
    assert contents_of(again(dataset, tmp_path, format_)) == contents_of(dataset)
    if format_ == "yolo":  # ultralytics looks there, and nowhere else
        assert (tmp_path / "out/images/train/site/labels/0.txt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_voc_itself_comes_back(mini_dataset: Path, tmp_path: Path, format_: str) -> None:
    """COCO and YOLO have no flags, and YOLO nine decimals; VOC has them all."""
    flags = ("difficult", "truncated", "occluded", "pose") if format_ == "voc" else ()
    found = contents_of(again(mini_dataset, tmp_path, format_), *flags)
    expected = contents_of(mini_dataset, *flags)
    for _, objects, _ in expected.values() if format_ == "yolo" else ():
        objects[:] = [(name, tuple(round(side, 9) for side in box)) for name, box in objects]
    assert found == expected
    assert len(found) > 40
    assert manifest_of(tmp_path / "again")["classes"] == manifest_of(mini_dataset)["classes"]


@pytest.mark.slow
def test_masks_come_back_through_voc(mini_masks: Path, tmp_path: Path) -> None:
    found = contents_of(again(mini_masks, tmp_path, "voc"), "difficult")
    assert found == contents_of(mini_masks, "difficult")
    assert all("class.png" in members for _, _, members in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("digits", [0, 2, 9])
@pytest.mark.parametrize("format_", FORMATS)
def test_boxes_come_back_to_the_last_digit(tmp_path: Path, format_: str, digits: int) -> None:
    """Of nine decimals; COCO loses the last bit of a double where no width reaches it."""
    draw, found = Random(digits), set[tuple[float, ...]]()
    while len(found) < 400:
        x0, y0 = round(draw.uniform(0, 90), digits), round(draw.uniform(0, 50), digits)
        x1, y1 = round(draw.uniform(x0 + 1, 100), digits), round(draw.uniform(y0 + 1, 60), digits)
        found.add((x0, y0, x1, y1))
    things = [thing(box, name=draw.choice([*CLASSES])) for box in sorted(found)]
    samples = [sample_of(f"s{row}", *things[row::20]) for row in range(20)]
    dataset = dataset_of(tmp_path / "set", {"train": samples})
    again_, expected = contents_of(again(dataset, tmp_path, format_)), contents_of(dataset)
    if format_ != "coco":
        assert again_ == expected
    for key in expected:
        boxes = [[box for _, box in one[key][1]] for one in (again_, expected)]
        np.testing.assert_allclose(*boxes, rtol=0, atol=1.5e-14 if digits else 0)


def test_other_classes_than_vocs_are_corners_and_vocs_own_count_from_1(tmp_path: Path) -> None:
    """Whatever the default of `convert` is, the option that is shown gives the same boxes."""
    box = (0.0, 0.5, 30.25, 40.0)
    voc = {name: label for label, name in enumerate(VOC_CLASSES, start=1)}
    for number, (classes, boxes, options) in enumerate(
        [
            (voc, "devkit", ()),
            (voc, "corners", ("--boxes corners",)),
            (CLASSES, "corners", ("--classes 'cat,big dog'",)),
            (CLASSES, "devkit", ("--boxes devkit", "--classes 'cat,big dog'")),
        ]
    ):
        folder = tmp_path / str(number)
        label = classes["cat"]
        things = [thing(box, label=label), thing(None, label=label, point=(3.0, 4.5))]
        samples = {"train": [sample_of("a", *things)]}
        dataset = dataset_of(folder / "set", samples, classes=classes, options={"boxes": boxes})
        report = exported(dataset, folder / "out", "voc")
        assert report.options == options
        text = (folder / "out/Annotations/a.xml").read_text()
        first = "<xmin>1</xmin><ymin>1.5</ymin>" if boxes == "devkit" else "<xmin>0</xmin>"
        assert first in text
        shutil.rmtree(folder / "out")
        found = contents_of(again(dataset, folder, "voc"), "point")
        assert found == contents_of(dataset, "point")


def test_pictures_of_every_kind_keep_their_bytes_and_names(tmp_path: Path) -> None:
    """Blanks, dots, folders, Unicode, upper case; splits' own folders are left out."""
    keys = {
        "train/holiday%201%2E2": "train/holiday 1.2.JPG",
        "a/b/é": "a/b/é.jpeg",
        "plain": None,
        "train2017/0%25": "train2017/0%.jpg",
    }
    samples = [sample_of(key, thing(), file=file) for key, file in keys.items()]
    dataset = dataset_of(tmp_path / "set", {"train": samples})
    names = {"holiday 1.2.JPG", "a/b/é.jpeg", "plain.jpg", "0%.jpg"}
    for format_, folder in (("coco", "train"), ("yolo", "images/train"), ("voc", "JPEGImages")):
        exported(dataset, tmp_path / format_, format_)
        root = tmp_path / format_ / folder
        found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        assert found == names
        converted(tmp_path / format_, tmp_path / f"{format_}-again")
        assert len(contents_of(tmp_path / f"{format_}-again")) == 4


@pytest.mark.parametrize("digits", [0, 2, 15])
def test_a_coco_file_s_own_numbers_come_back(tmp_path: Path, digits: int) -> None:
    """Boxes, areas, ids, crowds and other fields are those that the file had, to the last bit."""
    draw = Random(digits)
    document = coco_document(draw, num_images=8)
    for item in document["annotations"]:
        x, y, width, height = item["bbox"]
        item["bbox"] = [x, y, round(width * 0.97, digits) or 1, round(height * 0.97, digits) or 1]
        item |= {"segmentation": [], "extra": {"of": [item["id"]]}}
    document["annotations"][0]["bbox"][0] = -0.25
    for number, image in enumerate(document["images"]):
        write(tmp_path / "coco/train" / image["file_name"], jpeg((320, 240), number))
    text = json.dumps(document).encode()
    write(tmp_path / "coco/annotations/instances_train.json", text)
    converted(tmp_path / "coco", tmp_path / "set")
    exported(tmp_path / "set", tmp_path / "out", "coco")
    found = coco_of(tmp_path / "out")
    for name in ("images", "annotations"):
        by_id = [{its["id"]: its for its in one[name]} for one in (found, document)]
        assert by_id[0] == by_id[1]
    used = {item["category_id"] for item in document["annotations"]}
    assert {its["id"]: its["name"] for its in found["categories"]}.items() >= {
        (its["id"], its["name"]) for its in document["categories"] if its["id"] in used
    }


def test_areas_are_the_source_s_or_those_of_outlines_or_boxes(tmp_path: Path) -> None:
    square = (0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0)
    said = thing(polygons=(square,), raw={"area": 7.5})
    samples = {"train": [sample_of("a", said, thing(polygons=(square,)), thing())]}
    exported(dataset_of(tmp_path / "set", samples), tmp_path / "out", "coco")
    assert [item["area"] for item in coco_of(tmp_path / "out")["annotations"]] == [7.5, 100, 400]


def test_polygons_run_lengths_and_crowds_come_back_through_coco(tmp_path: Path) -> None:
    fields = ("polygons", "rle", "crowd", "raw")
    square = (10.0, 20.0, 30.5, 20.0, 30.5, 40.0)
    counts = {"size": [WH[1], WH[0]], "counts": [10, 20, WH[0] * WH[1] - 30]}
    things = [
        thing((10, 20, 30.5, 40), polygons=(square,), crowd=False, raw={"id": 5, "area": 7.5}),
        thing(polygons=(square, square), crowd=False, raw={"id": 9, "area": 7.25, "score": [1]}),
        thing(rle=counts, crowd=True, raw={"id": 2, "area": 20}),
    ]
    raw = {"id": 17, "license": 3, "coco_url": "http://x"}
    samples = [sample_of("a", *things, raw=raw), sample_of("b", raw={"id": 4})]
    sources = [{"format": "coco", "class_ids": {"cat": 7, "big dog": 70}}]
    dataset = dataset_of(tmp_path / "set", {"train": samples}, sources=sources)
    found = contents_of(again(dataset, tmp_path, "coco"), *fields)
    assert found == contents_of(dataset, *fields)
    source = manifest_of(tmp_path / "again")["sources"][0]
    assert source["class_ids"] == {"cat": 7, "big dog": 70}


def test_polygons_come_back_through_yolo_and_boxes_where_they_are_asked_for(tmp_path: Path) -> None:
    triangle = (10.0, 20.0, 30.5, 20.0, 30.5, 40.125)
    other = (*triangle[:-1], 41.125)
    things = [
        thing((10.0, 20.0, 30.5, 40.125), polygons=(triangle,)),
        thing((9.0, 20.0, 30.5, 41.125), polygons=(other,)),
        thing((9.0, 20.0, 30.5, 40.125), polygons=(triangle, triangle), name="big dog"),
    ]
    dataset = dataset_of(tmp_path / "set", {"train": [sample_of("a", *things)]})
    report = exported(dataset, tmp_path / "out", "yolo")
    assert losses_of(report) == {"box-of-polygon": 1, "outline-lost": 1}
    converted(tmp_path / "out", tmp_path / "again")
    ((_, objects, _),) = contents_of(tmp_path / "again", "polygons").values()
    assert [its[2] for its in objects] == [(triangle,), (other,), None]
    assert objects[1][1] == (10.0, 20.0, 30.5, 41.125)  # the polygon's
    report = exported(dataset, tmp_path / "boxes", "yolo", shapes="boxes")
    assert losses_of(report) == {"outline-lost": 3}
    converted(tmp_path / "boxes", tmp_path / "boxes-again")
    assert contents_of(tmp_path / "boxes-again") == contents_of(dataset)
