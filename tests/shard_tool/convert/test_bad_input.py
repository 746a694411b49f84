"""Unusable sources are refused; each message is compared in full."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from shard_tool.errors import DataError, ObjectMissing, ShardToolError, SourceError
from shard_tool.sources.voc.devkit import open_devkit
from tests.kit.datasets.converted import converted
from tests.kit.datasets.voc_tree import CAT, Picture, jpeg, mask, pictures, voc_tar, voc_tree, write

if TYPE_CHECKING:
    from pathlib import Path

BOX_HINT = "correct the file, or convert with --on-bad-record skip"
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
    devkit = open_devkit(str(archive))
    name = "JPEGImages/000002.jpg"
    span = devkit.find("JPEGImages", "000002")
    assert span
    offset, size = span.offset, span.size
    member = f"member 'VOCdevkit/VOC2012/{name}' needs {offset + size} bytes"
    end = max(int((f.offsets + f.sizes).max()) for f in devkit.files.folders.values())
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
    span = open_devkit(str(archive)).find("Annotations", "000003")
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
    assert "not a VOC devkit" in refusal(tmp_path / "voc.zip", tmp_path)


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


@pytest.mark.parametrize(
    ("folder", "seen"),
    [
        ("Annotations", "ImageSets/Main, JPEGImages"),
        ("ImageSets", "Annotations, JPEGImages"),
    ],
)
def test_source_without_a_folder_it_needs_is_refused(
    tree: Path, tmp_path: Path, folder: str, seen: str
) -> None:
    shutil.rmtree(tree / folder)
    problem = f"has no {folder} folder (found {seen})"
    assert refusal(tree, tmp_path) == f"{tree}: {problem}"
    assert refusal(tmp_path / "in", tmp_path) == f"{tree}: {problem}"
    archive = voc_tar(tmp_path / "voc.tar", tmp_path / "in")
    assert refusal(archive, tmp_path) == f"{archive}:VOCdevkit/VOC2012: {problem}"


def test_source_without_pictures_is_no_devkit(tree: Path, tmp_path: Path) -> None:
    hint = "give a VOC tar or the folder that holds VOC20xx"
    shutil.rmtree(tree / "JPEGImages")
    seen = "found Annotations, ImageSets/Main"
    problem = f"not a VOC devkit: no JPEGImages folder in it ({seen})"
    assert refusal(tmp_path / "in", tmp_path) == f"{tmp_path}/in: {problem}; {hint}"
    write(tmp_path / "else/readme.txt", b"")
    problem = "not a VOC devkit: no JPEGImages folder in it (found nothing)"
    assert refusal(tmp_path / "else", tmp_path) == f"{tmp_path}/else: {problem}; {hint}"


def test_several_devkits_in_one_source_are_refused(tree: Path, tmp_path: Path) -> None:
    voc_tree(tmp_path / "in", pictures(1), year="2007")
    problem = "holds several devkits (VOCdevkit/VOC2007, VOCdevkit/VOC2012); give one of them"
    assert refusal(tmp_path / "in", tmp_path) == f"{tmp_path}/in: {problem}"
    archive = voc_tar(tmp_path / "both.tar", tmp_path / "in")
    assert refusal(archive, tmp_path) == f"{archive}: {problem}"


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
        f"{tree}/ImageSets/Segmentation: no list of train, val, trainval, test names a picture"
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
    assert failure(source, tmp_path) == f"{prefix}/{place}: {reason}"


def test_broken_link_is_a_missing_file(tree: Path, tmp_path: Path) -> None:
    (tree / "JPEGImages/000002.jpg").unlink()
    (tree / "JPEGImages/000002.jpg").symlink_to(tmp_path / "gone.jpg")
    assert failure(tree, tmp_path).startswith(f"{tree}/JPEGImages/000002.jpg: is missing: ")


def test_file_that_went_away_or_shrank_since_the_scan_is_an_error(
    tree: Path, archive: Path
) -> None:
    in_folder, in_archive = open_devkit(str(tree)), open_devkit(str(archive))
    picture = in_folder.find("JPEGImages", "000001")
    packed = in_archive.find("JPEGImages", "000001")
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


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xd8\xff", png((20, 10)), jpeg((20, 10))[:100]],
    ids=["empty", "only a mark", "a PNG", "cut in its header"],
)
def test_picture_that_is_no_jpeg_is_refused(tree: Path, tmp_path: Path, content: bytes) -> None:
    only(tree, "000001")
    write(tree / "JPEGImages/000001.jpg", content)
    problem = f"not a JPEG picture ({len(content)} bytes)"
    assert failure(tree, tmp_path) == f"{tree}/JPEGImages/000001.jpg: {problem}"


def test_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", [Picture(key="000001", has_mask=True)])
    write(tree / "SegmentationObject/000001.png", mask((20, 11)))
    place = tree / "SegmentationObject/000001.png"
    problem = "is 20 x 11 px, its picture 20 x 10"
    assert failure(tree, tmp_path, task="segmentation") == f"{place}: {problem}"


@pytest.mark.parametrize("key", ["2008.000001", "..", "../000001", "a/b", "a\\b"])
def test_id_that_cannot_be_a_key_is_refused(tree: Path, tmp_path: Path, key: str) -> None:
    only(tree, key)
    problem = f"{key!r} cannot be a sample's key (no dots, slashes, blanks); rename the picture"
    assert failure(tree, tmp_path) == f"{tree}/JPEGImages/{key}.jpg: {problem}"


@pytest.mark.parametrize(
    ("objects", "problem"),
    [
        ((CAT, ("tiger", (1, 1, 2, 2))), "object 2: 'tiger' is not one of VOC's 20 classes"),
        ((("Cat", (1, 1, 2, 2)),), "object 1: 'Cat' is not one of VOC's 20 classes"),
        (
            (CAT, CAT, ("dog", (0, 1, 2, 2))),
            f"object 3 'dog': xmin 0 is below 1 (VOC counts pixels from 1); {BOX_HINT}",
        ),
        ((("dog", (9, 1, 3, 2)),), f"object 1 'dog': xmin 9 lies right of xmax 3; {BOX_HINT}"),
        ((("dog", (1, 1, 3, 11)),), f"object 1 'dog': ymax 11 is outside height 10; {BOX_HINT}"),
    ],
)
def test_object_that_breaks_a_rule_is_refused(tmp_path: Path, objects: Any, problem: str) -> None:
    tree = voc_tree(tmp_path / "in", [Picture(key="000001", objects=objects)])
    assert failure(tree, tmp_path) == f"{tree}/Annotations/000001.xml: {problem}"


def test_box_is_checked_against_the_size_of_the_jpeg_not_of_the_xml(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", [Picture(key="000001")])
    write(tree / "JPEGImages/000001.jpg", jpeg((19, 10)))
    assert "xmax 20 is outside width 19" in failure(tree, tmp_path)
    write(tree / "JPEGImages/000001.jpg", jpeg((40, 30)))
    converted(tree, tmp_path / "out2")


def test_mask_in_colours_is_refused(tmp_path: Path) -> None:
    """The values of such a mask are no classes."""
    tree = voc_tree(tmp_path / "in", [Picture(key="000001", has_mask=True)])
    colours = io.BytesIO()
    Image.new("RGB", (20, 10)).save(colours, "PNG")
    write(tree / "SegmentationClass/000001.png", colours.getvalue())
    with pytest.raises(DataError) as caught:
        converted(tree, tmp_path / "out", task="segmentation")
    place = f"{tree}/SegmentationClass/000001.png"
    assert str(caught.value) == f"{place}: a mask has mode 'P' or 'L', this is 'RGB'"


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
        open_devkit(str(tree))
    assert str(caught.value) == f"{tree}: cannot be read: Permission denied"
