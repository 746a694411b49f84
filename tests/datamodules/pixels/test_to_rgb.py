"""Every kind of picture becomes uint8 RGB in one way: docs/concepts/pixels.md has the table."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from datamodules.pixels.decode import decode_image
from tests.datamodules.pixels.test_png_masks import png
from tests.kit.datasets.pictures import encoded

LEVELS = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)
COLOURS = np.stack([LEVELS, LEVELS // 2, 255 - LEVELS], -1)


def rgb(content: bytes) -> list[object]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow has some for palettes with transparency
        found: list[object] = decode_image(content, place="").permute(1, 2, 0).tolist()
        return found


def greys(levels: np.ndarray) -> list[object]:
    found: list[object] = np.stack([levels] * 3, -1).tolist()
    return found


def sixteen_bits(channels: int) -> tuple[np.ndarray, bytes]:
    """Values of 16 bits, [3, 4, channels], and a PNG of them: grey, RGB, both with alpha."""
    values = (np.arange(12 * channels).reshape(3, 4, channels) * 1311).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return values, png(rows, 4, 3, bits=16, color={1: 0, 2: 4, 3: 2, 4: 6}[channels])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("alpha", [0, 7, 255])
def test_alpha_is_dropped_and_the_colours_below_it_stay(kind: str, alpha: int) -> None:
    """As Pillow, OpenCV and torchvision do it: what is transparent is not painted over."""
    pixels = np.dstack([COLOURS, np.full_like(LEVELS, alpha)])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert rgb(encoded(Image.fromarray(pixels), kind, **options)) == COLOURS.tolist()


def test_grey_becomes_three_equal_channels_with_or_without_alpha() -> None:
    assert rgb(encoded(LEVELS, "PNG")) == greys(LEVELS)
    with_alpha = Image.fromarray(np.dstack([LEVELS, 255 - LEVELS]), "LA")
    assert rgb(encoded(with_alpha, "PNG")) == greys(LEVELS)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_greys_of_few_bits_are_spread_over_all_levels(bits: int) -> None:
    most = 2**bits - 1
    values = np.arange(24).reshape(3, 8) % (most + 1)
    packed = [int("".join(f"{v:0{bits}b}" for v in row), 2).to_bytes(bits, "big") for row in values]
    content = png(b"".join(b"\0" + row for row in packed), 8, 3, bits=bits, color=0)
    assert rgb(content) == greys(values * 255 // most)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_keep_the_upper_eight(channels: int) -> None:
    values, content = sixteen_bits(channels)
    upper = (values >> 8).astype(int)
    colours = upper[..., :3] if channels >= 3 else upper[..., [0, 0, 0]]
    assert rgb(content) == colours.tolist()


@pytest.mark.parametrize("transparency", [None, 1, b"\0\x80\xff"], ids=["none", "one", "each"])
def test_palettes_become_their_colours_transparent_or_not(transparency: object) -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    picture = Image.fromarray(indices, "P")
    picture.putpalette([10, 20, 30, 200, 0, 90, 255, 255, 0])
    options = {} if transparency is None else {"transparency": transparency}
    colours = np.array([[10, 20, 30], [200, 0, 90], [255, 255, 0]])
    assert rgb(encoded(picture, "PNG", **options)) == colours[indices].tolist()


def test_cmyk_becomes_rgb_as_ink_on_white() -> None:
    """Of Adobe's files, which store inverted ink. R = (255 - C) * (255 - K) / 255."""
    for ink, colour in (((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((0, 0, 0, 128), 127)):
        content = encoded(Image.new("CMYK", (16, 16), ink), quality=100)
        found = np.array(rgb(content))
        assert np.abs(found - colour).max() <= 2
