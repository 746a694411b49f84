"""Odd files from test suites of other tools: each converts or is refused with the reason."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from shard_tool.sources.voc.devkit import open_devkit
from shard_tool.sources.voc.record import build_sample

from shard_tool.convert.plan import plan_conversion
from shard_tool.errors import AnnotationError, BoxError, SourceError
from shard_tool.sources.voc.annotation import (
    ImageSource,
    Owner,
    PartAnnotation,
    check_corners,
    parse_annotation,
)
from shard_tool.sources.voc.imagesets import parse_ids
from tests.kit.datasets.annotations import BOX_HINT, found, thing
from tests.kit.datasets.converted import converted, samples_of
from tests.kit.datasets.voc_tree import Picture, voc_tree, write

if TYPE_CHECKING:
    from pathlib import Path

    from shard_tool.format.sample import Box, Sample
    from shard_tool.sources.voc.annotation import Annotation, ObjectAnnotation

BELOW_1 = "is below 1 (VOC counts pixels from 1)"
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

BOX_ERRORS = {
    "train_002": f"object 1 'label_1': xmin 0 {BELOW_1}",
    "val_001": f"object 1 'label_0': xmin 0 {BELOW_1}",
}
REFUSED = {
    "train_001": "object 1: 'label_0' is not one of VOC's 20 classes",
    "train_002": "object 1: 'label_1' is not one of VOC's 20 classes",
    "val_001": "object 1: 'label_0' is not one of VOC's 20 classes",
    "a": "object 1: 'background' is not one of VOC's 20 classes",
}
SIZES_WH = {"mmdetection": (335, 500), "tfds_fake_voc": (15, 11)}


def build(tmp_path: Path, xml: bytes, size_wh: tuple[int, int]) -> Sample:
    """The sample made of an annotation file and a picture of that size."""
    tree = voc_tree(tmp_path, [Picture(key="a", size_wh=size_wh)])
    write(tree / "Annotations/a.xml", xml)
    devkit = open_devkit(str(tree))
    plan = plan_conversion([devkit], task="detection", splits=["train"], shard_bytes=1, seed=0)
    (record,) = plan.shard_task(0).records
    contents = [devkit.read(span) for span in record.spans]
    return build_sample(devkit.source, record, contents).sample


def test_every_fixture_has_an_expected_result(voc_sample: Path) -> None:
    folder = voc_sample / "fixtures"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.xml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_fixture_is_read_as_written(voc_sample: Path, name: str) -> None:
    content = (voc_sample / "fixtures" / name).read_bytes()
    assert parse_annotation(content, place=name) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_fixture_becomes_a_sample_or_is_refused_with_the_reason(
    voc_sample: Path, tmp_path: Path, name: str
) -> None:
    content = (voc_sample / "fixtures" / name).read_bytes()
    stem = name.rpartition("/")[2].removesuffix(".xml")
    size_wh = SIZES_WH.get(name.partition("/")[0], (20, 10))
    if stem in REFUSED:
        with pytest.raises(AnnotationError) as caught:
            build(tmp_path, content, size_wh)
        place = tmp_path / "VOCdevkit/VOC2012/Annotations/a.xml"
        assert str(caught.value) == f"{place}: {REFUSED[stem]}"
        return
    sample = build(tmp_path, content, size_wh)
    assert (sample.key, sample.width, sample.height) == ("a", *size_wh)
    boxes: list[Box | None] = [
        (xmin - 1, ymin - 1, xmax, ymax)
        for item in EXPECTED[name].objects
        if item.corners
        for xmin, ymin, xmax, ymax in [item.corners]
    ]
    assert [item.bbox for item in sample.objects] == boxes
    assert [item.name for item in sample.objects] == [item.name for item in EXPECTED[name].objects]


def test_object_that_cannot_be_read_is_refused_with_its_place(tmp_path: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    content = (
        f"<annotation><object><name>cat</name>{box}</object><object>{box}</object></annotation>"
    )
    with pytest.raises(AnnotationError) as caught:
        build(tmp_path, content.encode(), (20, 10))
    place = tmp_path / "VOCdevkit/VOC2012/Annotations/a.xml"
    assert str(caught.value) == f"{place}: object 2 has no <name>"


@pytest.mark.parametrize("stem", BOX_ERRORS)
def test_fixture_that_counts_from_zero_is_a_box_error(stem: str) -> None:
    ((path, annotation),) = [item for item in EXPECTED.items() if item[0].endswith(f"/{stem}.xml")]
    item = annotation.objects[0]
    assert item.corners is not None
    with pytest.raises(BoxError) as caught:
        check_corners(item.corners, size_wh=(10, 5), place=path, object_index=0, name=item.name)
    assert str(caught.value) == f"{path}: {BOX_ERRORS[stem]}{BOX_HINT}"


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
    assert report.manifest.name == "vocunknown"
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
        f"({lists} names '2007_000002')"
    )


def test_fixture_folder_without_pictures_is_no_devkit(voc_sample: Path, tmp_path: Path) -> None:
    source = voc_sample / "fixtures/datumaro/voc_dataset2"
    with pytest.raises(SourceError) as caught:
        converted(source, tmp_path / "voc")
    lists = ", ".join(f"ImageSets/{name}" for name in ("Action", "Layout", "Main", "Segmentation"))
    assert str(caught.value) == (
        f"{source}: not a VOC devkit: no JPEGImages folder in it (found Annotations, {lists}); "
        "give a VOC tar or the folder that holds VOC20xx"
    )
