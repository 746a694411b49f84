"""The size in a JPEG's header, compared with Pillow."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shard_tool.pictures.jpeg_header import jpeg_size
from tests.kit.datasets.voc_tree import jpeg

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_size_from_markers_is_pillows(mode: str, progressive: bool) -> None:
    buffer = io.BytesIO()
    picture = Image.linear_gradient("L").resize((123, 45)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(buffer, "JPEG", progressive=progressive, exif=exif, comment=b"\xff\xc0" * 9)
    assert jpeg_size(buffer.getvalue()) == (123, 45)


@given(st.integers(0, 700), st.binary(min_size=1, max_size=3))
def test_size_of_a_damaged_jpeg_is_never_another_size(at: int, damage: bytes) -> None:
    """A JPEG cut or altered before its first scan keeps its size or is left to Pillow."""
    content = jpeg((20, 10))
    assert jpeg_size(content[:at]) in (None, (20, 10))
    start = content.index(b"\xff\xc0")
    if not start <= at < start + 10:  # the frame header itself is the size
        altered = content[:at] + damage + content[at + len(damage) :]
        if b"\xff\xc0" not in damage and not set(range(at, at + 3)) & set(range(start, start + 10)):
            assert jpeg_size(altered) in (None, (20, 10))


def test_real_pictures_have_the_size_pillow_says(voc_sample: Path) -> None:
    paths = sorted(voc_sample.glob("VOCdevkit/*/JPEGImages/*.jpg"))
    assert len(paths) > 70
    for path in paths:
        with Image.open(path) as picture:
            assert jpeg_size(path.read_bytes()) == picture.size
