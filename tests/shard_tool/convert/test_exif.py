"""Pictures that EXIF turns: boxes stay on what they were drawn around, whatever the tool did."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from shard_tool import ConvertOptions
from shard_tool.convert.look import look
from shard_tool.convert.rules import Choices
from shard_tool.errors import DataError
from tests.kit.datasets.converted import converted, samples_of
from tests.kit.datasets.tars import info
from tests.kit.datasets.wild import Size, boxes, counted, documents, folder, xml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG", "WEBP")
EXTENSION = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
HALF_TURNS, QUARTER_TURNS = (2, 3, 4), (5, 6, 7, 8)
UPRIGHT: Size = (48, 32)
BOX = (8, 16, 24, 32)
"""Where the upright picture has its only red thing."""
THING = [("ant", [8.0, 16.0, 24.0, 32.0])]


def upright(size_wh: Size = UPRIGHT) -> NDArray[np.uint8]:
    """A grey slope with a red thing."""
    width, height = size_wh
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels += np.linspace(60, 180, width).astype(np.uint8)[None, :, None]
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (250, 0, 0)
    return pixels


def turned_by(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """What a viewer shows of stored pixels: EXIF 2.32, 4.6.4 A, row and column of each corner."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.ascontiguousarray(np.flip(pixels, flips.get(orientation, ())))


def stored(orientation: int, size_wh: Size = UPRIGHT) -> NDArray[np.uint8]:
    """The pixels that a viewer turns into the upright picture."""
    back = {6: 8, 8: 6}.get(orientation, orientation)
    found = turned_by(upright(size_wh), back)
    assert np.array_equal(turned_by(found, orientation), upright(size_wh))
    return found


