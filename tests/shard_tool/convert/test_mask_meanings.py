"""Masks that could be read by colours and by values: nothing is merged or lost silently."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from shard_tool.sources.classes import ClassOptions
from tests.kit.datasets.converted import converted
from tests.kit.datasets.wild import classes, counted, xml
from tests.shard_tool.convert.test_masks import (
    BLACK,
    BORDER,
    CAR,
    DRAWN,
    ROAD,
    Files,
    grey,
    ids,
    indexed,
    painted,
    png,
    read,
    refusal,
    source,
)

if TYPE_CHECKING:
    from pathlib import Path

# Palettes -----------------------------------------------------------------------------------------


def short_palette(palette: bytes, values: tuple[int, ...]) -> bytes:
    """A palette PNG of 8 bits with a palette that its values may exceed."""
    content = indexed({}, values)
    at = content.index(b"PLTE") - 4
    chunk = b"PLTE" + palette
    chunk = len(palette).to_bytes(4, "big") + chunk + crc32(chunk).to_bytes(4, "big")
    return content[:at] + chunk + content[at + 12 + int.from_bytes(content[at : at + 4], "big") :]


@pytest.mark.parametrize(
    "mask",
    [
        indexed(dict.fromkeys(range(256), BLACK), (0, 12, 20, 255)),
        short_palette(bytes(768), (0, 12, 20, 255)),
        short_palette(bytes(3), (0, 12, 20, 255)),
        short_palette(bytes((0, 0, 0, 7, 7, 7)), (0, 12, 20, 255)),
    ],
)
def test_values_count_where_the_palette_does_not_tell_them_apart(
    tmp_path: Path, mask: bytes
) -> None:
    """All in black, or short: the dogs must not become background."""
    converted(source(tmp_path, mask, None), tmp_path / "out", task="segmentation")
    assert np.array_equal(ids(tmp_path / "out"), np.array([0, 12, 20, 255])[DRAWN])
    assert counted(tmp_path / "out") == {"mask-by-value": 1}


def test_one_value_with_a_palette_in_black_is_no_background(tmp_path: Path) -> None:
    mask = indexed(dict.fromkeys(range(256), BLACK), (12, 12, 12, 12))
    converted(source(tmp_path, mask, None), tmp_path / "out", task="segmentation")
    assert np.array_equal(ids(tmp_path / "out"), np.full(DRAWN.shape, 12))


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (indexed({0: BLACK, 1: ROAD, 2: ROAD}, (0, 1, 2, 2)), f"has one colour, {ROAD}, for"),
        (indexed({0: ROAD, 1: BLACK, 2: BLACK}, (0, 1, 2, 2)), f"has one colour, {BLACK}, for"),
        (short_palette(bytes((*BLACK, *ROAD)), (0, 1, 4, 3)), "has no colour for"),
    ],
)
def test_palette_that_tells_some_classes_alone_is_an_error(
    tmp_path: Path, mask: bytes, problem: str
) -> None:
    values = "3, 4" if "no colour" in problem else "1, 2"
    told = f"its palette {problem} values {values}"
    way = "give each class its colour, or write grey masks whose values count the classes"
    assert refusal(source(tmp_path, mask), tmp_path) == f"{told}; {way}"


# Greys --------------------------------------------------------------------------------------------

WHITE = "background:0,0,0::\nwolf:10,20,30::\nfox:255,255,255::\n"


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_class_in_white_is_read_from_black_and_white_masks(tmp_path: Path, mode: str) -> None:
    """Though 255 is void elsewhere, and 1 would be the wolf."""
    if mode == "1":
        mask = png(Image.fromarray((DRAWN == 1).astype(np.uint8) * 255).convert("1"))
    else:
        mask = grey(0, 255, 0, 0, mode=mode)
    converted(source(tmp_path, mask, WHITE), tmp_path / "out", task="segmentation")
    assert np.array_equal(ids(tmp_path / "out"), (DRAWN == 1) * 2)
    assert counted(tmp_path / "out") == {"mask-by-color": 1}


def test_classes_in_grey_are_read_by_their_greys(tmp_path: Path) -> None:
    labelmap = "wolf:100,100,100::\nfox:200,200,200::\n"
    its = source(tmp_path, grey(0, 200, 100, 255), labelmap)
    converted(its, tmp_path / "out", task="segmentation")
    assert np.array_equal(ids(tmp_path / "out"), np.array([0, 2, 1, 255])[DRAWN])


def test_values_beside_a_class_in_white_count_the_classes(tmp_path: Path) -> None:
    converted(source(tmp_path, grey(0, 1, 2, 255), WHITE), tmp_path / "out", task="segmentation")
    assert np.array_equal(ids(tmp_path / "out"), np.array([0, 1, 2, 255])[DRAWN])


def test_vocs_own_greys_are_not_taken_for_colours(tmp_path: Path) -> None:
    """VOC's seventh colour is (128, 128, 128), and 128 may be a value."""
    names = "_background_\n" + "".join(f"c{number}\n" for number in range(1, 141))
    more: Files = {"class_names.txt": names}
    its = source(tmp_path, grey(0, 128, 128, 0), None, more)
    converted(its, tmp_path / "out", task="segmentation")
    assert np.array_equal(ids(tmp_path / "out"), np.isin(DRAWN, (1, 2)) * 128)


def test_class_in_white_that_the_table_lacks_names_the_option(tmp_path: Path) -> None:
    more: Files = {"Annotations/a.xml": xml((20, 10), ("wolf", (0, 0, 8, 6)))}
    message = refusal(source(tmp_path, grey(0, 255, 0, 0), WHITE, more), tmp_path)
    told = "holds colours of no class: (255, 255, 255) of 'fox'"
    assert message == f"{told}; add --classes wolf,fox"


# Classes that are left out ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "code"),
    [
        (painted(BLACK, ROAD, CAR, BORDER), "mask-by-color"),
        (indexed({0: BLACK, 1: ROAD, 2: CAR, 3: BORDER}, (0, 1, 2, 3)), "mask-by-color"),
        (grey(0, 1, 2, 255), "mask-by-value"),
    ],
)
def test_pixels_of_classes_that_are_left_out_become_void(
    tmp_path: Path, mask: bytes, code: str
) -> None:
    options = ClassOptions(classes=("car",), other_classes="drop")
    found = read(tmp_path, mask, classes=options)
    assert np.array_equal(found, np.array([0, 255, 1, 255])[DRAWN])
    assert classes(tmp_path / "out") == {"car": 1}
    assert counted(tmp_path / "out") == {code: 1, "other-class-dropped": 1}


def test_grey_classes_that_are_left_out_become_void(tmp_path: Path) -> None:
    options = ClassOptions(classes=("wolf",), other_classes="drop")
    its = source(tmp_path, grey(0, 255, 0, 0), WHITE)
    converted(its, tmp_path / "out", task="segmentation", classes=options)
    assert np.array_equal(ids(tmp_path / "out"), (DRAWN == 1) * 255)
    assert counted(tmp_path / "out") == {"mask-by-color": 1, "other-class-dropped": 1}


def test_nothing_is_counted_where_no_pixel_is_left_out(tmp_path: Path) -> None:
    options = ClassOptions(classes=("car",), other_classes="drop")
    found = read(tmp_path, painted(BLACK, CAR, CAR, BORDER), classes=options)
    assert np.array_equal(found, np.array([0, 1, 1, 255])[DRAWN])
    assert counted(tmp_path / "out") == {"mask-by-color": 1}
