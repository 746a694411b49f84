"""Masks that could be read by colours and by values: nothing is merged or lost silently."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from shard_tool import ConvertOptions
from shard_tool.convert.look import look
from shard_tool.errors import DataError
from shard_tool.sources.classes import ClassOptions
from tests.kit.datasets.converted import converted
from tests.kit.datasets.wild import classes, counted, picture, xml
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

    from numpy.typing import NDArray

    from shard_tool.convert.look import Look


def noise(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


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


# The dry run --------------------------------------------------------------------------------------


def looked(its: Path, tmp_path: Path, **options: Any) -> Look:
    paths: dict[str, Any] = {"source": str(its), "dest": str(tmp_path / "nothing")}
    return look(ConvertOptions(**paths, task="segmentation", workers=1, **options))


def packed(its: Path) -> Path:
    """The same files as a tar."""
    tar = its.parent / f"{its.name}.tar"
    with tarfile.open(tar, "w") as file:
        file.add(its, arcname="data")
    return tar


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(
    ("mask", "more", "told"),
    [
        (grey(0, 1, 77, 255), {}, "holds values of no class: 77 "),
        (painted(BLACK, ROAD, (9, 8, 7)), {}, "holds colours of no class: (9, 8, 7)"),
        (png(DRAWN[:5]), {}, "is 20 x 5 px, its picture 20 x 10"),
        (png(noise((10, 20, 3)))[:-300], {}, "does not decode: "),
        (grey(0, 1), {"SegmentationObject/a.png": png(DRAWN[:5])}, "is 20 x 5 px, its picture "),
        (grey(0, 1), {"SegmentationObject/a.png": painted(BLACK)}, "a mask of objects has mode "),
    ],
)
def test_dry_run_finds_what_is_wrong_with_masks(
    tmp_path: Path, mask: bytes, more: Files, told: str, is_packed: bool
) -> None:
    its = source(tmp_path, mask, more=more)
    (problem,) = looked(packed(its) if is_packed else its, tmp_path).problems.values()
    assert told in problem.example
    with pytest.raises(DataError) as caught:
        converted(its, tmp_path / "out", task="segmentation")
    its_text = str(caught.value).partition(".png: ")[2]
    assert its_text.startswith(problem.example.partition(".png: ")[2])


def test_dry_run_notes_of_masks_what_the_conversion_does(tmp_path: Path) -> None:
    """Also of masks that are longer than a picture's header."""
    options = ClassOptions(classes=("car",), other_classes="drop")
    big = np.array([BLACK, ROAD, CAR], np.uint8)[noise((400, 900)) % 3]
    its = source(tmp_path, painted(BLACK, ROAD, CAR, BORDER))
    (its / "JPEGImages/b.jpg").write_bytes(picture((900, 400)))
    (its / "SegmentationClass/b.png").write_bytes(png(big))
    assert len(png(big)) > 1 << 16
    converted(packed(its), tmp_path / "out", task="segmentation", classes=options)
    found = looked(packed(its), tmp_path, classes=options)
    assert found.problems == {}
    report = {code: its.count for code, its in found.report.codes.items()}
    assert report == counted(tmp_path / "out") == {"mask-by-color": 2, "other-class-dropped": 2}
