"""An annotation whose picture is missing gets no other picture of the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.kit.datasets.coco_files import one_of_each, written
from tests.kit.datasets.converted import converted
from tests.kit.datasets.cvat_files import ANT, cvat, image
from tests.kit.datasets.labelme_files import ANT as SHAPE
from tests.kit.datasets.labelme_files import labelme
from tests.kit.datasets.wild import boxes, counted, folder, picture

if TYPE_CHECKING:
    from pathlib import Path


def made(source: Path, dest: Path, split: str = "train", **options: Any) -> set[str]:
    """Keys of what a source becomes without bad records."""
    converted(source, dest, on_bad_record="skip", **options)
    return set(boxes(dest, split))


def test_coco_takes_no_mask_of_the_name(tmp_path: Path) -> None:
    pictures = ("images/a.jpg", "masks/a.png", "masks/b.png")
    source = written(tmp_path / "in", {"annotations/train.json": one_of_each("a", "b")}, pictures)
    assert made(source, tmp_path / "out") == {"images/a"}
    assert counted(tmp_path / "out") == {"bad-record-skipped": 1, "picture-apart": 2}


def test_coco_tells_pictures_from_masks_in_folders_of_any_name(tmp_path: Path) -> None:
    pictures = ("rgb/a.jpg", "masks/a.png", "masks/b.png")
    source = written(tmp_path / "in", {"annotations/train.json": one_of_each("a", "b")}, pictures)
    assert made(source, tmp_path / "out") == {"rgb/a"}


def test_coco_takes_no_picture_that_another_file_lists(tmp_path: Path) -> None:
    files = {
        "annotations/train.json": one_of_each("0", "1"),
        "annotations/val.json": one_of_each("0", "2"),
    }
    pictures = [f"images/train/{n}.jpg" for n in "012"]
    source = written(tmp_path / "in", files, pictures)
    assert made(source, tmp_path / "val", "val", splits=("val",)) == {"images/train/2"}
    assert made(source, tmp_path / "both") == {"images/train/0", "images/train/1"}
    assert set(boxes(tmp_path / "both", "val")) == {"images/train/2"}


def test_cvat_takes_no_picture_of_another_folder(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "images/cam1/1.jpg": picture(shade=1),
        "images/cam2/2.jpg": picture(shade=2),
        "annotations.xml": cvat(image("cam1/1.jpg", ANT), image("cam1/2.jpg", ANT, id_=1)),
    }
    assert made(folder(tmp_path / "in", files), tmp_path / "out") == {"images/cam1/1"}
    assert counted(tmp_path / "out") == {"bad-record-skipped": 1, "in-no-list": 1}


def test_labelme_takes_no_picture_of_another_split(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "train/json/a.json": labelme("a.jpg", SHAPE),
        "train/json/b.json": labelme("b.jpg", SHAPE),
        "val/json/c.json": labelme("c.jpg", SHAPE),
        "train/photos/b.jpg": picture(shade=1),
        "val/photos/a.jpg": picture(shade=2),
        "val/photos/c.jpg": picture(shade=3),
    }
    assert made(folder(tmp_path / "in", files), tmp_path / "out") == {"train/photos/b"}
    assert set(boxes(tmp_path / "out", "val")) == {"val/photos/c"}
    assert counted(tmp_path / "out") == {"annotation-without-picture": 1, "unlabelled": 1}


def test_labelme_tells_pictures_from_masks(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "json/a.json": labelme("a.jpg", SHAPE),
        "json/b.json": labelme("b.jpg", SHAPE),
        "photos/a.jpg": picture(shade=1),
        "masks/a.png": picture(kind="PNG", shade=2),
        "masks/b.png": picture(kind="PNG", shade=3),
    }
    assert made(folder(tmp_path / "in", files), tmp_path / "out") == {"photos/a"}
    assert counted(tmp_path / "out") == {"annotation-without-picture": 1, "picture-apart": 2}


def test_labelme_finds_pictures_that_were_all_converted(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "json/a.json": labelme("a.bmp", SHAPE),
        "photos/a.jpg": picture(shade=1),
    }
    assert made(folder(tmp_path / "in", files), tmp_path / "out") == {"photos/a"}
