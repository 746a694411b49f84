"""Pictures of any format under any name: kept by content, or written as PNG without loss."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from shard_tool.convert.rules import Choices
from shard_tool.errors import DataError
from tests.kit.datasets.converted import converted, samples_of
from tests.kit.datasets.pictures import scene
from tests.kit.datasets.wild import ANT, boxes, counted, documents, folder, picture, xml

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".JPG"),
    "PNG": (".png", ".PNG"),
    "WEBP": (".webp", ".WebP"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff", ".TIF"),
    "GIF": (".gif",),
}
KEPT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
NAMES = [(kind, suffix) for kind, its in SUFFIXES.items() for suffix in its]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def source(tmp_path: Path, name: str, content: bytes, size_wh: tuple[int, int] = (20, 10)) -> Path:
    stem = name.rpartition(".")[0]
    return folder(tmp_path / "in", {name: content, f"{stem}.xml": xml(size_wh, ANT)})


def member(dest: Path) -> tuple[str, bytes]:
    """Extension and bytes of the only picture."""
    (members,) = samples_of(dest, "train").values()
    ((extension, content),) = [its for its in members.items() if its[0] != "json"]
    return extension, content


def pixels(content: bytes, mode: str | None = "RGB") -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert(mode) if mode else image)


@pytest.mark.parametrize(("kind", "suffix"), NAMES)
def test_pictures_of_each_suffix_are_found_and_keep_their_pixels(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    content = picture(kind=kind)
    converted(source(tmp_path, f"a{suffix}", content), tmp_path / "out")
    extension, stored = member(tmp_path / "out")
    assert extension == KEPT.get(kind, "png")
    if kind in KEPT:
        assert stored == content
    assert np.array_equal(pixels(stored), pixels(content))
    assert boxes(tmp_path / "out")["a"] == [("ant", [2.0, 3.0, 10.0, 8.0])]
    assert documents(tmp_path / "out")["a"]["file"] == f"a{suffix}"
    assert counted(tmp_path / "out") == ({} if kind in KEPT else {"picture-recoded": 1})


@pytest.mark.parametrize("kind", [*SUFFIXES])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff"])
def test_content_decides_where_it_contradicts_the_name(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    """PNG bytes called .jpg are what browsers save; the member is named by what it is."""
    content = picture(kind=kind)
    converted(source(tmp_path, f"a{suffix}", content), tmp_path / "out")
    extension, stored = member(tmp_path / "out")
    assert extension == KEPT.get(kind, "png")
    assert np.array_equal(pixels(stored), pixels(content))
    codes = {"content-other-than-name": 1} if suffix not in SUFFIXES[kind] else {}
    assert counted(tmp_path / "out") == codes | ({} if kind in KEPT else {"picture-recoded": 1})


GREY, RGB, FOUR = (Image.fromarray(scene(10, 20, channels)) for channels in (1, 3, 4))
DEEP = Image.fromarray(scene(10, 20, 1).astype(np.uint16) * 257 + 5)


@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        *[
            (GREY, "TIFF", {}),
            (GREY, "BMP", {}),
            (GREY.convert("1"), "TIFF", {}),
            (GREY, "GIF", {}),
        ],
        *[(RGB, "TIFF", {"compression": "tiff_lzw"}), (RGB.quantize(16), "BMP", {})],
        *[(RGB.quantize(16), "TIFF", {}), (RGB.quantize(16), "GIF", {}), (FOUR, "TIFF", {})],
        *[(DEEP, "TIFF", {}), (RGB, "TIFF", {"compression": "tiff_deflate"})],
    ],
)
def test_other_formats_become_png_without_loss(
    tmp_path: Path, image: Image.Image, kind: str, options: dict[str, Any]
) -> None:
    content = encoded(image, kind, **options)
    converted(source(tmp_path, f"a.{kind.lower()}", content), tmp_path / "out")
    extension, stored = member(tmp_path / "out")
    assert extension == "png"
    with Image.open(io.BytesIO(stored)) as made, Image.open(io.BytesIO(content)) as before:
        assert made.mode == before.mode
    mode = None if image.mode.startswith("I") else "RGBA"
    assert np.array_equal(pixels(stored, mode), pixels(content, mode))


def test_big_endian_tiffs_of_16_bits_keep_them(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(np.asarray(DEEP).astype(">u2")), "TIFF")
    with Image.open(io.BytesIO(content)) as before:
        assert before.mode == "I;16B"
    converted(source(tmp_path, "a.tif", content), tmp_path / "out")
    assert np.array_equal(pixels(member(tmp_path / "out")[1], None), np.asarray(DEEP))


def test_cmyk_of_tiffs_becomes_rgb(tmp_path: Path) -> None:
    content = encoded(RGB.convert("CMYK"), "TIFF")
    converted(source(tmp_path, "a.tif", content), tmp_path / "out")
    assert np.array_equal(pixels(member(tmp_path / "out")[1]), pixels(content))


@pytest.mark.parametrize(("mode", "told"), [("I", "whole"), ("F", "floating-point")])
def test_tiffs_of_32_bits_are_refused_since_no_png_holds_them(
    tmp_path: Path, mode: str, told: str
) -> None:
    its = source(tmp_path, "a.tif", encoded(GREY.convert(mode), "TIFF"))
    with pytest.raises(DataError) as caught:
        converted(its, tmp_path / "out")
    problem = f"has {told} numbers of 32 bits a pixel, which no PNG holds; write 8 or 16 bits"
    assert str(caught.value) == f"{its}/a.tif: {problem}"


def test_first_picture_of_several_counts(tmp_path: Path) -> None:
    """Animated GIF, pages of TIFF: the one that annotation tools show."""
    second = Image.new("RGB", (20, 10), (0, 255, 0))
    for number, (kind, suffix) in enumerate((("GIF", ".gif"), ("TIFF", ".tif"))):
        content = encoded(RGB, kind, save_all=True, append_images=[second])
        converted(source(tmp_path / str(number), f"a{suffix}", content), tmp_path / f"out{number}")
        _, stored = member(tmp_path / f"out{number}")
        assert np.array_equal(pixels(stored), pixels(content))
        with Image.open(io.BytesIO(stored)) as made:
            assert getattr(made, "n_frames", 1) == 1


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"\xff\xd8\xff\xd9", b"BM" + bytes(60)]
)
def test_file_that_is_no_picture_is_an_error(tmp_path: Path, content: bytes) -> None:
    its = source(tmp_path, "a.jpg", content)
    with pytest.raises(DataError) as caught:
        converted(its, tmp_path / "out")
    assert str(caught.value).startswith(f"{its}/a.jpg: ")
    folder(tmp_path / "in", {"b.jpg": picture(), "b.xml": xml((20, 10), ANT)})
    converted(its, tmp_path / "skipped", on_bad_record="skip")
    assert list(boxes(tmp_path / "skipped")) == ["b"]


def test_picture_that_is_cut_short_is_an_error_where_it_is_decoded(tmp_path: Path) -> None:
    for kind, suffix in (("TIFF", ".tif"), ("BMP", ".bmp"), ("GIF", ".gif")):
        content = encoded(RGB, kind)
        its = source(tmp_path / kind, f"a{suffix}", content[: len(content) * 2 // 3])
        with pytest.raises(DataError):
            converted(its, tmp_path / f"out{kind}")


# Scaled -------------------------------------------------------------------------------------------

BIG = {
    "PNG": [Image.fromarray(scene(40, 60, channels)) for channels in (1, 3, 4)],
    "WEBP": [Image.fromarray(scene(40, 60))],
    "TIFF": [Image.fromarray(scene(40, 60)).quantize(64)],
}
BIG["PNG"] += [BIG["PNG"][1].quantize(64), BIG["PNG"][0].convert("1")]
BIG["PNG"].append(Image.fromarray(scene(40, 60, 1).astype(np.uint16) * 256))
SCALED = [(kind, image) for kind, its in BIG.items() for image in its]


@pytest.mark.parametrize(("kind", "image"), SCALED)
def test_pictures_of_every_format_are_scaled_in_their_own(
    tmp_path: Path, kind: str, image: Image.Image
) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(image, kind, **options)
    suffix = SUFFIXES[kind][0]
    files = {f"a{suffix}": content, "a.xml": xml((60, 40), ("ant", (6, 4, 60, 40)))}
    converted(folder(tmp_path / "in", files), tmp_path / "out", resize=30)
    extension, stored = member(tmp_path / "out")
    assert extension == KEPT.get(kind, "png")
    document = documents(tmp_path / "out")["a"]
    assert (document["width"], document["height"]) == (30, 20)
    assert boxes(tmp_path / "out")["a"] == [("ant", [3.0, 2.0, 30.0, 20.0])]
    shown, found = (upper_8_bits(its) for its in (content, stored))
    shrunk = np.asarray(Image.fromarray(shown).resize((30, 20), Image.Resampling.BOX))
    most = 20 if image.mode == "1" else 12  # Lanczos keeps more of edges
    assert np.abs(found.astype(int) - shrunk.astype(int)).mean() < most


def upper_8_bits(content: bytes) -> np.ndarray:
    """A picture as RGB; of 16 bits the upper 8."""
    values = pixels(content, None)
    if values.dtype == np.uint16:
        return np.dstack([(values >> 8).astype(np.uint8)] * 3)
    return pixels(content)


def test_small_pngs_keep_their_bytes_whatever_the_quality(tmp_path: Path) -> None:
    content = encoded(RGB, "PNG", compress_level=1)
    converted(source(tmp_path, "a.png", content), tmp_path / "out", quality=60, resize=30)
    assert member(tmp_path / "out") == ("png", content)


def test_webps_are_encoded_at_the_quality(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(scene(40, 60)), "WEBP", lossless=True)
    its = source(tmp_path, "a.webp", content, (60, 40))
    sizes = []
    for quality in (90, 20):
        converted(its, tmp_path / str(quality), quality=quality)
        sizes.append(len(member(tmp_path / str(quality))[1]))
    assert len(content) > sizes[0] > sizes[1]


def test_bake_keeps_transparent_colours_of_webp(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    hidden = FOUR.copy()
    hidden.putalpha(0)
    content = encoded(hidden, "WEBP", lossless=True, exact=True, exif=exif)
    converted(source(tmp_path, "a.webp", content), tmp_path / "out", choices=Choices(exif="bake"))
    found = pixels(member(tmp_path / "out")[1], "RGBA")
    assert np.array_equal(found, np.asarray(hidden)[::-1, ::-1])
