"""Plain PNG masks are read as Pillow reads them, and other files are not read at all."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.pixels.decode import MAX_PIXELS, decode_mask
from datamodules.pixels.png_masks import plain_png
from shard_tool.errors import SampleError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    rows: bytes, width: int, height: int, *, bits: int = 8, color: int = 3, interlaced: int = 0
) -> bytes:
    """A palette PNG of these rows, each with its filter's number before it."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    palette = [chunk(b"PLTE", bytes(range(256)) * 3)] if color == 3 else []
    parts = [chunk(b"IHDR", header), *palette, chunk(b"IDAT", zlib.compress(rows))]
    return SIGNATURE + b"".join(parts) + chunk(b"IEND", b"")


def by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.array(picture)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32), st.sampled_from([0, 3]))
@settings(max_examples=60, deadline=None)
def test_values_are_those_that_pillow_reads(width: int, height: int, seed: int, color: int) -> None:
    values = np.random.Generator(np.random.Philox(seed)).integers(0, 256, (height, width), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    content = png(rows, width, height, color=color)
    found = plain_png(content, MAX_PIXELS)
    assert found is not None
    assert (found == values).all()
    assert (by_pillow(content) == values).all()


def test_a_mask_of_pillows_own_making_is_read_the_same() -> None:
    """As tools that write masks in Python do; Pillow chooses the rows' filters."""
    packed = io.BytesIO()
    picture = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10), mode="L")
    picture.convert("P").save(packed, "PNG")
    content = packed.getvalue()
    assert (decode_mask(content, place="").numpy() == by_pillow(content)).all()


FILTERED = b"".join(bytes([kind]) + bytes([kind, 1, 2, 3]) for kind in (0, 1, 2, 3, 4))
LEFT_TO_PILLOW = {
    "filtered rows": png(FILTERED, 4, 5),
    "4 bits a pixel": png(b"\0\x12\0\x34", 2, 2, bits=4),
    "interlaced": png(b"\0\1\0\2\0\3\4", 2, 2, interlaced=1),
}


@pytest.mark.parametrize("content", LEFT_TO_PILLOW.values(), ids=LEFT_TO_PILLOW)
def test_other_pngs_are_left_to_pillow(content: bytes) -> None:
    assert plain_png(content, MAX_PIXELS) is None
    assert (decode_mask(content, place="").numpy() == by_pillow(content)).all()


def test_values_split_over_several_chunks_are_joined() -> None:
    packed = zlib.compress(b"\0abc\0def")
    parts = [packed[:3], packed[3:4], packed[4:]]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0))
    content = SIGNATURE + header + b"".join(chunk(b"IDAT", part) for part in parts)
    found = plain_png(content + chunk(b"tEXt", b"k\0v") + chunk(b"IEND", b""), MAX_PIXELS)
    assert found is not None
    assert found.tobytes() == b"abcdef"


WHOLE = png(b"\0abc\0def", 3, 2)


def test_a_truncated_mask_is_not_read() -> None:
    assert plain_png(WHOLE, MAX_PIXELS) is not None
    for length in range(len(WHOLE)):
        assert plain_png(WHOLE[:length], MAX_PIXELS) is None


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    for at in range(len(WHOLE)):
        damaged = bytearray(WHOLE)
        damaged[at] ^= 4
        assert plain_png(bytes(damaged), MAX_PIXELS) is None


def test_other_files_are_an_error_that_names_the_sample() -> None:
    with pytest.raises(SampleError, match=r"^train-0: is not a picture$"):
        decode_mask(b"\0" * 100, place="train-0")


@pytest.mark.parametrize("rows", [b"\0abc\0de", b"\0abc\0defg", b"", b"\0abc\0def" * 9])
def test_rows_of_another_number_of_bytes_are_refused(rows: bytes) -> None:
    assert plain_png(png(rows, 3, 2), MAX_PIXELS) is None


@pytest.mark.slow
def test_a_decompression_bomb_is_not_inflated() -> None:
    """A gigabyte of zeros behind the header of a small picture."""
    packing = zlib.compressobj(9)
    zeros = bytes(1 << 20)
    packed = b"".join(packing.compress(zeros) for _ in range(1024)) + packing.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100, 100, 8, 3, 0, 0, 0))
    content = SIGNATURE + header + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    assert plain_png(content, MAX_PIXELS) is None


def test_pictures_over_the_limit_are_refused_before_they_are_inflated() -> None:
    assert plain_png(WHOLE, 5) is None
    assert plain_png(WHOLE, 6) is not None
