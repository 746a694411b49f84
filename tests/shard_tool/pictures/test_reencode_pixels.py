"""Re-encoding keeps a picture's colours and a mask's values."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from datamodules.pixels import decode
from shard_tool.pictures.reencode import reencoded
from tests.kit.datasets.pictures import encoded, scene
from tests.kit.datasets.reencoding import PLACE, again, opened, sample_of, wanted

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        pytest.param("L", {}, id="grey"),
        pytest.param("RGB", {}, id="RGB"),
        pytest.param("RGB", {"keep_rgb": True}, id="RGB not as YCbCr"),
        pytest.param("CMYK", {}, id="CMYK"),
    ],
)
@pytest.mark.parametrize("longer_side", [None, 120], ids=["own size", "half"])
def test_the_colours_stay_the_same(
    mode: str, options: dict[str, Any], longer_side: int | None
) -> None:
    smooth = Image.fromarray(np.mgrid[:180, :240][1].astype(np.uint8)).convert("RGB").convert(mode)
    content = encoded(smooth, quality=98, **options)
    found = again(content, longer_side, 98)
    assert opened(found).mode == mode
    small = smooth if longer_side is None else smooth.reduce(2)
    difference = np.abs(np.array(opened(found), np.int16) - np.array(small, np.int16))
    assert difference.max() <= 6


def test_a_cmyk_picture_streams_in_its_colours_and_loses_no_plate() -> None:
    """Every plate keeps its resolution: 4:2:0 would halve magenta, yellow and black."""
    inks = np.zeros((64, 64, 4), np.uint8)
    inks[:, ::2, 3] = 255  # black lines, one pixel wide
    content = encoded(Image.fromarray(inks, "CMYK"), quality=95)
    found = decode.decode_image(again(content, None, 95), place="x").numpy()
    was = decode.decode_image(content, place="x").numpy()
    assert np.abs(found.astype(int) - was).max() <= 8


def test_a_ycck_picture_keeps_its_colours_as_cmyk() -> None:
    picture = Image.fromarray(scene(64, 64, 4), "CMYK").resize((256, 256), Image.Resampling.BICUBIC)
    content = bytearray(encoded(picture, quality=98))
    content[content.index(b"Adobe") + 11] = 2  # what Pillow cannot write: "these are YCCK"
    found, was = opened(again(bytes(content), None, 98)), opened(bytes(content))
    assert (found.mode, found.info["adobe_transform"], was.info["adobe_transform"]) == (
        "CMYK",
        0,
        2,
    )
    assert np.abs(np.array(found, np.int16) - np.array(was, np.int16)).max() <= 8


def test_details_too_fine_for_the_new_size_become_their_mean() -> None:
    """Aliasing would show waves where the picture has an even grey."""
    lines = np.zeros((256, 256), np.uint8)
    lines[:, ::2] = 255
    found = np.array(opened(again(encoded(lines, quality=100), 100, 100)))[10:-10, 10:-10]
    assert np.abs(found.astype(int) - 128).max() <= 3


def test_the_profile_and_the_exif_block_stay_and_the_rotation_is_not_applied() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees", which annotations of VOC know nothing of
    exif[0x010F] = "a camera"
    content = encoded(scene(30, 40), icc_profile=profile, exif=exif)
    was, found = opened(content), opened(again(content, 20))
    assert found.size == (20, 15)
    assert found.info["icc_profile"] == was.info["icc_profile"] == profile
    assert found.info["exif"] == was.info["exif"]
    assert found.getexif()[0x0112] == 6


@pytest.mark.slow
@given(st.integers(1, 60), st.integers(17, 90), st.sampled_from("LP"), st.data())
def test_a_mask_is_scaled_by_the_pixel_at_each_centre(
    short: int, longer: int, mode: str, data: st.DataObject
) -> None:
    """The reference looks up one pixel after the other."""
    width, height = data.draw(st.sampled_from([(longer, short), (short, longer)]))
    values = np.random.default_rng(short * longer).integers(0, 22, (height, width), np.uint8)
    values[values == 21] = 255
    picture = Image.fromarray(values)
    palette = [(i * 7 + c * 50) % 256 for i in range(256) for c in range(3)]
    if mode == "P":
        picture.putpalette(palette)
    members = {"jpg": encoded(scene(height, width)), "object.png": encoded(picture, "PNG")}
    side = data.draw(st.integers(16, 100))
    made, sample = reencoded(wanted(side), members, sample_of(width, height), place=PLACE)
    found = opened(made["object.png"])
    assert (found.mode, found.size) == (mode, (sample.width, sample.height))
    assert found.size == opened(made["jpg"]).size
    assert found.getpalette() == (palette if mode == "P" else None)
    expected = [
        [
            values[int((y + 0.5) * height / sample.height), int((x + 0.5) * width / sample.width)]
            for x in range(sample.width)
        ]
        for y in range(sample.height)
    ]
    assert np.array(found).tolist() == np.array(expected).tolist()


def test_a_mask_takes_the_exact_pixel_where_sums_of_fractions_miss_it() -> None:
    values = (np.arange(2622) % 251).astype(np.uint8)[None]
    members = {"jpg": encoded(np.zeros((1, 2622), np.uint8))}
    members["class.png"] = encoded(Image.fromarray(values), "PNG")
    made, _ = reencoded(wanted(2393), members, sample_of(2622, 1), place=PLACE)
    assert np.array(opened(made["class.png"]))[0, 1196] == values[0, 1311]


def test_void_keeps_its_value_with_a_short_palette() -> None:
    """Pillow would write two colours with one bit a pixel, and 255 would become 1."""
    values = np.zeros((30, 40), np.uint8)
    values[10:] = 255
    picture = Image.fromarray(values)
    picture.putpalette([0, 0, 0, 200, 100, 50])
    raw = encoded(Image.fromarray(values), "PNG")
    content = _with_palette(raw, bytes([0, 0, 0, 200, 100, 50]))
    assert set(np.unique(np.array(opened(content)))) == {0, 255}
    members = {"jpg": encoded(scene(30, 40)), "class.png": content}
    made, _ = reencoded(wanted(20), members, sample_of(40, 30), place=PLACE)
    found = opened(made["class.png"])
    assert found.mode == "P"
    assert set(np.unique(np.array(found))) == {0, 255}
    assert (found.getpalette() or [])[:6] == [0, 0, 0, 200, 100, 50]


def test_transparent_values_of_a_mask_stay_transparent() -> None:
    picture = Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40) % 21)
    picture.putpalette(list(range(63)))
    members = {"jpg": encoded(scene(30, 40))}
    members["class.png"] = encoded(picture, "PNG", transparency=bytes([0, 128]))
    made, _ = reencoded(wanted(20), members, sample_of(40, 30), place=PLACE)
    assert opened(made["class.png"]).info == {"transparency": bytes([0, 128])}


def test_real_pictures_and_masks_stream_after_scaling(voc_sample: Path) -> None:
    folder = voc_sample / "VOCdevkit" / "VOC2012"
    keys = [path.stem for path in sorted((folder / "SegmentationClass").glob("*.png"))][:8]
    assert keys
    for key in keys:
        members = {
            "jpg": (folder / "JPEGImages" / f"{key}.jpg").read_bytes(),
            "class.png": (folder / "SegmentationClass" / f"{key}.png").read_bytes(),
        }
        sample = sample_of(*opened(members["jpg"]).size)
        made, small = reencoded(wanted(256), members, sample, place=PLACE)
        was, mask = opened(members["class.png"]), opened(made["class.png"])
        assert max(small.width, small.height) == 256
        assert set(np.unique(np.array(mask))) <= set(np.unique(np.array(was)))
        assert mask.getpalette() == was.getpalette()
        assert decode.decode_image(made["jpg"], place=key).shape[1:] == np.array(mask).shape
        assert sum(map(len, made.values())) < sum(map(len, members.values())) / 1.5


def _with_palette(png: bytes, palette: bytes) -> bytes:
    """Turn a grey PNG of 8 bits into one with this palette."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = bytearray(png[16:29])
    header[9] = 3
    return png[:8] + chunk(b"IHDR", bytes(header)) + chunk(b"PLTE", palette) + png[33:]
