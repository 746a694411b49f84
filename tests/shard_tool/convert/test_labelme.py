"""labelme's files wherever people put them: which picture each is about, and what becomes of it."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.convert.rules import Choices
from shard_tool.errors import DataError, OptionError, SourceError
from tests.kit.datasets.archives import tar_with, zip_with
from tests.kit.datasets.converted import converted, manifest_of, samples_of, shards_of
from tests.kit.datasets.labelme_files import ANT, BEE, document, labelme, pair, shape
from tests.kit.datasets.wild import boxes, classes, counted, documents, folder, pairs, picture

if TYPE_CHECKING:
    from pathlib import Path

Files = dict[str, bytes]
BOX = [("ant", [2.0, 3.0, 10.0, 8.0])]
BOTH = [*BOX, ("bee", [0.0, 0.0, 20.0, 10.0])]


def made(tmp_path: Path, files: Files, **options: Any) -> dict[str, list[str]]:
    """Split to keys of what the files become."""
    converted(folder(tmp_path / "in", files), tmp_path / "out", **options)
    splits = manifest_of(tmp_path / "out")["splits"]
    return {split: list(documents(tmp_path / "out", split)) for split in splits}


def refusal(tmp_path: Path, files: Files, **options: Any) -> str:
    with pytest.raises((DataError, OptionError)) as caught:
        made(tmp_path, files, **options)
    return str(caught.value).replace(str(tmp_path), "")


# Where it lies ------------------------------------------------------------------------------------


def test_a_folder_becomes_samples_with_boxes_polygons_and_its_own_classes(tmp_path: Path) -> None:
    files = pair("a", BEE, ANT) | pair("b", shade=1)
    assert made(tmp_path, files) == {"train": ["a", "b"]}
    assert boxes(tmp_path / "out") == {"a": [BOTH[1], BOTH[0]], "b": BOX}
    assert classes(tmp_path / "out") == {"ant": 1, "bee": 2}
    sample = documents(tmp_path / "out")["a"]
    assert sample["objects"][0]["polygons"] == [[0.0, 0.0, 20.0, 0.0, 20.0, 10.0, 0.0, 10.0]]
    assert sample["file"] == "a.jpg"
    assert samples_of(tmp_path / "out", "train")["a"]["jpg"] == files["a.jpg"]
    assert counted(tmp_path / "out") == {}
    (source,) = manifest_of(tmp_path / "out")["sources"]
    assert (source["format"], source["num_files"]) == ("labelme", 4)


@pytest.mark.parametrize("pack", [tar_with, zip_with])
def test_an_archive_becomes_the_same_shards(tmp_path: Path, pack: Any) -> None:
    files = pair("train/a", BEE) | pair("val/b", ANT, shade=1)
    made(tmp_path, files)
    path = tmp_path / ("x.zip" if pack is zip_with else "x.tar")
    path.write_bytes(pack(files))
    converted(path, tmp_path / "packed")
    assert shards_of(tmp_path / "packed") == shards_of(tmp_path / "out")


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (("{}/", "{}/"), "{}/{}"),
        (("images/{}/", "labels/{}/"), "images/{}/{}"),
        (("{}/images/", "{}/json/"), "{}/images/{}"),
        (("images/", "labels/{}/"), "images/{1}"),
    ],
)
def test_folders_called_train_valid_and_test_are_the_splits(
    tmp_path: Path, layout: tuple[str, str], expected: str
) -> None:
    files: Files = {}
    for stem, name in zip("abc", ("train", "Valid", "test"), strict=True):
        image, annotation = (part.format(name) for part in layout)
        files[f"{image}{stem}.jpg"] = picture(shade=ord(stem))
        files[f"{annotation}{stem}.json"] = labelme(f"{stem}.jpg", ANT)
    assert made(tmp_path, files) == {
        "train": [expected.format("train", "a")],
        "val": [expected.format("Valid", "b")],
        "test": [expected.format("test", "c")],
    }


def test_equal_names_in_folders_of_splits_are_told_apart(tmp_path: Path) -> None:
    files: Files = {}
    for split, item in (("train", ANT), ("val", BEE)):
        files[f"images/{split}/a.jpg"] = picture(shade=len(split))
        files[f"labels/{split}/a.json"] = labelme("a.jpg", item)
    assert made(tmp_path, files) == {"train": ["images/train/a"], "val": ["images/val/a"]}
    assert boxes(tmp_path / "out") == {"images/train/a": BOX}
    assert boxes(tmp_path / "out", "val") == {"images/val/a": BOTH[1:]}


def test_pictures_outside_of_the_folders_of_splits_are_an_error(tmp_path: Path) -> None:
    files = pair("train/a") | pair("more/b", shade=1)
    assert refusal(tmp_path, files) == (
        "/in: the pictures in 'more' are in no folder of a split, and others are; name the "
        "pictures by --split-file train=LIST"
    )


def test_lists_name_the_pictures_of_splits(tmp_path: Path) -> None:
    files = pair("x/a") | pair("x/b", shade=1) | pair("x/c", shade=2)
    (tmp_path / "mine.txt").write_text("a.jpg\nx/b\nb\n")
    found = made(tmp_path, files, split_files={"mine": str(tmp_path / "mine.txt")})
    assert found == {"mine": ["x/a", "x/b"]}
    found_codes = counted(tmp_path / "out")
    assert found_codes == {"in-no-list": 1, "list-line-other": 2, "list-name-twice": 1}
    (tmp_path / "mine.txt").write_text("nothing\n")
    told = refusal(tmp_path, files, split_files={"mine": str(tmp_path / "mine.txt")})
    assert told.startswith("/in/nothing: is missing: there is no such file (a split list names")


# Which picture ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        *["..\\images\\a.jpg", "../images/a.jpg", "C:\\Users\\me\\images\\a.jpg", "a.jpg"],
        *["/home/me/images/a.jpg", "images/a.jpg", "a.png", "", None, "b%20c.jpg"],
    ],
)
def test_the_picture_is_found_by_whatever_path_is_written(tmp_path: Path, written: Any) -> None:
    files = {"images/a.jpg": picture(), "json/a.json": labelme(written, ANT)}
    files["other/z.jpg"] = picture(shade=9)
    assert made(tmp_path, files) == {"train": ["images/a"]}
    is_by_name = not written or "b%20" in written
    own = {"picture-by-own-name": 1} if is_by_name else {}
    assert counted(tmp_path / "out") == {"picture-apart": 1} | own


def test_a_path_to_a_picture_of_another_name_is_followed_and_counted(tmp_path: Path) -> None:
    files = {"a.json": labelme("b.jpg", ANT), "a.jpg": picture(), "b.jpg": picture(shade=1)}
    assert made(tmp_path, files) == {"train": ["b"]}
    assert counted(tmp_path / "out") == {"picture-by-path": 1, "unlabelled": 1}


def test_a_copied_file_with_the_path_of_the_first_is_about_the_picture_of_its_name(
    tmp_path: Path,
) -> None:
    files = pair("a", ANT) | pair("b", BEE, shade=1)
    files["b.json"] = labelme("a.jpg", BEE)
    assert made(tmp_path, files) == {"train": ["a", "b"]}
    assert boxes(tmp_path / "out") == {"a": BOX, "b": BOTH[1:]}
    assert counted(tmp_path / "out") == {"picture-by-own-name": 1}


def test_two_files_about_one_picture_are_an_error_unless_they_say_the_same(tmp_path: Path) -> None:
    files = pair("a", ANT) | {"copy/b.json": labelme("../a.jpg", BEE)}
    assert refusal(tmp_path, files) == (
        "/in/a.json: is about the picture 'a.jpg', and so is 'copy/b.json'; remove one of them, or "
        "correct its imagePath"
    )
    files = pair("a", ANT) | {"copy/a.json": labelme("a.jpg", ANT)}
    (tmp_path / "in/copy/b.json").unlink()
    assert made(tmp_path, files) == {"train": ["a"]}
    assert counted(tmp_path / "out") == {"annotation-twice": 1}


def test_pictures_without_annotation_are_counted_or_taken_as_background(tmp_path: Path) -> None:
    files = pair("a") | {"b.jpg": picture(shade=1)} | pair("c", shade=2)
    files["c.json"] = labelme("c.jpg")
    assert made(tmp_path, files) == {"train": ["a", "c"]}
    assert counted(tmp_path / "out") == {"background": 1, "unlabelled": 1}
    choices = Choices(unlabelled="background")
    assert made(tmp_path, files, choices=choices, on_existing="overwrite") == {
        "train": ["a", "b", "c"]
    }


def test_a_picture_that_is_in_its_file_alone_is_refused_with_the_way_out(tmp_path: Path) -> None:
    text = base64.b64encode(picture()).decode()
    files = pair("a") | {"b.json": labelme("b.jpg", ANT, imageData=text)}
    told = (
        "/in/b.json: its picture is in it alone (imageData), and no file beside it; write the "
        "picture out, such as by labelme_export_json, under the JSON's name"
    )
    assert refusal(tmp_path, files) == told
    assert made(tmp_path, files, on_bad_record="skip") == {"train": ["a"]}
    assert manifest_of(tmp_path / "out")["num_bad_records"] == 1


def test_a_file_without_any_picture_is_counted(tmp_path: Path) -> None:
    assert made(tmp_path, pair("a") | {"b.json": labelme("b.jpg", ANT)}) == {"train": ["a"]}
    assert counted(tmp_path / "out") == {"annotation-without-picture": 1}


def test_files_without_pictures_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        made(tmp_path, {"b.json": labelme("b.jpg", ANT)})
    assert "holds 1 labelme files and no picture of any (such as b.json)" in str(caught.value)


# What else lies there, and what is in the files ---------------------------------------------------


def test_the_picture_in_a_file_is_cut_out_before_it_is_parsed(tmp_path: Path) -> None:
    large = "A" * (6 << 20)  # more than an annotation may have
    assert made(tmp_path, pair("a", imageData=large)) == {"train": ["a"]}
    assert counted(tmp_path / "out") == {}


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "utf-16-le"])
def test_files_are_read_in_any_usual_encoding(tmp_path: Path, codec: str) -> None:
    text = json.dumps(document("图片.jpg", shape("狐狸", [(2, 3), (10, 8)])), ensure_ascii=False)
    files = {"图片.jpg": picture(), "图片.json": text.encode(codec)}
    assert made(tmp_path, files) == {"train": ["图片"]}
    assert classes(tmp_path / "out") == {"狐狸": 1}
    assert counted(tmp_path / "out") == ({"encoding-guessed": 1} if codec == "gb18030" else {})


def test_other_json_is_counted_and_broken_json_of_a_picture_is_an_error(tmp_path: Path) -> None:
    files = pair("a") | {"info.json": b'{"name": "mine"}', "list.json": b"[1, 2]"}
    files |= {"cut.json": b'{"shapes": [', "b.json": b"{}", "b.jpg": picture(shade=1)}
    assert made(tmp_path, files) == {"train": ["a"]}
    assert counted(tmp_path / "out") == {"json-other": 4, "unlabelled": 1}
    files["b.json"] = files["a.json"][:90]
    assert refusal(tmp_path, files).startswith("/in/b.json: not JSON: ")


def test_a_bad_shape_is_an_error_or_dropped(tmp_path: Path) -> None:
    files = pair("a", ANT, shape("bee", [(1, 2)]))
    told = "/in/a.json: object 2 'bee': is a rectangle of 1 points, expected 2 or 4"
    assert refusal(tmp_path, files) == told
    made(tmp_path, files, on_bad_record="skip")
    assert counted(tmp_path / "out") == {"bad-object-dropped": 1}


def test_a_declared_size_of_another_picture_is_an_error_or_scaled(tmp_path: Path) -> None:
    files = pair("a", ANT, size_wh=(40, 20))
    assert "says 40 x 20 px, its picture has 20 x 10" in refusal(tmp_path, files)
    made(tmp_path, files, choices=Choices(size_mismatch="scale"))
    assert boxes(tmp_path / "out") == {"a": [("ant", [1.0, 1.5, 5.0, 4.0])]}


def test_voc_beside_labelme_is_asked_about(tmp_path: Path) -> None:
    files = pair("a") | pairs("a", annotations="xml/")
    told = refusal(tmp_path, files)
    assert "holds labelme (JSON files with shapes) and voc" in told
    assert "add --source-format labelme or --source-format voc" in told
    assert made(tmp_path, files, format="labelme") == {"train": ["a"]}


@pytest.mark.parametrize("bbox", ["2 1 12 9", 7, ["2", "1", "10", "8"], [1, 2], [2, 1, 10, 8]])
def test_a_field_called_as_one_of_coco_is_kept_as_written_and_is_none_of_coco(
    tmp_path: Path, bbox: Any
) -> None:
    made(tmp_path, pair("a", shape("ant", [(2, 1), (12, 9)], bbox=bbox, score=0.5)))
    (item,) = documents(tmp_path / "out")["a"]["objects"]
    assert item["bbox"] == [2, 1, 12, 9]
    assert item["raw"] == {"labelme": {"score": 0.5, "bbox": bbox}}
