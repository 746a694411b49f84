"""What names of files and folders tell about COCO data."""

from __future__ import annotations

import pytest

from shard_tool.sources.coco.splits import (
    has_instances_beside,
    is_absolute,
    names_in,
    says_other_split,
    split_of,
    usual_folders,
)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("annotations/instances_val2014.json", "val"),
        ("annotations/instances_minitrain2017.json", "train"),
        ("annotations/instances_valminusminival2014.json", "val"),
        ("instances_trainval35k.json", "trainval"),
        ("instances_train_val.json", "trainval"),
        ("image_info_test-dev2017.json", "test"),
        ("lvis_v1_train.json", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("TRAIN/_annotations.coco.json", "train"),
        ("Training-Set/x.json", "train"),
        ("train/annotations/val.json", "val"),
        ("train/annotations/x.json", "train"),
        ("annotations/instances_default.json", "train"),
        ("train_test.json", None),
        ("trainer/result.json", None),
        ("annotations.json", None),
        ("value.json", None),
        ("latest.json", None),
    ],
)
def test_splits_by_names(path: str, split: str | None) -> None:
    assert split_of(path) == split


@pytest.mark.parametrize(
    ("path", "split", "folders", "expected"),
    [
        ("annotations/instances_val2017.json", "val", ["train2017", "val2017"], ["val2017"]),
        ("a/i_val.json", "val", ["images/train", "images/val"], ["images/val"]),
        ("a/i_val.json", "val", ["val/images", "valid"], ["val/images", "valid"]),
        ("val/x.json", "val", ["train", "val"], ["val"]),
        ("val/x.json", "val", ["val/images", "train/images"], ["val/images"]),
        ("x.json", "train", ["", "images", "other"], ["", "images"]),
        ("d/x.json", "train", ["d/Images", "images"], ["d/Images", "images"]),
        ("d/e/train.json", "train", ["d/Train", "d/e"], ["d/e", "d/Train"]),
    ],
)
def test_usual_folders_of_pictures(
    path: str, split: str, folders: list[str], expected: list[str]
) -> None:
    found = usual_folders(path, split, folders)
    assert [folder for folder in found if folder in folders] == expected


def test_other_splits_of_folders() -> None:
    assert says_other_split("images/train", "val")
    assert not says_other_split("images/val", "val")
    assert not says_other_split("images", "val")
    assert not says_other_split("train2017", "trainval")
    assert says_other_split("train2017/extra", "val")


def test_files_beside_instances() -> None:
    others = {"a/instances_val2017.json", "instances_x.json"}
    assert has_instances_beside("a/person_keypoints_val2017.json", others)
    assert has_instances_beside("stuff_x.json", others)
    assert not has_instances_beside("captions_val2017.json", others)
    assert not has_instances_beside("a/captions_train2017.json", others)
    assert not has_instances_beside("a/my_val2017.json", others)


@pytest.mark.parametrize(
    ("written", "names", "absolute"),
    [
        ("a.jpg", ["a.jpg"], False),
        (".//x/./a.jpg", ["x", "a.jpg"], False),
        ("x\\a.jpg", ["x", "a.jpg"], False),
        ("../x/a.jpg", ["a.jpg"], False),
        ("/x/a.jpg", ["x", "a.jpg"], True),
        ("\\\\host\\x\\a.jpg", ["host", "x", "a.jpg"], True),
        ("D:/x/a.jpg", ["x", "a.jpg"], True),
        ("s3://x/a.jpg", ["s3:", "x", "a.jpg"], True),
        ("/", [], True),
    ],
)
def test_names_in_written_paths(written: str, names: list[str], absolute: bool) -> None:
    assert names_in(written) == names
    assert is_absolute(written) is absolute
