"""Decoding: pixels are right, and other or damaged files are refused."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.pixels.decode import MAX_PIXELS, decode_image, decode_mask, picture_size
from shard_tool.errors import SampleError
from tests.datamodules.pixels.test_png_masks import png
from tests.kit.datasets.pictures import (
    by_pillow,
    encoded,
    jpeg_that_claims,
    png_that_claims,
    scene,
    turned,
    voc_mask,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("is_progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("subsampling", [0, 1, 2], ids=["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (37, 53), (1, 1), (8, 131)])
def test_decoded_jpeg_is_pillows_within_one_level(
    height: int, width: int, subsampling: int, is_progressive: bool
) -> None:
    content = encoded(
        scene(height, width), subsampling=subsampling, progressive=is_progressive, quality=92
    )
    found = decode_image(content, place="a.jpg")
    assert (found.dtype, found.shape) == (torch.uint8, (3, height, width))
    assert found.permute(1, 2, 0).is_contiguous()
    difference = found.permute(1, 2, 0).numpy().astype(int) - by_pillow(content)
    assert np.abs(difference).max() <= 1  # measured: 0; two builds of libjpeg-turbo may differ


def test_decoded_real_photographs_are_pillows_within_one_level(voc_sample: Path) -> None:
    with tarfile.open(voc_sample / "VOCtrainval_sample-2007.tar") as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][:12]
        contents = [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    assert contents
    for content in contents:
        found = decode_image(content, place="real").permute(1, 2, 0).numpy()
        assert np.abs(found.astype(int) - by_pillow(content)).max() <= 1


def test_decoded_cmyk_jpeg_is_pillows_within_two_levels() -> None:
    """Measured: 0 to 2 levels brighter. simplejpeg 1.9 takes it, and rounds otherwise."""
    picture = Image.frombytes("CMYK", (30, 20), scene(20, 30, 4).tobytes())
    content = encoded(picture)
    found = decode_image(content, place="a.jpg").permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - by_pillow(content)).max() <= 2


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encoded(scene(20, 30, 1)), id="grey JPEG"),
        pytest.param(encoded(scene(20, 30, 1), "PNG"), id="grey PNG"),
    ],
)
def test_decoded_grey_picture_has_three_equal_channels(content: bytes) -> None:
    found = decode_image(content, place="a.jpg")
    assert found.shape == (3, 20, 30)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found.permute(1, 2, 0).numpy().tolist() == by_pillow(content).tolist()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encoded(scene(20, 30), "PNG"), id="PNG"),
        pytest.param(encoded(Image.fromarray(scene(20, 30)).quantize(16), "PNG"), id="palette PNG"),
        pytest.param(encoded(scene(20, 30), "BMP"), id="BMP"),
    ],
)
def test_what_simplejpeg_refuses_decodes_through_pillow(content: bytes) -> None:
    found = decode_image(content, place="a.jpg")
    assert found.permute(1, 2, 0).is_contiguous()
    assert found.permute(1, 2, 0).numpy().tolist() == by_pillow(content).tolist()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_decoded_picture_is_not_rotated_by_exif(kind: str) -> None:
    """The annotation says how it has to be turned, or that its boxes are of the stored picture."""
    content = turned(scene(20, 30), 6, kind)
    assert decode_image(content, place="a.jpg").shape == (3, 20, 30)


def test_decode_reads_from_a_view_of_a_larger_buffer() -> None:
    content = encoded(scene(20, 30))
    padded = b"before" + content + b"after"
    view = memoryview(padded)[6 : 6 + len(content)]
    found = decode_image(view, place="a.jpg")
    assert torch.equal(found, decode_image(content, place="a.jpg"))


def test_truncated_jpeg_is_refused_wherever_it_ends() -> None:
    content = encoded(scene(32, 32))
    for length in [*range(0, len(content) - 40, 7), *range(len(content) - 40, len(content))]:
        with pytest.raises(SampleError, match=r"^a\.jpg: "):
            decode_image(content[:length], place="a.jpg")


@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_other_files_are_refused_with_the_same_message_each_time(
    decode: Callable[..., torch.Tensor],
) -> None:
    for content in (b"", b"GIF89a", b"<html>not found</html>", bytes(1000)):
        with pytest.raises(SampleError) as caught:
            decode(content, place="a.jpg")
        assert str(caught.value).startswith("a.jpg: ")
        assert "0x" not in str(caught.value)  # no address of some buffer


@pytest.mark.parametrize(
    ("content", "size"),
    [
        pytest.param(jpeg_that_claims(20_000, 20_000), "20000 x 20000", id="JPEG"),
        pytest.param(jpeg_that_claims(20_000, 20_000, "CMYK"), "20000 x 20000", id="CMYK JPEG"),
        pytest.param(jpeg_that_claims(10_001, 10_000), "10001 x 10000", id="just above"),
    ],
)
def test_jpeg_that_claims_too_many_pixels_is_refused_before_decoding(
    content: bytes, size: str
) -> None:
    with pytest.raises(SampleError) as caught:
        decode_image(content, place="a.jpg")
    assert str(caught.value) == f"a.jpg: {size} px are more than {MAX_PIXELS:,}"


@pytest.mark.parametrize("decode", [decode_image, decode_mask])
@pytest.mark.parametrize("side", [10_100, 20_000, 2**31 - 1])
def test_png_that_claims_too_many_pixels_is_refused(
    decode: Callable[..., torch.Tensor], side: int
) -> None:
    """Also if warnings are errors: Pillow warns of its own, lower limit first."""
    with pytest.raises(SampleError, match=r"^a\.png: "):
        decode(png_that_claims(side, side), place="a.png")


def test_decoded_mask_keeps_palette_indices_and_void() -> None:
    values, content = voc_mask()
    found = decode_mask(content, place="a.class.png")
    assert found.dtype == torch.uint8
    assert found.numpy().tolist() == values.tolist()
    assert 255 in found


def test_decoded_mask_keeps_the_values_of_a_grey_png_and_of_a_small_palette() -> None:
    values = (np.arange(60, dtype=np.uint8) % 4).reshape(6, 10)
    grey = encoded(values, "PNG")
    small = Image.fromarray(values, "P")
    small.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 1, 2, 3])
    for content in (grey, encoded(small, "PNG", bits=2)):
        assert decode_mask(content, place="m").numpy().tolist() == values.tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_mask_in_colours_is_refused(mode: str) -> None:
    content = encoded(Image.new(mode, (4, 3)), "PNG")
    with pytest.raises(SampleError) as caught:
        decode_mask(content, place="a.class.png")
    expected = f"a.class.png: a mask has mode 'P' or 'L', this is {mode!r}"
    assert str(caught.value) == expected


def test_truncated_mask_is_refused() -> None:
    _, content = voc_mask()
    with pytest.raises(SampleError, match=r"^a\.class\.png: does not decode: "):
        decode_mask(content[: len(content) // 2], place="a.class.png")


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_16_bit_greys_keep_their_upper_byte(mode: str) -> None:
    deep = (np.arange(12 * 9).reshape(12, 9) * 600).astype(np.uint16)
    picture = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(deep.astype(np.int32))
    assert picture.mode == mode
    file = io.BytesIO()
    picture.save(file, "PNG" if mode == "I;16" else "TIFF")
    found = decode_image(file.getvalue(), place="a.jpg")
    assert found.tolist() == [(deep >> 8).tolist()] * 3


def test_32_bit_greys_of_few_levels_stay_as_they_are() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5), 200, np.int32)).save(file, "TIFF")
    assert decode_image(file.getvalue(), place="a.jpg").unique().tolist() == [200]


@pytest.mark.parametrize("read", [picture_size, decode_image, decode_mask])
def test_promise_8_no_other_program_is_run_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Any
) -> None:
    """Pillow would start Ghostscript for an EPS file, whatever its name."""
    ran = tmp_path / "ran"
    fake = tmp_path / "gs"
    fake.write_text(f"#!/bin/sh\ntouch {ran}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(SampleError, match=r"^here: is not a picture$"):
        read(content, place="here")
    assert not ran.exists()


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_keep_their_numbers(bits: int) -> None:
    """As programs that make PNGs smaller write them."""
    values = np.array([[0, 1, 3, 1], [3, 3, 0, 2]], np.uint8)
    packed = [
        int("".join(f"{value:0{bits}b}" for value in row), 2).to_bytes(4 * bits // 8, "big")
        for row in values.tolist()
    ]
    content = png(b"".join(b"\0" + row for row in packed), 4, 2, bits=bits, color=0)
    assert decode_mask(content, place="").tolist() == values.tolist()


def test_the_size_of_other_formats_is_read_from_the_header_alone() -> None:
    whole = encoded(scene(40, 60), "PNG")
    assert picture_size(whole[: len(whole) // 2], place="") == (40, 60)
