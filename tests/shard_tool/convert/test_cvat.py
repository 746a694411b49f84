"""CVAT's exports wherever people put them: subsets, pictures and several files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import DataError, OptionError
from tests.kit.datasets.archives import tar_with, zip_with
from tests.kit.datasets.converted import converted, manifest_of, shards_of
from tests.kit.datasets.cvat_files import ANT, BEE, box, cvat, element, image, label, shape
from tests.kit.datasets.wild import boxes, classes, counted, documents, folder, pairs, picture

if TYPE_CHECKING:
    from pathlib import Path

Files = dict[str, bytes]
BOX = [("ant", [2.0, 3.0, 10.0, 8.0])]


def made(tmp_path: Path, files: Files, **options: Any) -> dict[str, list[str]]:
    """Split to keys of what the files become."""
    converted(folder(tmp_path / "in", files), tmp_path / "out", **options)
    splits = manifest_of(tmp_path / "out")["splits"]
    return {split: list(documents(tmp_path / "out", split)) for split in splits}


def refusal(tmp_path: Path, files: Files, **options: Any) -> str:
    with pytest.raises((DataError, OptionError)) as caught:
        made(tmp_path, files, **options)
    return str(caught.value).replace(str(tmp_path), "")


def pictures(*names: str) -> Files:
    return {name: picture(shade=number) for number, name in enumerate(names)}


def test_a_task_with_its_pictures_becomes_samples(tmp_path: Path) -> None:
    files = pictures("images/a.jpg", "images/b.jpg")
    files["annotations.xml"] = cvat(image("a.jpg", BEE, ANT), image("b.jpg", id_=1))
    assert made(tmp_path, files) == {"train": ["images/a", "images/b"]}
    assert boxes(tmp_path / "out")["images/a"] == [("bee", [0.0, 0.0, 20.0, 10.0]), *BOX]
    sample = documents(tmp_path / "out")["images/a"]
    assert sample["objects"][0]["polygons"] == [[0.0, 0.0, 20.0, 0.0, 20.0, 10.0, 0.0, 10.0]]
    assert sample["objects"][0]["raw"] == {"cvat": {"source": "manual", "z_order": "0"}}
    assert (sample["file"], sample["raw"]) == ("images/a.jpg", {"cvat": {"id": "0"}})
    assert counted(tmp_path / "out") == {"background": 1}


@pytest.mark.parametrize("pack", [tar_with, zip_with])
def test_an_archive_becomes_the_same_shards(tmp_path: Path, pack: Any) -> None:
    files = pictures("images/a.jpg", "images/b.jpg")
    files["annotations.xml"] = cvat(image("a.jpg", BEE), image("b.jpg", ANT, id_=1))
    made(tmp_path, files)
    path = tmp_path / ("x.zip" if pack is zip_with else "x.tar")
    path.write_bytes(pack(files))
    converted(path, tmp_path / "packed")
    assert shards_of(tmp_path / "packed") == shards_of(tmp_path / "out")


def test_labels_of_the_task_are_the_classes_in_its_order(tmp_path: Path) -> None:
    labels = ["bee", label("night", "tag"), "ant", "zebra"]
    files = pictures("images/a.jpg")
    files["annotations.xml"] = cvat(image("a.jpg", ANT), labels=labels)
    made(tmp_path, files)
    assert classes(tmp_path / "out") == {"bee": 1, "ant": 2, "zebra": 3}
    (source,) = manifest_of(tmp_path / "out")["sources"]
    assert source["class_ids"] == {"bee": 1, "ant": 2, "zebra": 3}
    assert counted(tmp_path / "out") == {"label-of-no-object": 1}


def test_without_labels_the_names_found_are_the_classes_sorted(tmp_path: Path) -> None:
    files = pictures("images/a.jpg")
    files["annotations.xml"] = cvat(image("a.jpg", BEE, ANT), labels=())
    made(tmp_path, files)
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2}
    assert "class_ids" not in manifest_of(tmp_path / "out")["sources"][0]


# Splits -------------------------------------------------------------------------------------------


def test_subsets_of_a_project_are_the_splits(tmp_path: Path) -> None:
    subsets = ("TRAIN", "Validation", "test", "My own")
    names = [f"{subset}/a.jpg" for subset in subsets]
    files = pictures(*[f"images/{name}" for name in names])
    images = [image("a.jpg", ANT, subset=subset, id_=n) for n, subset in enumerate(subsets)]
    files["annotations.xml"] = cvat(*images)
    assert made(tmp_path, files) == {
        "train": ["images/TRAIN/a"],
        "val": ["images/Validation/a"],
        "test": ["images/test/a"],
        "My-own": ["images/My%20own/a"],
    }


@pytest.mark.parametrize("subset", ["", "default", "Default"])
def test_images_of_no_subset_are_the_split_train(tmp_path: Path, subset: str) -> None:
    files = pictures("images/a.jpg") | {"annotations.xml": cvat(image("a.jpg", ANT), subset=subset)}
    assert made(tmp_path, files) == {"train": ["images/a"]}


def test_several_files_are_split_by_their_folders_and_join_their_labels(tmp_path: Path) -> None:
    files = pictures("train/images/a.jpg", "valid/images/a.jpg")
    files["train/annotations.xml"] = cvat(image("a.jpg", ANT), labels=("bee", "ant"))
    files["valid/annotations.xml"] = cvat(image("a.jpg", BEE), labels=("cat", "ant", "bee"))
    assert made(tmp_path, files) == {"train": ["train/images/a"], "val": ["valid/images/a"]}
    assert boxes(tmp_path / "out") == {"train/images/a": BOX}
    assert classes(tmp_path / "out") == {"bee": 1, "ant": 2, "cat": 3}


def test_the_subset_of_a_task_is_that_of_its_images(tmp_path: Path) -> None:
    files = pictures("1/images/a.jpg", "2/images/b.jpg")
    files["1/annotations.xml"] = cvat(image("a.jpg", ANT), subset="Train")
    files["2/annotations.xml"] = cvat(image("b.jpg", ANT), subset="Test")
    assert made(tmp_path, files) == {"train": ["1/images/a"], "test": ["2/images/b"]}


def test_images_in_no_subset_beside_others_are_an_error_or_named_by_lists(tmp_path: Path) -> None:
    files = pictures("images/a.jpg", "images/b.jpg")
    images = [image("a.jpg", ANT, subset="Train"), image("b.jpg", ANT, subset="default", id_=1)]
    files["annotations.xml"] = cvat(*images)
    assert refusal(tmp_path, files) == (
        "/in: the image 'annotations.xml#1' is in no subset, and others are; name the pictures by "
        "--split-file train=LIST"
    )
    (tmp_path / "mine.txt").write_text("a.jpg\n")
    found = made(tmp_path, files, split_files={"mine": str(tmp_path / "mine.txt")})
    assert found == {"mine": ["images/a"]}
    assert counted(tmp_path / "out") == {"in-no-list": 1, "list-line-other": 1}


# Pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "there"),
    [
        *[("a.jpg", "images/a.jpg"), ("a.jpg", "a.jpg"), ("x/a.jpg", "images/x/a.jpg")],
        *[("x/a.jpg", "images/a.jpg"), ("a.jpg", "images/Train/a.jpg"), ("a", "images/a.PNG")],
        *[("x\\a.jpg", "x/a.jpg"), ("a&b.jpg", "images/a&b.jpg"), ("é.jpg", "pictures/é.jpg")],
    ],
)
def test_pictures_are_found_by_the_name_of_their_image(
    tmp_path: Path, written: str, there: str
) -> None:
    files = pictures("z/other.jpg") | {there: picture(shade=7)}
    files["annotations.xml"] = cvat(image(written, ANT, subset="Train"))
    (keys,) = made(tmp_path, files).values()
    assert keys == [there.rpartition(".")[0]]
    its = counted(tmp_path / "out")
    assert its.pop("content-other-than-name", 0) == (there.endswith("PNG"))
    assert its == {"in-no-list": 1}


def test_an_image_without_picture_is_an_error_or_skipped(tmp_path: Path) -> None:
    files = pictures("images/a.jpg")
    files["annotations.xml"] = cvat(image("a.jpg", ANT), image("b.jpg", ANT, id_=1))
    assert refusal(tmp_path, files) == (
        "/in/annotations.xml#1: is about 'b.jpg', and there is no such picture; put the picture "
        "beside the XML"
    )
    assert made(tmp_path, files, on_bad_record="skip") == {"train": ["images/a"]}


def test_xml_without_its_pictures_is_refused_with_the_way_out(tmp_path: Path) -> None:
    files = {"annotations.xml": cvat(image("a.jpg", ANT))}
    told = (
        "/in: holds CVAT's XML of 1 images and none of the pictures (such as annotations.xml#0); "
        "export with 'Save images', or put the pictures into 'images' beside the XML"
    )
    assert refusal(tmp_path, files) == told


def test_two_images_of_one_picture_are_an_error(tmp_path: Path) -> None:
    files = pictures("images/a.jpg")
    files["annotations.xml"] = cvat(image("a.jpg", ANT), image("a.jpg", BEE, id_=4))
    assert refusal(tmp_path, files) == (
        "/in/annotations.xml#4: is about the picture 'images/a.jpg', and so is "
        "'annotations.xml#0'; remove one of them"
    )


# What is refused and counted ----------------------------------------------------------------------


def test_tracks_of_a_video_are_refused_with_the_way_out(tmp_path: Path) -> None:
    files = pictures("images/a.jpg")
    files["annotations.xml"] = cvat(more=element("track", id=0, label="ant"))
    assert refusal(tmp_path, files) == (
        "/in/annotations.xml: holds tracks: it is 'CVAT for video 1.1'; export the task as 'CVAT "
        "for images 1.1', which has each frame by itself"
    )


def test_a_document_type_is_refused(tmp_path: Path) -> None:
    files = pictures("images/a.jpg")
    head = b'<!DOCTYPE annotations [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    files["annotations.xml"] = head + cvat(image("a.jpg", ANT)).partition(b"?>")[2]
    told = refusal(tmp_path, files)
    assert told.startswith("/in/annotations.xml: refused for safety: it has a DTD or entities")


def test_bad_shapes_and_shapes_without_area_are_counted(tmp_path: Path) -> None:
    files = pictures("images/a.jpg")
    shapes = [ANT, shape("points", "ant", points="1,2"), box("ant", (5, 2, 3, 4))]
    files["annotations.xml"] = cvat(image("a.jpg", *shapes))
    assert "xmin 5 lies right of xmax 3" in refusal(tmp_path, files)
    made(tmp_path, files, on_bad_record="skip")
    assert boxes(tmp_path / "out") == {"images/a": BOX}
    assert counted(tmp_path / "out") == {"bad-object-dropped": 1, "shape-without-area": 1}


def test_other_xml_is_counted_and_voc_beside_it_is_asked_about(tmp_path: Path) -> None:
    files = pictures("images/a.jpg") | {"annotations.xml": cvat(image("a.jpg", ANT))}
    assert made(tmp_path, files | {"mine.xml": b"<mine/>"}) == {"train": ["images/a"]}
    assert counted(tmp_path / "out") == {"xml-other": 1}
    told = refusal(tmp_path, files | pairs("a", pictures="images/", annotations="xml/"))
    assert "add --source-format cvat or --source-format voc" in told
