"""Pictures that EXIF turns: converted again, boxes lie on what they lay on."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.kit.datasets.exports import (
    Stored,
    contents_of,
    dataset_of,
    exported,
    losses_of,
    sample_of,
    thing,
)
from tests.shard_tool.export.test_round_trips import again

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = ("coco", "yolo", "voc")


def photo(orientation: int, size_wh: tuple[int, int]) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    pixels = np.arange(size_wh[0] * size_wh[1] * 3).reshape(size_wh[1], size_wh[0], 3) % 256
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def turned(orientation: int, *, is_upright: bool, size_wh: tuple[int, int] = (100, 60)) -> Stored:
    """A picture with an orientation, whose box is of the upright or of the stored picture."""
    upright = size_wh[::-1] if orientation >= 5 and is_upright else size_wh
    its: dict[str, Any] = {"width": upright[0], "height": upright[1]}
    its |= {"orientation": orientation} if is_upright else {}
    key = f"{orientation}-{is_upright}"
    return Stored(
        sample_of(key, thing((5, 10, 20, 50)), **its), {"jpg": photo(orientation, size_wh)}
    )


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("is_upright", [True, False])
def test_an_option_says_it_where_the_format_does_not(
    tmp_path: Path, format_: str, is_upright: bool
) -> None:
    """A picture turned by a quarter tells it by its declared size, which YOLO has not."""
    samples = [turned(orientation, is_upright=is_upright) for orientation in (1, 3, 6)]
    samples.append(Stored(sample_of("empty"), {"jpg": photo(3, (100, 60))}))
    dataset = dataset_of(tmp_path / "set", {"train": samples})
    report = exported(dataset, tmp_path / "told", format_)
    assert losses_of(report) == {"exif-untold": 2 if format_ == "yolo" else 1}
    assert f"--exif {'upright' if is_upright else 'stored'}" in report.options
    found, expected = contents_of(again(dataset, tmp_path, format_)), contents_of(dataset)
    for one in (found, expected):
        del one["train", "empty"]  # without a box either is right
    assert found == expected


@pytest.mark.parametrize("format_", ["coco", "voc"])
def test_quarter_turns_need_no_option(tmp_path: Path, format_: str) -> None:
    samples = [turned(6, is_upright=True), turned(8, is_upright=False)]
    dataset = dataset_of(tmp_path / "set", {"train": samples})
    report = exported(dataset, tmp_path / "told", format_)
    assert losses_of(report) == {}
    assert contents_of(again(dataset, tmp_path, format_)) == contents_of(dataset)


def test_pictures_of_both_kinds_have_no_option_and_squares_tell_nothing(tmp_path: Path) -> None:
    square = turned(6, is_upright=True, size_wh=(60, 60))
    for samples, option in (
        ([square], True),
        ([square, turned(3, is_upright=False)], False),
    ):
        dataset = dataset_of(tmp_path / f"set{option}", {"train": samples})
        report = exported(dataset, tmp_path / f"out{option}", "coco")
        assert losses_of(report) == {"exif-untold": len(samples)}
        assert report.options == (("--exif upright",) if option else ())