def block(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def photo(kind: str, orientation: int, size_wh: Size = UPRIGHT, **options: Any) -> bytes:
    """A file of stored pixels with an orientation."""
    options |= {"quality": 95, "subsampling": 0} if kind in ("JPEG", "MPO") else {"lossless": True}
    buffer = io.BytesIO()
    image = Image.fromarray(stored(orientation, size_wh))
    if kind == "TIFF":
        image.save(buffer, kind, tiffinfo={0x0112: orientation}, **options)
    else:
        image.save(buffer, kind, exif=block(orientation), **options)
    return buffer.getvalue()


def red_box(pixels: NDArray[np.uint8]) -> list[int]:
    """(x0, y0, x1, y1) around what is red."""
    values = pixels.astype(int)
    rows, columns = np.nonzero((values[..., 0] > 200) & (values[..., 1] < 60))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def decoded(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def annotated(
    tmp_path: Path,
    content: bytes,
    declared: Size | None,
    box: Any = BOX,
    name: str = "ant",
    **more: Any,
) -> Path:
    file = "a.png" if content.startswith(b"\x89PNG") else "a.jpg"
    return folder(tmp_path / "in", {file: content, "a.xml": xml(declared, (name, box), **more)})


def sample(dest: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    return documents(dest)["a"], samples_of(dest, "train")["a"]


def sides(pixels: NDArray[np.uint8]) -> Size:
    return pixels.shape[1], pixels.shape[0]


# What the declared size tells ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", QUARTER_TURNS)
@pytest.mark.parametrize("exif", ["auto", "upright"])
def test_boxes_of_the_upright_picture_stay_on_it_and_the_bytes_stay_untouched(
    tmp_path: Path, kind: str, orientation: int, exif: Any
) -> None:
    content = photo(kind, orientation)
    converted(annotated(tmp_path, content, UPRIGHT), tmp_path / "out", choices=Choices(exif=exif))
    document, members = sample(tmp_path / "out")
    assert members[EXTENSION[kind]] == content
    assert (document["width"], document["height"]) == UPRIGHT
    assert document["orientation"] == orientation
    assert boxes(tmp_path / "out")["a"] == THING
    shown = turned_by(decoded(content), document["orientation"])
    assert red_box(shown) == [*BOX]
    with Image.open(io.BytesIO(content)) as picture:  # as Pillow and every viewer turns it
        assert np.array_equal(shown, np.asarray(ImageOps.exif_transpose(picture).convert("RGB")))
    assert counted(tmp_path / "out")["exif-upright"] == 1


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", QUARTER_TURNS)
@pytest.mark.parametrize("exif", ["auto", "stored", "bake"])
def test_boxes_of_the_stored_picture_stay_on_it_and_it_is_never_turned(
    tmp_path: Path, kind: str, orientation: int, exif: Any
) -> None:
    """The tool that drew them ignored EXIF, so must every reader; --exif bake turns nothing."""
    content, pixels = photo(kind, orientation), stored(orientation)
    box = red_box(pixels)
    source = annotated(tmp_path, content, sides(pixels), box)
    converted(source, tmp_path / "out", choices=Choices(exif=exif))
    document, members = sample(tmp_path / "out")
    assert members[EXTENSION[kind]] == content
    assert (document["width"], document["height"]) == sides(pixels)
    assert "orientation" not in document
    assert boxes(tmp_path / "out")["a"] == [("ant", box)]
    assert red_box(decoded(content)) == box
    assert counted(tmp_path / "out")["exif-ignored"] == 1


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("orientation", "size_wh", "declared"),
    [
        *[(orientation, UPRIGHT, UPRIGHT) for orientation in HALF_TURNS],
        *[(orientation, (48, 48), (48, 48)) for orientation in (2, 6)],
        *[(orientation, UPRIGHT, None) for orientation in (3, 8)],
        (5, UPRIGHT, (40, 40)),
    ],
)
def test_where_nothing_tells_the_user_is_asked_and_either_answer_is_taken(
    tmp_path: Path, kind: str, orientation: int, size_wh: Size, declared: Size | None
) -> None:
    source = annotated(tmp_path, photo(kind, orientation, size_wh), declared)
    with pytest.raises(DataError) as caught:
        converted(source, tmp_path / "out")
    problem = f"has EXIF orientation {orientation}, and nothing tells whether its annotation is"
    place = str(source / ("a.png" if kind == "PNG" else "a.jpg"))
    assert str(caught.value) == (
        f"{place}: {problem} about the picture as stored or as turned; say it by --exif upright or "
        "--exif stored"
    )
    for exif, written in (("upright", orientation), ("stored", None)):
        choices: Any = {"exif": exif, "size_mismatch": "ignore"}
        converted(source, tmp_path / exif, choices=Choices(**choices))
        document, _ = sample(tmp_path / exif)
        turned = exif == "upright" or orientation < 5
        assert (document["width"], document["height"]) == (size_wh if turned else size_wh[::-1])
        assert document.get("orientation") == written
        assert boxes(tmp_path / exif)["a"] == THING


@pytest.mark.parametrize("kind", FORMATS)
def test_orientation_1_and_damaged_blocks_are_as_none(tmp_path: Path, kind: str) -> None:
    for number, exif in enumerate([block(1), b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", block(9), b""]):
        buffer = io.BytesIO()
        image = Image.fromarray(upright())
        image.save(buffer, kind, exif=exif)
        source = annotated(tmp_path / str(number), buffer.getvalue(), UPRIGHT)
        converted(source, tmp_path / f"out{number}")
        document, _ = sample(tmp_path / f"out{number}")
        assert (document["width"], document["height"]) == UPRIGHT
        assert "orientation" not in document
        assert not {code for code in counted(tmp_path / f"out{number}") if "exif" in code}


def test_orientation_that_only_xmp_says_is_not_followed_in_any_format(tmp_path: Path) -> None:
    """Browsers, OpenCV and annotation tools follow EXIF alone."""
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    empty = Image.Exif()
    empty[0x010E] = "a description"
    for number, kind in enumerate(("JPEG", "PNG", "WEBP", "JPEG")):
        buffer = io.BytesIO()
        exif = {"exif": empty.tobytes()} if number else {}
        Image.fromarray(upright()).save(buffer, kind, xmp=packet, **exif)
        source = annotated(tmp_path / str(number), buffer.getvalue(), None)
        converted(source, tmp_path / f"out{number}")
        assert "orientation" not in documents(tmp_path / f"out{number}")["a"]


def test_official_pictures_are_never_turned(tmp_path: Path) -> None:
    """The devkit's reader ignored EXIF, and VOC's boxes are of the stored pixels."""
    content = photo("JPEG", 3)
    for exif in ("auto", "bake"):
        voc = {"name": "cat", "database": "The VOC2007 Database"}
        source = annotated(tmp_path, content, UPRIGHT, **voc)
        choices: Any = {"exif": exif}
        converted(source, tmp_path / exif, choices=Choices(**choices))
        document, members = sample(tmp_path / exif)
        assert members["jpg"] == content
        assert "orientation" not in document


def test_a_database_tag_that_others_copied_tells_nothing(tmp_path: Path) -> None:
    tag = {"database": "The VOC2007 Database"}
    converted(annotated(tmp_path, photo("JPEG", 6), UPRIGHT, **tag), tmp_path / "out")
    assert sample(tmp_path / "out")[0]["orientation"] == 6
    source = annotated(tmp_path / "half", photo("JPEG", 3), UPRIGHT, **tag)
    with pytest.raises(DataError, match="--exif upright or --exif stored"):
        converted(source, tmp_path / "half/out")


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("declared", [UPRIGHT, None])
def test_picture_without_objects_is_taken_upright_without_a_question(
    tmp_path: Path, orientation: int, declared: Size | None
) -> None:
    content = photo("JPEG", orientation)
    folder(tmp_path / "in", {"a.jpg": content, "a.xml": xml(declared)})
    converted(tmp_path / "in", tmp_path / "out", choices=Choices(unlabelled="background"))
    document, _ = sample(tmp_path / "out")
    assert (document["width"], document["height"]) == UPRIGHT
    assert document["orientation"] == orientation


# Bake ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(2, 9))
def test_baked_pictures_are_upright_without_exif(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    """As ImageOps.exif_transpose turns them; JPEG within the error of one more encoding."""
    content = photo(kind, orientation)
    source = annotated(tmp_path, content, UPRIGHT)
    converted(source, tmp_path / "out", choices=Choices(exif="bake"))
    document, members = sample(tmp_path / "out")
    made = members[EXTENSION[kind]]
    with Image.open(io.BytesIO(content)) as before, Image.open(io.BytesIO(made)) as after:
        expected = np.asarray(ImageOps.exif_transpose(before).convert("RGB")).astype(int)
        assert 0x0112 not in after.getexif()
        assert (after.format, after.size) == (kind, UPRIGHT)
    difference = np.abs(decoded(made).astype(int) - expected)
    assert difference.max() <= (6 if kind == "JPEG" else 0)
    assert (document["width"], document["height"]) == UPRIGHT
    assert "orientation" not in document
    assert boxes(tmp_path / "out")["a"] == THING
    assert counted(tmp_path / "out")["exif-baked"] == 1


def test_baking_leaves_pictures_without_orientation_alone(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(upright()).save(buffer, "JPEG")
    source = annotated(tmp_path, buffer.getvalue(), UPRIGHT)
    converted(source, tmp_path / "out", choices=Choices(exif="bake"))
    assert sample(tmp_path / "out")[1]["jpg"] == buffer.getvalue()
    assert not counted(tmp_path / "out")


def test_scaled_pictures_are_upright_and_need_no_orientation(tmp_path: Path) -> None:
    source = annotated(tmp_path, photo("JPEG", 6), UPRIGHT)
    converted(source, tmp_path / "out", resize=24)
    document, members = sample(tmp_path / "out")
    assert (document["width"], document["height"]) == (24, 16) == sides(decoded(members["jpg"]))
    assert "orientation" not in document
    assert boxes(tmp_path / "out")["a"] == [("ant", [4.0, 8.0, 12.0, 16.0])]
    assert counted(tmp_path / "out") == {"exif-baked": 1}
    with Image.open(io.BytesIO(members["jpg"])) as picture:
        assert picture.getexif().get(0x0112, 1) == 1


# Other files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("exif", ["auto", "bake"])
def test_phones_files_of_several_pictures_are_jpegs(tmp_path: Path, exif: Any) -> None:
    """MPO: a JPEG, and another one (for depth or the screen) after its end."""
    other = Image.new("RGB", (8, 8))
    content = photo("MPO", 6, save_all=True, append_images=[other])
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "MPO"
    source = annotated(tmp_path, content, UPRIGHT)
    converted(source, tmp_path / "out", choices=Choices(exif=exif))
    document, members = sample(tmp_path / "out")
    assert (document["width"], document["height"]) == UPRIGHT
    assert boxes(tmp_path / "out")["a"] == THING
    if exif == "auto":
        assert members["jpg"] == content
        assert document["orientation"] == 6
    else:
        assert red_box(decoded(members["jpg"])) == [*BOX]
    assert "content-other-than-name" not in counted(tmp_path / "out")


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("exif", ["upright", "stored"])
def test_tiffs_with_orientation_become_upright_or_stored_pngs(
    tmp_path: Path, orientation: int, exif: Any
) -> None:
    pixels = upright() if exif == "upright" else stored(orientation)
    source = annotated(tmp_path, photo("TIFF", orientation), sides(pixels), red_box(pixels))
    converted(source, tmp_path / "out", choices=Choices(exif=exif))
    document, members = sample(tmp_path / "out")
    assert np.array_equal(decoded(members["png"]), pixels)
    assert (document["width"], document["height"]) == sides(pixels)
    assert "orientation" not in document
    if orientation >= 5:
        converted(source, tmp_path / "auto")
        assert samples_of(tmp_path / "auto", "train") == samples_of(tmp_path / "out", "train")


# Masks --------------------------------------------------------------------------------------------


def mask(size_wh: Size) -> bytes:
    image, buffer = Image.new("L", size_wh), io.BytesIO()
    image.paste(1, (0, 0, 4, 8))
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", [1, *QUARTER_TURNS])
@pytest.mark.parametrize("is_upright", [True, False])
@pytest.mark.parametrize("has_xml", [True, False])
def test_masks_tell_as_sizes_do_and_stay_as_they_are(
    tmp_path: Path, orientation: int, is_upright: bool, has_xml: bool
) -> None:
    pixels = upright() if is_upright else stored(orientation)
    files = {
        "JPEGImages/a.jpg": photo("JPEG", orientation),
        "SegmentationClass/a.png": mask(sides(pixels)),
        "SegmentationObject/a.png": mask(sides(pixels)),
    }
    if has_xml:
        files["Annotations/a.xml"] = xml(sides(pixels), ("cat", (1, 1, 9, 9)))
    converted(folder(tmp_path / "in", files), tmp_path / "out", task="segmentation")
    document, members = sample(tmp_path / "out")
    assert members["class.png"] == members["object.png"] == mask(sides(pixels))
    assert (document["width"], document["height"]) == sides(pixels)
    is_turned = is_upright and orientation != 1
    assert document.get("orientation") == (orientation if is_turned else None)


def test_mask_of_the_other_orientation_is_refused(tmp_path: Path) -> None:
    files = {
        "JPEGImages/a.jpg": photo("JPEG", 6),
        "SegmentationClass/a.png": mask((32, 48)),
        "Annotations/a.xml": xml(UPRIGHT, ("ant", BOX)),
    }
    source = folder(tmp_path / "in", files)
    with pytest.raises(DataError) as caught:
        converted(source, tmp_path / "out", task="segmentation")
    place = f"{source}/SegmentationClass/a.png"
    assert str(caught.value) == f"{place}: is 32 x 48 px, its picture 48 x 32"


# The dry run sees the same ------------------------------------------------------------------------


def test_dry_run_over_headers_finds_what_the_conversion_does(tmp_path: Path) -> None:
    """Also where EXIF lies behind more pixels than a header has bytes, in an archive."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    files = {}
    for name, kind in (("a.png", "PNG"), ("b.webp", "WEBP"), ("c.tif", "TIFF"), ("d.jpg", "JPEG")):
        buffer = io.BytesIO()
        exif: Any = {"tiffinfo": {0x0112: 6}} if kind == "TIFF" else {"exif": block(6)}
        Image.fromarray(noise).save(
            buffer, kind, **exif, **({"lossless": True} if name == "b.webp" else {})
        )
        files[name] = buffer.getvalue()
        files[f"{name[0]}.xml"] = xml((200, 300), ("ant", (1, 1, 200, 300)))
    files["a.png"] = exif_behind_pixels(files["a.png"])
    assert all(len(files[name]) > 1 << 16 for name in ("a.png", "b.webp", "c.tif"))
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name, content in files.items():
            tar.addfile(info(name, len(content)), io.BytesIO(content))
    options = ConvertOptions(source=str(tmp_path / "in.tar"), dest=str(tmp_path / "out"), workers=1)
    found = look(options)
    converted(tmp_path / "in.tar", tmp_path / "out")
    expected = {"exif-upright": 3, "exif-baked": 1, "picture-recoded": 1}
    assert counted(tmp_path / "out") == expected
    assert {code: its.count for code, its in found.report.codes.items()} == expected
    assert not found.problems
    sizes = {(its["width"], its["height"]) for its in documents(tmp_path / "out").values()}
    assert sizes == {(200, 300)}


def exif_behind_pixels(content: bytes) -> bytes:
    """The same PNG with its eXIf chunk before IEND."""
    at = content.index(b"eXIf") - 4
    length = 12 + int.from_bytes(content[at : at + 4], "big")
    return content[:at] + content[at + length : -12] + content[at : at + length] + content[-12:]


def test_png_cut_short_is_an_error(tmp_path: Path) -> None:
    content = photo("PNG", 1)
    source = annotated(tmp_path, content[:-20], UPRIGHT)
    with pytest.raises(DataError) as caught:
        converted(source, tmp_path / "out")
    told = f"is cut short: a PNG of {len(content) - 20} bytes without its end"
    assert str(caught.value) == f"{source}/a.png: {told}"


def test_command_line_takes_the_answer_and_says_what_it_met(
    tmp_path: Path, run_here: Callable[..., tuple[str | int | None, str, str]]
) -> None:
    source = annotated(tmp_path, photo("JPEG", 3), UPRIGHT)
    status, _, stderr = run_here("convert", source, tmp_path / "out")
    assert status == 1
    assert "say it by --exif upright or --exif stored" in " ".join(stderr.split())
    status, _, stderr = run_here("convert", source, tmp_path / "out", "--exif", "upright")
    assert status == 0
    told = "a picture has an EXIF orientation that its annotation follows; readers turn it"
    assert f"exif-upright 1: {told} (such as a.jpg: orientation 3)" in " ".join(stderr.split())
