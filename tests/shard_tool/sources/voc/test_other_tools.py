"""Odd files from test suites of other tools: each converts or is refused with the reason."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool import ConvertOptions
from shard_tool.convert.build import Builder
from shard_tool.convert.rules import Choices
from shard_tool.convert.run import prepare
from shard_tool.errors import DataError, SourceError
from shard_tool.format.sample import VOC_CLASSES
from shard_tool.sources.classes import ClassOptions
from shard_tool.sources.voc.annotation import (
    ImageSource,
    Owner,
    PartAnnotation,
    parse_annotation,
)
from shard_tool.sources.voc.imagesets import parse_ids
from tests.kit.datasets.annotations import found, thing
from tests.kit.datasets.converted import converted, samples_of
from tests.kit.datasets.voc_tree import Picture, voc_tree, write

if TYPE_CHECKING:
    from pathlib import Path

    from shard_tool.format.sample import Box, Sample
    from shard_tool.sources.voc.annotation import Annotation, ObjectAnnotation

UNKNOWN = ImageSource(database="Unknown", annotation="Unknown", image="Unknown", flickrid=None)
ROBOFLOW = ImageSource(database="roboflow.ai", annotation=None, image=None, flickrid=None)
FLAGS = {"truncated": False, "occluded": False, "difficult": False}
CAT = thing("cat", (1, 2, 3, 4))
POSED_CAT = thing("cat", (1, 2, 3, 4), pose="Unspecified", truncated=True, difficult=False)
PERSON = thing("person", (4, 5, 6, 7))
ACTIONS = (
    *("jumping", "phoning", "playinginstrument", "reading", "ridingbike", "ridinghorse"),
    *("running", "takingphoto", "usingcomputer", "walking"),
)
ACTIVE_PERSON = thing(
    "person",
    (4, 5, 6, 7),
    parts=(PartAnnotation(name="head", corners=(5.5, 6, 7.5, 8)),),  # beyond the person
    actions={"other": True} | dict(zip(ACTIONS, itertools.cycle((False, True)))),
)


def voc2007(*objects: ObjectAnnotation) -> Annotation:
    return found(
        *objects,
        folder="VOC2007",
        filename="2007_000001.jpg",
        size_whd=(20, 10, 3),
        segmented=True,
    )


def roboflow(name: str, *objects: ObjectAnnotation) -> Annotation:
    return found(
        *objects,
        filename=f"{name}.jpg",
        source=ROBOFLOW,
        size_whd=(10, 5, 3),
        segmented=False,
    )


def unknown(name: str, *objects: ObjectAnnotation) -> Annotation:
    return found(*objects, filename=f"{name}.jpg", source=UNKNOWN, segmented=False)


EXPECTED = {
    "datumaro/kaggle_dataset/relaxed_voc1/annotations/2007_000001.xml": voc2007(CAT, PERSON),
    "datumaro/kaggle_dataset/relaxed_voc2/2007_000001.xml": voc2007(CAT, PERSON),
    "datumaro/roboflow_dataset/voc/train/train_001.xml": roboflow(
        "train_001", thing("label_0", (2, 1, 5, 2))
    ),
    "datumaro/roboflow_dataset/voc/train/train_002.xml": roboflow(
        "train_002", thing("label_1", (0, 0, 2, 4), **FLAGS)
    ),
    "datumaro/roboflow_dataset/voc/val/val_001.xml": roboflow(
        "val_001",
        thing("label_0", (0, 0, 1, 2), **FLAGS),
        thing("label_1", (0, 0, 9, 1), **FLAGS),
    ),
    "datumaro/voc_dataset1/Annotations/2007_000001.xml": voc2007(POSED_CAT, ACTIVE_PERSON),
    "datumaro/voc_dataset2/Annotations/@.xml": unknown("@"),
    "datumaro/voc_dataset2/Annotations/a.xml": unknown(
        "a", thing("background", (1, 2, 4, 6), **FLAGS | {"occluded": True})
    ),
    "datumaro/voc_dataset2/Annotations/b.xml": unknown(
        "b", thing("aeroplane", (2, 2, 7, 6), **FLAGS | {"occluded": True})
    ),
    "datumaro/voc_dataset2/Annotations/c.xml": unknown(
        "c", thing("bicycle", (3, 1, 11, 6), **FLAGS)
    ),
    "datumaro/voc_dataset2/Annotations/d.xml": unknown("d", thing("bird", (4, 4, 8, 8), **FLAGS)),
    "datumaro/voc_dataset3/Annotations/2007_000001.xml": voc2007(POSED_CAT),
    "mmdetection/VOC2012_Annotations_000001.xml": found(
        thing(
            "train",
            (139, 200, 207, 301),
            pose="Unspecified",
            truncated=False,
            difficult=False,
        ),
        folder="VOC2007",
        filename="000002.jpg",  # of another file
        source=ImageSource(
            database="The VOC2007 Database",
            annotation="PASCAL VOC2007",
            image="flickr",
            flickrid="329145082",
        ),
        owner=Owner(flickrid="hiromori2", name="Hiroyuki Mori"),
        size_whd=(335, 500, 3),
        segmented=False,
    ),
    "tfds_fake_voc/VOC2007/Annotations/000002.xml": found(
        thing("train", (2, 3, 6, 9), pose="frontal", truncated=True, difficult=False),
        size_whd=(15, 11, None),
    ),
}

COUNTS_FROM_ZERO = {"train_002": (1, "label_1"), "val_001": (2, "label_0")}
"""Number of boxes, all with a 0, and the class of the first."""
SIZES_WH = {"mmdetection": (335, 500), "tfds_fake_voc": (15, 11), "roboflow_dataset": (10, 5)}
"""Of the pictures; the annotations say the same, or none."""


def size_of(name: str) -> tuple[int, int]:
    return next((size for part, size in SIZES_WH.items() if part in name), (20, 10))


def build(tmp_path: Path, xml: bytes, size_wh: tuple[int, int], **options: Any) -> Sample:
    """The sample made of an annotation file and a picture of that size."""
    tree = voc_tree(tmp_path, [Picture(key="a", size_wh=size_wh)])
    write(tree / "Annotations/a.xml", xml)
    plan = prepare(ConvertOptions(source=str(tree), dest="unused", **options))
    (read,) = plan.shard_task(0).reads()
    files = plan.sources[0].files
    assert read.record.image is not None
    content = files.read(read.record.image)
    return Builder(plan.rules, [files]).built(read.record, read.annotation, [content]).sample


def test_every_fixture_has_an_expected_result(voc_sample: Path) -> None:
    folder = voc_sample / "fixtures"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.xml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_fixture_is_read_as_written(voc_sample: Path, name: str) -> None:
    content = (voc_sample / "fixtures" / name).read_bytes()
    assert parse_annotation(content, place=name) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_fixture_becomes_a_sample_of_voc_s_classes_or_its_own(
    voc_sample: Path, tmp_path: Path, name: str
) -> None:
    content = (voc_sample / "fixtures" / name).read_bytes()
    sample = build(tmp_path, content, size_of(name))
    assert (sample.key, sample.width, sample.height) == ("a", *size_of(name))
    names = [item.name for item in EXPECTED[name].objects]
    first = 1 if set(names) <= {*VOC_CLASSES} else 0  # other classes: corners from zero
    boxes: list[Box | None] = [
        (xmin - first, ymin - first, xmax, ymax)
        for item in EXPECTED[name].objects
        if item.corners
        for xmin, ymin, xmax, ymax in [item.corners]
    ]
    assert [item.bbox for item in sample.objects] == boxes
    assert [item.name for item in sample.objects] == names


@pytest.mark.parametrize("stem", COUNTS_FROM_ZERO)
def test_fixture_that_counts_from_zero_is_asked_about_where_its_classes_are_voc_s(
    voc_sample: Path, tmp_path: Path, stem: str
) -> None:
    (name,) = [name for name in EXPECTED if name.endswith(f"/{stem}.xml")]
    content, size_wh = (voc_sample / "fixtures" / name).read_bytes(), size_of(name)
    count, first = COUNTS_FROM_ZERO[stem]
    names = {item.name for item in EXPECTED[name].objects}
    renamed = ClassOptions(rename=tuple(zip(sorted(names), VOC_CLASSES, strict=False)))
    corners = tuple(map(float, EXPECTED[name].objects[0].corners or ()))
    with pytest.raises(DataError) as caught:
        build(tmp_path, content, size_wh, classes=renamed)
    assert str(caught.value) == (
        f"{tmp_path}/VOCdevkit/VOC2012: {count} of {count} boxes have a 0 or less for xmin or ymin "
        f"(such as Annotations/a.xml: {first} {corners}), and VOC's devkit counts pixels from 1; "
        "add --boxes corners if the numbers count from zero, as labelImg, CVAT and Roboflow write "
        "them; or --boxes devkit if these boxes are mistakes, to be clipped"
    )
    for boxes in ("corners", "devkit"):
        sample = build(tmp_path, content, size_wh, classes=renamed, choices=Choices(boxes=boxes))
        assert [item.bbox for item in sample.objects] == [
            item.corners for item in EXPECTED[name].objects
        ]  # under `devkit` the pixel outside is clipped


def test_part_beyond_its_object_keeps_its_box(voc_sample: Path, tmp_path: Path) -> None:
    path = voc_sample / "fixtures/datumaro/voc_dataset1/Annotations/2007_000001.xml"
    person = build(tmp_path, path.read_bytes(), (20, 10)).objects[1]
    assert person.parts is not None
    assert [(part.name, part.bbox) for part in person.parts] == [("head", (4.5, 5.0, 7.5, 8.0))]


# Whole folders --------------------------------------------------------------------------------


def test_list_with_a_comment_and_a_blank_line_names_pictures_only(voc_sample: Path) -> None:
    path = voc_sample / "fixtures/datumaro/voc_dataset3/ImageSets/Main/train.txt"
    assert parse_ids(path.read_bytes(), place=str(path)) == ["2007_000001"]


@pytest.mark.parametrize("name", ["voc_dataset1", "voc_dataset3"])
def test_fixture_folder_without_a_year_converts(
    voc_sample: Path, tmp_path: Path, name: str
) -> None:
    source = voc_sample / "fixtures/datumaro" / name
    report = converted(source, tmp_path / "voc", splits=("train",))
    assert report.manifest.name == name
    samples = samples_of(tmp_path / "voc", "train")
    picture = source / "JPEGImages/2007_000001.jpg"
    assert {key: parts["jpg"] for key, parts in samples.items()} == {
        "2007_000001": picture.read_bytes()
    }


def test_fixture_picture_without_annotation_is_named(voc_sample: Path, tmp_path: Path) -> None:
    source = voc_sample / "fixtures/datumaro/voc_dataset1"
    with pytest.raises(SourceError) as caught:
        converted(source, tmp_path / "voc")
    lists = "Action/test, Layout/test, Main/test, Segmentation/test"
    assert str(caught.value) == (
        f"{source}/Annotations/2007_000002.xml: is missing: a picture without its annotation "
        f"({lists} names '2007_000002'); leave it out by --unlabelled drop, or take it by "
        "--unlabelled background"
    )


def test_fixture_folder_without_pictures_is_no_devkit(voc_sample: Path, tmp_path: Path) -> None:
    source = voc_sample / "fixtures/datumaro/voc_dataset2"
    with pytest.raises(SourceError) as caught:
        converted(source, tmp_path / "voc")
    assert str(caught.value) == (
        f"{source}: holds no pictures (found 5 XML files, 27 .txt files); give the folder or "
        "archive that holds the pictures and their annotations"
    )
