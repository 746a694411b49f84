"""Paths of other machines, and what lies here in their place."""

from __future__ import annotations

import pytest

from shard_tool.errors import SourceError
from shard_tool.sources.files.file_span import FileSpan
from shard_tool.sources.files.file_table import FileTableBuilder
from shard_tool.sources.yolo.places import Places


def places(*paths: str, where: str = "/mine/in") -> Places:
    builder = FileTableBuilder()
    for path in paths:
        builder.add(FileSpan(path, 0, 1))
    return Places(builder.table(), where, "in")


ROBOFLOW = ("train/images/a.jpg", "valid/images/a.jpg", "test/images/a.jpg")
COCO8 = ("images/train/a.jpg", "images/val/a.jpg")
NESTED = ("ds/train/images/a.jpg", "ds/valid/images/a.jpg")


@pytest.mark.parametrize(
    ("files", "written", "bases", "split", "found"),
    [
        # Where it says
        (COCO8, "images/train", ("",), "train", "images/train"),
        (COCO8, "./images/train/", ("",), "train", "images/train"),
        (COCO8, "images", ("",), "train", "images"),
        (COCO8, ".", ("",), "train", ""),
        (COCO8, "../images/val", ("cfg",), "val", "images/val"),
        (COCO8, "train", ("images", ""), "train", "images/train"),
        (COCO8, "images/train", ("cfg", ""), "train", "images/train"),
        (COCO8, "images\\train", ("",), "train", "images/train"),
        (COCO8, "/mine/in/images/val", ("",), "val", "images/val"),
        (NESTED, "ds/../ds/train/images", ("",), "train", "ds/train/images"),
        # Dead
        (ROBOFLOW, "../train/images", ("",), "train", "=train/images"),
        (ROBOFLOW, "../test/images", ("",), "test", "=test/images"),
        (ROBOFLOW, "/home/me/sharks/valid/images", ("",), "val", "=valid/images"),
        (ROBOFLOW, r"C:\me\sharks\valid\images", ("",), "val", "=valid/images"),
        (ROBOFLOW, r"D:train\images", ("",), "train", "=train/images"),
        (ROBOFLOW, "/home/me/Train/Images", ("",), "train", "=train/images"),
        (COCO8, "/x/coco8/images/val", ("",), "val", "=images/val"),
        (COCO8, "images/val", ("/x/coco8",), "val", "=images/val"),
        (COCO8, "images/val", ("../datasets/coco8",), "val", "=images/val"),
        (NESTED, "../train/images", ("ds",), "train", "=ds/train/images"),
        (NESTED, "/content/train/images", ("",), "train", "=ds/train/images"),
        (("pics/a.jpg",), "/x/pics", ("",), "train", "=pics"),
        (("train2017/a.jpg", "val2017/a.jpg"), "/c/images/val2017", ("",), "val", "=val2017"),
        # The whole of a path is better than its end
        (("train/images/a.jpg", "old/train/images/a.jpg"), "/x/train/images", ("",), "train",
         "=train/images"),
        (("ds/train.txt/a.jpg", "ds/all/train.txt/a.jpg"), "../train.txt", ("ds", ""), "train",
         "=ds/train.txt"),
        # Not another split's
        (("train/images/a.jpg",), "/x/val/images", ("",), "val", None),
        (("train/images/a.jpg",), "../valid/images", ("",), "val", None),
        (("images/a.jpg",), "/x/val/images", ("",), "val", None),
        (("train/images/a.jpg",), "/x/images", ("",), "val", None),
        (("train/images/a.jpg",), "/x/images", ("",), "train", "=train/images"),
        (("train2017/images/a.jpg",), "/x/images", ("",), "val", None),
        # Nothing
        (COCO8, "/x/pictures", ("",), "train", None),
        (COCO8, "/", ("",), "train", None),
        (COCO8, "../..", ("",), "train", None),
        ((), "images/train", ("",), "train", None),
        (("labels/train/a.txt",), "labels/train", ("",), "train", None),
    ],
)  # fmt: skip
def test_folder(
    files: tuple[str, ...], written: str, bases: tuple[str, ...], split: str, found: str | None
) -> None:
    its = places(*files).folder(written, bases, split)
    shown = None if its is None else f"{'=' if its.base is None else ''}{its.path}"
    assert shown == found


def test_which_base_a_path_is_seen_from() -> None:
    its = places(*COCO8)
    for bases, base in ((("", "x"), 0), (("x", ""), 1), (("/mine/in", ""), 0), (("/x", ""), 1)):
        assert its.folder("images/train", bases) == ("images/train", base)
    assert its.folder("/mine/in", ("x",)) == its.folder("/mine/in/", ("x",)) == ("", 0)
    assert its.folder("/mine", ("x",)) is None
    assert its.folder(".", ("/mine/in",)) == ("", 0)


def test_a_path_that_may_be_several_folders() -> None:
    its = places("a/images/train/x.jpg", "b/images/train/x.jpg", "c/train/x.jpg")
    with pytest.raises(SourceError) as caught:
        its.folder("/x/images/train", ("",), "train")
    told = (
        "in: '/x/images/train' may be any of 'a/images/train', 'b/images/train'; correct the path"
    )
    assert str(caught.value) == told
    many = places(*(f"{letter}/images/x.jpg" for letter in "abcdef"))
    with pytest.raises(SourceError, match="'c/images' and 3 more"):
        many.folder("/x/images", ("",), "train")


def test_the_path_of_an_archive_is_no_folder() -> None:
    its = places(*COCO8, where="").folder("/images/train", ("",), "train")
    assert its is not None
    assert its.base is None


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("train.txt", "lists/train.txt"),
        ("./train.txt", "lists/train.txt"),
        ("../obj.names", "obj.names"),
        ("data/train.txt", "=lists/train.txt"),
        ("/x/lists/Train.txt", None),
        ("/x/train.txt", "=lists/train.txt"),
        ("x/obj.names", "=obj.names"),
        ("other.txt", None),
        ("..", None),
    ],
)
def test_text_file(written: str, found: str | None) -> None:
    its = places("lists/train.txt", "obj.names", "images/train.jpg").text_file(
        written, ("lists",), kinds=("names", "list")
    )
    shown = None if its is None else f"{'=' if its.base is None else ''}{its.span.name}"
    assert shown == found
