"""Unusable sources are refused; each message is compared in full."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from shard_tool.convert.rules import Choices
from shard_tool.errors import DataError, ObjectMissing, ShardToolError, SourceError
from tests.kit.datasets.annotations import BOX_HINT, NO_CLIP_HINT
from tests.kit.datasets.converted import converted, manifest_of, samples_of
from tests.kit.datasets.voc_sources import opened, span_of
from tests.kit.datasets.voc_tree import (
    CAT,
    DOG,
    Picture,
    jpeg,
    mask,
    pictures,
    voc_tar,
    voc_tree,
    write,
)

if TYPE_CHECKING:
    from pathlib import Path

FROM_1 = " (VOC counts pixels from 1)"
AGAIN = "download or copy the archive again"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return voc_tree(tmp_path / "in", [*pictures(3), *pictures(2, split="val", first=4)])


@pytest.fixture
def archive(tree: Path, tmp_path: Path) -> Path:
    return voc_tar(tmp_path / "voc.tar", tmp_path / "in")


def refusal(source: Path, tmp_path: Path, **options: Any) -> str:
    """The message of a conversion that must fail before it touches its destination."""
    with pytest.raises(ShardToolError) as caught:
        converted(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def failure(source: Path, tmp_path: Path, **options: Any) -> str:
    """The message of a conversion that must fail on a record and commit nothing."""
    with pytest.raises(DataError) as caught:
        converted(source, tmp_path / "out", **options)
    assert not (tmp_path / "out/manifest.json").exists()
    return str(caught.value)


# Archives -------------------------------------------------------------------------------------


def test_archive_cut_short_is_refused_wherever_the_cut_is(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    source = opened(archive)
    name = "JPEGImages/000002.jpg"
    span = span_of(source, name)
    assert span
    offset, size = span.offset, span.size
    member = f"member 'VOCdevkit/VOC2012/{name}' needs {offset + size} bytes"
    end = max(int((f.offsets + f.sizes).max()) for f in source.table.files.values())
    end += -end % 512
    messages = {
        0: "cut short: no end-of-archive marker in its 0 bytes",
        100: "cut short inside the header at byte 0 (100 bytes)",
        offset - 1: f"cut short inside the header at byte {offset - 512} ({offset - 1} bytes)",
        offset: f"cut short: {member}, there are {offset}",
        offset + size - 1: f"cut short: {member}, there are {offset + size - 1}",
        end: f"cut short: no end-of-archive marker in its {end} bytes",
        end + 511: f"cut short inside the header at byte {end} ({end + 511} bytes)",
    }
    for cut, problem in messages.items():
        archive.write_bytes(content[:cut])
        assert refusal(archive, tmp_path) == f"{archive}: {problem}; {AGAIN}"


def test_damaged_header_of_an_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    span = span_of(opened(archive), "Annotations/000003.xml")
    assert span
    offset = span.offset
    content = bytearray(archive.read_bytes())
    content[offset - 512] ^= 1
    archive.write_bytes(content)
    message = refusal(archive, tmp_path)
    assert message.startswith(f"{archive}: the header at byte {offset - 512} has checksum ")
    assert message.endswith(f"; {AGAIN}")


def test_zip_of_a_tar_is_no_devkit(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "voc.zip", "w") as file:
        file.write(archive, "voc.tar")
    hint = "give the folder or archive that holds the pictures and their annotations"
    problem = f"holds no pictures (found 1 .tar); {hint}"
    assert refusal(tmp_path / "voc.zip", tmp_path) == f"{tmp_path}/voc.zip: {problem}"


@pytest.mark.parametrize("name", ["PKU", "BZh9", "\x1f"])
def test_tar_whose_first_name_begins_like_a_compressed_file_is_a_tar(
    tree: Path, tmp_path: Path, name: str
) -> None:
    tree.parent.rename(tree.parent.with_name(name))
    converted(voc_tar(tmp_path / "voc.tar", tmp_path / "in"), tmp_path / "out")


def test_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "voc.tar"
    page.write_bytes(b"<html>Not found</html>" * 100)
    message = refusal(page, tmp_path)
    assert message == f"{page}: the header at byte 0 is not a tar header; {AGAIN}"


# What a devkit must have ----------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_source_without_annotations_is_refused(tree: Path, tmp_path: Path, packed: bool) -> None:
    shutil.rmtree(tree / "Annotations")
    problem = (
        "holds pictures and neither VOC's XML nor masks, nor another format's (found 5 pictures, 2 "
        ".txt files); give the folder above both, if the annotations lie beside this one (known: "
        "VOC's XML, masks, COCO, YOLO, labelme, CVAT for images, and folders of classes, "
        "which --source-format imagefolder takes whatever lies beside them)"
    )
    for source in (tree, tmp_path / "in"):
        shown = voc_tar(tmp_path / "voc.tar", source) if packed else source
        assert refusal(shown, tmp_path) == f"{shown}: {problem}"


@pytest.mark.parametrize("packed", [False, True])
def test_source_without_lists_is_one_split(tree: Path, tmp_path: Path, packed: bool) -> None:
    shutil.rmtree(tree / "ImageSets")
    source = voc_tar(tmp_path / "voc.tar", tmp_path / "in") if packed else tree
    converted(source, tmp_path / "out")
    assert [*manifest_of(tmp_path / "out")["splits"]] == ["train"]
    samples = samples_of(tmp_path / "out", "train")
    assert sorted(samples) == [f"{number:06d}" for number in range(1, 6)]
    assert refusal(source, tmp_path / "again", splits=("val",)) == (
        f"{source}: has no split 'val'; splits by folders: train"
    )


def test_source_without_pictures_is_refused_with_what_it_holds(tree: Path, tmp_path: Path) -> None:
    hint = "give the folder or archive that holds the pictures and their annotations"
    shutil.rmtree(tree / "JPEGImages")
    problem = "holds no pictures (found 5 XML files, 2 .txt files)"
    assert refusal(tmp_path / "in", tmp_path) == f"{tmp_path}/in: {problem}; {hint}"
    write(tmp_path / "else/readme.md", b"")
    problem = "holds no pictures (found 1 .md)"
    assert refusal(tmp_path / "else", tmp_path) == f"{tmp_path}/else: {problem}; {hint}"
    (tmp_path / "nothing").mkdir()
    problem = "holds no pictures (found nothing)"
    assert refusal(tmp_path / "nothing", tmp_path) == f"{tmp_path}/nothing: {problem}; {hint}"


@pytest.mark.parametrize("packed", [False, True])
def test_several_devkits_in_one_source_are_several_sources(
    tree: Path, tmp_path: Path, packed: bool
) -> None:
    """As if each were given alone: 2007 before 2012, and a picture of both once."""
    voc_tree(tmp_path / "in", pictures(1), year="2007")
    source = voc_tar(tmp_path / "both.tar", tmp_path / "in") if packed else tmp_path / "in"
    converted(source, tmp_path / "out")
    manifest = manifest_of(tmp_path / "out")
    assert manifest["name"] == "voc07+12"
    assert [of["year"] for of in manifest["sources"]] == ["2007", "2012"]
    same = {"key": "000001", "split": "train", "source": 0}
    assert manifest["duplicates"] == [{**same, "source": 1, "same_as": same}]
    counts = {name: split["num_samples"] for name, split in manifest["splits"].items()}
    assert counts == {"train": 3, "val": 2}
    found = samples_of(tmp_path / "out", "train")
    assert b'"source":{"year":"2007","archive":0}' in found["000001"]["json"]
    assert b'"source":{"year":"2012","archive":1}' in found["000002"]["json"]


def test_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing) as caught:
        converted(tmp_path / "voc.tar", tmp_path / "out")
    assert str(caught.value) == f"{tmp_path}/voc.tar: there is no such archive or folder"


# Lists ----------------------------------------------------------------------------------------


def test_missing_split_list_is_named_with_those_there_are(tree: Path, tmp_path: Path) -> None:
    write(tree / "ImageSets/Main/trainval.txt", b"\n")
    there = "lists with pictures in them: train, val"
    assert refusal(tree, tmp_path, splits=("test",)) == (
        f"{tree}/ImageSets/Main/test.txt: there is no such split list; {there}"
    )
    assert refusal(tree, tmp_path, splits=("trainval",)) == (
        f"{tree}/ImageSets/Main/trainval.txt: the split list is empty; {there}"
    )


def test_task_without_any_list_is_refused(tree: Path, tmp_path: Path) -> None:
    assert refusal(tree, tmp_path, task="segmentation") == (
        f"{tree}/ImageSets/Segmentation: no list of train, val, trainval, test names a picture; "
        "name the pictures by --split-file train=LIST"
    )
    assert refusal(tree, tmp_path, task="segmentation", splits=("train",)) == (
        f"{tree}/ImageSets/Segmentation/train.txt: there is no such split list; "
        "lists with pictures in them: none"
    )


# Records --------------------------------------------------------------------------------------


def only(tree: Path, key: str) -> None:
    """Make 'train' a list of one picture, so that it is the one to fail."""
    write(tree / "ImageSets/Main/train.txt", f"{key}\n".encode())


@pytest.mark.parametrize(
    ("removed", "place", "problem"),
    [
        (["Annotations"], "Annotations/000002.xml", "a picture without its annotation"),
        (["JPEGImages"], "JPEGImages/000002.jpg", "an annotation without its picture"),
        (["JPEGImages", "Annotations"], "JPEGImages/000002.jpg", "there is no such file"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_listed_picture_without_all_its_files_is_named(
    tree: Path, tmp_path: Path, removed: list[str], place: str, problem: str, packed: bool
) -> None:
    for folder in removed:
        next((tree / folder).glob("000002.*")).unlink()
    source = voc_tar(tmp_path / "voc.tar", tmp_path / "in") if packed else tree
    prefix = f"{source}:VOCdevkit/VOC2012" if packed else f"{tree}"
    reason = f"is missing: {problem} (Main/train names '000002')"
    ways = "leave it out by --unlabelled drop, or take it by --unlabelled background"
    hint = f"; {ways}" if removed == ["Annotations"] else ""
    assert failure(source, tmp_path) == f"{prefix}/{place}: {reason}{hint}"


def test_broken_link_is_a_missing_file(tree: Path, tmp_path: Path) -> None:
    (tree / "JPEGImages/000002.jpg").unlink()
    (tree / "JPEGImages/000002.jpg").symlink_to(tmp_path / "gone.jpg")
    assert failure(tree, tmp_path).startswith(f"{tree}/JPEGImages/000002.jpg: is missing: ")


def test_file_that_went_away_or_shrank_since_the_scan_is_an_error(
    tree: Path, archive: Path
) -> None:
    in_folder, in_archive = opened(tree), opened(archive)
    picture = span_of(in_folder, "JPEGImages/000001.jpg")
    packed = span_of(in_archive, "JPEGImages/000001.jpg")
    assert picture
    assert packed
    archive.write_bytes(archive.read_bytes()[: packed.offset + 5])
    with pytest.raises(SourceError) as caught:
        in_archive.read(packed)
    problem = (
        "was changed or replaced since it was scanned; convert from a source that does not change"
    )
    assert str(caught.value) == f"{archive}: {problem}"
    (tree / "JPEGImages/000001.jpg").unlink()
    with pytest.raises(SourceError, match=r"000001\.jpg: cannot be read: No such file"):
        in_folder.read(picture)


def png(size_wh: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size_wh).save(buffer, "PNG")
    return buffer.getvalue()


KNOWN = "; known: JPEG, PNG, WebP, BMP, TIFF, GIF"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", f"not a picture of a known format (0 bytes){KNOWN}"),
        (b"\xff\xd8\xff", f"not a picture of a known format (3 bytes){KNOWN}"),
        (jpeg((20, 10))[:100], "not a picture (100 bytes): Truncated File Read"),
        (png((20, 10))[:20], "is cut short: a PNG of 20 bytes without its end"),
    ],
    ids=["empty", "only a mark", "cut in its header", "a PNG cut in its header"],
)
def test_file_that_is_no_picture_is_refused(
    tree: Path, tmp_path: Path, content: bytes, problem: str
) -> None:
    only(tree, "000001")
    write(tree / "JPEGImages/000001.jpg", content)
    assert failure(tree, tmp_path) == f"{tree}/JPEGImages/000001.jpg: {problem}"


def test_picture_is_named_by_its_content(tree: Path, tmp_path: Path) -> None:
    only(tree, "000001")
    write(tree / "JPEGImages/000001.jpg", png((20, 10)))
    converted(tree, tmp_path / "out")
    sample = samples_of(tmp_path / "out", "train")["000001"]
    assert sample["png"] == png((20, 10))
    assert "jpg" not in sample
    assert manifest_of(tmp_path / "out")["report"]["content-other-than-name"] == {
        "count": 1,
        "examples": ["JPEGImages/000001.jpg: PNG"],
    }


def test_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", [Picture(key="000001", has_mask=True)])
    write(tree / "SegmentationObject/000001.png", mask((20, 11)))
    place = tree / "SegmentationObject/000001.png"
    problem = "is 20 x 11 px, its picture 20 x 10"
    assert failure(tree, tmp_path, task="segmentation") == f"{place}: {problem}"


@pytest.mark.parametrize(
    ("objects", "problem"),
    [
        (
            (CAT, ("dog", (9, 1, 3, 2))),
            f"object 2 'dog': xmin 9 lies right of xmax 3{NO_CLIP_HINT}",
        ),
        ((("dog", (-1, 1, 3, 2)),), f"object 1 'dog': xmin -1 is below 1{FROM_1}{BOX_HINT}"),
        ((("dog", (1, 1, 3, 12)),), f"object 1 'dog': ymax 12 is outside height 10{BOX_HINT}"),
    ],
)
def test_object_that_breaks_a_rule_is_refused(tmp_path: Path, objects: Any, problem: str) -> None:
    tree = voc_tree(tmp_path / "in", [Picture(key="000001", objects=objects)])
    message = failure(tree, tmp_path, choices=Choices(boxes="devkit"))
    assert message == f"{tree}/Annotations/000001.xml: {problem}"


@pytest.mark.parametrize(
    ("objects", "problem"),
    [
        (
            (CAT, CAT, DOG, ("tiger", (1, 1, 2, 2))),
            "'tiger' (1) is none of VOC's classes, which the others are [all names: 'cat' (2), "
            "'dog' (1), 'tiger' (1)]; add --other-classes drop to leave them out, or add --classes "
            "cat,dog,tiger to take all names as they are",
        ),
        (
            (("Cat", (1, 1, 2, 2)),),
            "'Cat' (1) looks like 'cat' [all names: 'Cat' (1)]; add --rename Cat=cat to merge "
            "them, or add --classes Cat to take all names as they are",
        ),
        (
            (CAT, CAT, ("dog", (0, 1, 2, 2))),
            "1 of 3 boxes have a 0 or less for xmin or ymin (such as Annotations/000001.xml: dog "
            "(0.0, 1.0, 2.0, 2.0)), and VOC's devkit counts pixels from 1; add --boxes corners if "
            "the numbers count from zero, as labelImg, CVAT and Roboflow write them; or --boxes "
            "devkit if these boxes are mistakes, to be clipped",
        ),
    ],
)
def test_annotations_that_leave_a_choice_are_a_question_before_anything_is_written(
    tmp_path: Path, objects: Any, problem: str
) -> None:
    """Also where bad records are skipped: a wrong guess would go unseen."""
    tree = voc_tree(tmp_path / "in", [Picture(key="000001", objects=objects)])
    for on_bad_record in ("fail", "skip"):
        message = refusal(tree, tmp_path, on_bad_record=on_bad_record)
        assert message == f"{tree}: {problem}"


def test_picture_of_another_size_than_its_annotation_says_is_refused(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", [Picture(key="000001")])
    place, ignored = tree / "Annotations/000001.xml", Choices(size_mismatch="ignore")
    write(tree / "JPEGImages/000001.jpg", jpeg((18, 9)))
    assert failure(tree, tmp_path) == (
        f"{place}: says 20 x 10 px, its picture has 18 x 9; add --size-mismatch scale (boxes are "
        "of the declared size) or ignore (of the picture)"
    )
    write(tree / "JPEGImages/000001.jpg", jpeg((18, 10)))
    problem = "object 2 'dog': xmax 20 is outside width 18"  # the picture's, not the declared one
    assert failure(tree, tmp_path, choices=ignored) == f"{place}: {problem}{BOX_HINT}"
    write(tree / "JPEGImages/000001.jpg", jpeg((40, 30)))
    assert failure(tree, tmp_path) == (
        f"{place}: says 20 x 10 px, its picture has 40 x 30; add --size-mismatch ignore (boxes are "
        "of the picture's size)"
    )
    converted(tree, tmp_path / "out2", choices=ignored)


def test_mask_in_colours_of_no_class_is_refused(tmp_path: Path) -> None:
    """A class that nobody knows is no class."""
    tree = voc_tree(tmp_path / "in", [Picture(key="000001", has_mask=True)])
    colours = io.BytesIO()
    Image.new("RGB", (20, 10), (1, 2, 3)).save(colours, "PNG")
    write(tree / "SegmentationClass/000001.png", colours.getvalue())
    assert failure(tree, tmp_path, task="segmentation") == (
        f"{tree}/SegmentationClass/000001.png: holds colours of no class: (1, 2, 3); put a "
        "labelmap.txt (lines name:red,green,blue::) beside the folder of masks; or, where values "
        "count the classes from 1, give these by --classes"
    )


def test_list_of_a_class_is_no_split(tmp_path: Path, mini_archive: Path) -> None:
    """It names every picture of its split; the labels beside them say which show the class."""
    with pytest.raises(SourceError) as caught:
        converted(mini_archive, tmp_path / "out", splits=("cat_train",))
    assert str(caught.value) == (
        f"{mini_archive}:VOCdevkit/VOC2012/ImageSets/Main/cat_train.txt: is a list of a class, "
        "with labels: its pictures are those of its split; name a list of ids, such as train"
    )


def test_source_without_permission_to_read_is_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is injected, since root may read everything."""

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError) as caught:
        opened(tree)
    assert str(caught.value) == f"{tree}: cannot be read: Permission denied"
