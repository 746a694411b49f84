"""Folders of classes become datasets for classification, and nothing else is taken for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.convert.look import look
from shard_tool.convert.options import ConvertOptions
from shard_tool.errors import DataError, OptionError
from shard_tool.sources.classes import ClassOptions
from tests.kit.datasets.archives import tar_with, zip_with
from tests.kit.datasets.class_folders import class_folders, pictures
from tests.kit.datasets.converted import converted, manifest_of, samples_of, shards_of
from tests.kit.datasets.labelme_files import pair
from tests.kit.datasets.wild import classes, counted, documents, folder, pairs

if TYPE_CHECKING:
    from pathlib import Path

Files = dict[str, bytes]
UNKNOWN = "holds pictures and neither VOC's XML nor masks, nor another format's"
OTHER = "is not imagefolder"


def made(tmp_path: Path, files: Files, **options: Any) -> dict[str, dict[str, str]]:
    """Split to key to the one class that each picture shows."""
    options = {"task": "classification"} | options
    converted(folder(tmp_path / "in", files), tmp_path / "out", **options)
    found = {}
    for split in manifest_of(tmp_path / "out")["splits"]:
        found[split] = {}
        for key, sample in documents(tmp_path / "out", split).items():
            assert sample["objects"] == []
            assert {*sample["image_labels"].values()} <= {1, -1}
            shown = [name for name, its in sample["image_labels"].items() if its == 1]
            found[split][key] = "+".join(shown)
    return found


def refusal(tmp_path: Path, files: Files, **options: Any) -> str:
    with pytest.raises((DataError, OptionError)) as caught:
        made(tmp_path, files, **options)
    assert not (tmp_path / "out").exists()
    return str(caught.value).replace(str(tmp_path), "")


# Layouts ------------------------------------------------------------------------------------------


def test_folders_of_classes_in_folders_of_splits(tmp_path: Path) -> None:
    names = ("Train/dog/a.jpg", "Train/cat/a.jpg", "valid/dog/b.jpg", "test/eel/x.y.png")
    files = pictures(*names)
    assert made(tmp_path, files) == {
        "train": {"Train/cat/a": "cat", "Train/dog/a": "dog"},
        "val": {"valid/dog/b": "dog"},
        "test": {"test/eel/x%2Ey": "eel"},
    }
    assert classes(tmp_path / "out") == {"cat": 1, "dog": 2, "eel": 3}
    (source,) = manifest_of(tmp_path / "out")["sources"]
    assert source["format"] == "imagefolder"
    assert source["class_ids"] == {"cat": 0, "dog": 1, "eel": 2}  # torchvision's ImageFolder
    split = manifest_of(tmp_path / "out")["splits"]["train"]
    assert (split["objects"], split["counts"]) == ({}, {"pictures": {"cat": 1, "dog": 1}})
    sample = documents(tmp_path / "out")["Train/dog/a"]
    assert sample["image_labels"] == {"cat": -1, "dog": 1, "eel": -1}
    assert (sample["width"], sample["height"], sample["file"]) == (20, 10, "Train/dog/a.jpg")
    assert samples_of(tmp_path / "out", "train")["Train/dog/a"]["jpg"] == files["Train/dog/a.jpg"]
    assert counted(tmp_path / "out") == {"content-other-than-name": 1, "name-encoded": 1}


@pytest.mark.parametrize(
    ("prefix", "split"), [("", "train"), ("x/y/", "train"), ("x/val/", "val"), ("Test/", "test")]
)
def test_classes_without_folders_of_splits_are_one_split(
    tmp_path: Path, prefix: str, split: str
) -> None:
    files = pictures(f"{prefix}cat/a.jpg", f"{prefix}dog/a.jpg")
    assert made(tmp_path, files) == {split: {f"{prefix}cat/a": "cat", f"{prefix}dog/a": "dog"}}


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    files = pictures("cat/a.jpg", "cat/tabby/images/a.jpg", "dog/big/old/b.jpg")
    assert made(tmp_path, files) == {
        "train": {"cat/a": "cat", "cat/tabby/images/a": "cat", "dog/big/old/b": "dog"}
    }


def test_a_class_may_be_called_train_where_nothing_lies_below_it(tmp_path: Path) -> None:
    files = pictures("bus/a.jpg", "train/b.jpg", "car/c.jpg")
    found = made(tmp_path, files)
    assert found == {"train": {"bus/a": "bus", "car/c": "car", "train/b": "train"}}


@pytest.mark.parametrize("pack", [tar_with, zip_with])
def test_an_archive_becomes_the_same_shards(tmp_path: Path, pack: Any) -> None:
    files = pictures("train/cat/a.jpg", "train/dog/a.jpg", "val/cat/b.jpg")
    made(tmp_path, files)
    path = tmp_path / ("x.zip" if pack is zip_with else "x.tar")
    path.write_bytes(pack(files))
    converted(path, tmp_path / "packed", task="classification")
    assert shards_of(tmp_path / "packed") == shards_of(tmp_path / "out")


def test_lists_name_the_pictures_of_splits(tmp_path: Path) -> None:
    files = pictures("train/cat/a.jpg", "train/dog/a.jpg", "more/cat/b.jpg", "train/dog/c.jpg")
    (tmp_path / "mine.txt").write_text("train/cat/a.jpg\nb.jpg\n")
    found = made(tmp_path, files, split_files={"mine": str(tmp_path / "mine.txt")})
    assert found == {"mine": {"train/cat/a": "cat", "more/cat/b": "cat"}}
    assert counted(tmp_path / "out")["in-no-list"] == 2


# What is counted, and what is asked ---------------------------------------------------------------


def test_pictures_in_no_class_and_hidden_files_are_counted(tmp_path: Path) -> None:
    files = pictures("train/cat/a.jpg", "train/dog/a.jpg", "train/x.jpg", "y.jpg", "test/z.jpg")
    files |= pictures("train/cat/.b.jpg", "train/dog/b.jpg", "train/dog/c.jpg", "train/dog/d.jpg")
    assert list(made(tmp_path, files)) == ["train"]
    assert counted(tmp_path / "out") == {"picture-apart": 3, "hidden": 1}


def test_a_folder_beside_those_of_splits_is_an_error(tmp_path: Path) -> None:
    files = pictures("train/cat/a.jpg", "train/dog/a.jpg", "more/cat/b.jpg")
    assert refusal(tmp_path, files) == (
        "/in: the folder 'more' lies beside folders of splits, and is none; give the folder of the "
        "splits alone, or name the pictures by --split-file"
    )


def test_two_pictures_of_one_name_are_an_error(tmp_path: Path) -> None:
    files = pictures("cat/a.jpg", "cat/a.png", "dog/a.jpg")
    assert "has the name of 'cat/a.jpg' but for the suffix" in refusal(tmp_path, files)


def test_names_of_classes_that_differ_by_case_are_asked_about(tmp_path: Path) -> None:
    files = pictures("train/cat/a.jpg", "train/dog/a.jpg", "val/Cat/b.jpg")
    told = refusal(tmp_path, files)
    assert "'Cat' (1) looks like 'cat'" in told or "'cat' (1) looks like 'Cat'" in told
    old, new = told.partition("--rename ")[2].split()[0].split("=")
    rename = ClassOptions(rename=((old, new),))
    found = made(tmp_path, files, classes=rename)
    assert found["train"]["train/cat/a"] == found["val"]["val/Cat/b"] == new
    assert classes(tmp_path / "out") == {new: 1, "dog": 2}


def test_the_user_may_choose_merge_and_drop_classes(tmp_path: Path) -> None:
    files = pictures("cat/a.jpg", "dog/a.jpg", "eel/a.jpg", "fox/a.jpg")
    only = ClassOptions(classes=("dog", "pet"), rename=(("cat", "pet"),))
    told = refusal(tmp_path, files, classes=only)
    assert "objects have names that --classes lacks: 'eel' (1); 'fox' (1)" in told
    drop = ClassOptions(classes=("dog", "pet"), rename=(("cat", "pet"),), other_classes="drop")
    found = made(tmp_path, files, classes=drop)
    assert found == {"train": {"cat/a": "pet", "dog/a": "dog", "eel/a": "", "fox/a": ""}}
    assert counted(tmp_path / "out") == {"other-class-dropped": 2, "renamed": 1}


@pytest.mark.parametrize("task", ["detection", "segmentation", "layout", "action"])
def test_another_task_is_refused_with_the_way_out(tmp_path: Path, task: str) -> None:
    files = pictures("cat/a.jpg", "dog/a.jpg")
    assert refusal(tmp_path, files, task=task) == (
        f"/in: has no annotations for {task}: found folders of classes; add --task classification"
    )


def test_a_look_counts_the_pictures_of_each_class(tmp_path: Path) -> None:
    class_folders(tmp_path / "in")
    options = ConvertOptions(
        source=str(tmp_path / "in"), dest=str(tmp_path / "out"), task="classification", workers=1
    )
    found = look(options)
    assert found.objects == {"train": {"cat": 8, "dog": 8}, "val": {"cat": 2, "dog": 2}}
    assert {code: its.count for code, its in found.report.codes.items()} == {"picture-apart": 1}


def test_one_picture_in_two_sources_under_two_classes_is_counted(tmp_path: Path) -> None:
    files = pictures("cat/a.jpg", "dog/b.jpg")
    swapped = {"dog/a.jpg": files["cat/a.jpg"], "cat/c.jpg": pictures("c")["c"]}
    for name, its in (("one", files), ("two", swapped)):
        folder(tmp_path / name, its)
    sources = [str(tmp_path / name) for name in ("one", "two")]
    options = ConvertOptions(
        source=sources, dest=str(tmp_path / "out"), task="classification", workers=1
    )
    found = look(options)
    assert found.report.codes["duplicate-objects-lost"].count == 1
    assert found.objects == {"train": {"cat": 2, "dog": 1}}


# What is no folder of classes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        pictures("a.jpg"),
        pictures("cat/a.jpg"),
        pictures("train/a.jpg", "val/b.jpg"),
        pictures("images/train/a.jpg", "images/val/b.jpg"),
        pictures("images/a.jpg", "masks/a.jpg"),
        pictures("train2017/a.jpg", "val2017/b.jpg"),
        pictures("cat/a.jpg", "dog/b.jpg", "c.jpg", "d.jpg"),
        pictures("cat/a.jpg", "dog/b.jpg") | {"x.json": b"{}"},
        pictures("cat/a.jpg", "dog/b.jpg") | {"data.yaml": b""},
        pictures("cat/a.jpg", "dog/b.jpg") | {"labels/a.txt": b"0 0.5 0.5 1 1\n"},
    ],
)
def test_other_folders_are_not_taken_for_classes(tmp_path: Path, files: Files) -> None:
    assert UNKNOWN in refusal(tmp_path, files)


def test_the_user_may_insist(tmp_path: Path) -> None:
    files = pictures("images/a.jpg", "b/a.jpg") | {"x.json": b"{}", "README.txt": b"a\n"}
    found = made(tmp_path, files, format="imagefolder")
    assert found == {"train": {"b/a": "b", "images/a": "images"}}


def test_pictures_in_one_folder_have_no_class_though_the_user_insists(tmp_path: Path) -> None:
    assert UNKNOWN in refusal(tmp_path, pictures("cat/a.jpg"), format="imagefolder")


def test_what_annotates_pictures_comes_before_their_folders(tmp_path: Path) -> None:
    files = pair("cat/a") | pair("dog/b", shade=3)
    converted(folder(tmp_path / "labelme", files), tmp_path / "out1")
    assert manifest_of(tmp_path / "out1")["sources"][0]["format"] == "labelme"
    voc = pairs("a", pictures="cat/", annotations="cat/") | pictures("dog/b.jpg")
    converted(folder(tmp_path / "voc", voc), tmp_path / "out2")
    assert manifest_of(tmp_path / "out2")["sources"][0]["format"] == "voc"
    told = refusal(tmp_path, pairs("a", pictures="cat/", annotations="xml/"), format="imagefolder")
    assert OTHER in told
