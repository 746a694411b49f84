"""Re-encoding scales pictures, and their annotations stay true."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from datamodules.pixels import decode
from shard_tool.errors import DataError, OptionError
from shard_tool.format import sample
from shard_tool.format.sample import Part, Sample, SampleObject, Source
from shard_tool.pictures import reencode
from shard_tool.pictures.reencode import Reencoding, reencoded, scaled_box
from tests.kit.datasets.pictures import by_pillow, encoded, jpeg_that_claims, scene

if TYPE_CHECKING:
    from pathlib import Path

PLACE = "voc.tar: JPEGImages/000005.jpg"


def sample_of(width: int, height: int, *objects: SampleObject) -> Sample:
    return Sample(
        key="000005",
        width=width,
        height=height,
        objects=objects,
        segmented=True,
        image_sets=("Main/train",),
        source=Source(year="2007", archive=0),
    )


def wanted(longer_side: int | None = None, quality: int | None = None) -> Reencoding:
    return Reencoding(longer_side=longer_side, quality=quality)


def again(content: bytes, longer_side: int | None = None, quality: int | None = None) -> bytes:
    """The picture alone."""
    with Image.open(io.BytesIO(content)) as picture:
        sample = sample_of(*picture.size)
    members, _ = reencoded(wanted(longer_side, quality), {"jpg": content}, sample, place=PLACE)
    return members["jpg"]


def problem_of(members: dict[str, bytes], sample: Sample) -> str:
    with pytest.raises(DataError) as caught:
        reencoded(wanted(20), members, sample, place=PLACE)
    return str(caught.value)


def opened(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


# --- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("longer_side", "quality", "message"),
    [
        (15, None, "--resize: 15 px are below 16"),
        (512, 0, "--quality: 0 is not in 1 to 100"),
        (None, 101, "--quality: 101 is not in 1 to 100"),
        (None, None, "--resize: neither a size nor a quality is given"),
    ],
)
def test_options_out_of_range_are_refused(
    longer_side: int | None, quality: int | None, message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        wanted(longer_side, quality)
    assert str(caught.value) == message


def test_description_differs_wherever_bytes_differ() -> None:
    assert wanted(512).describe() == {
        "resize": 512,
        "quality": 90,
        "reencoded": "larger pictures",
        "encoder": reencode.encoder(),
    }
    described = [wanted(*given).describe() for given in [(512, None), (512, 90), (None, 90)]]
    assert len({str(one) for one in described}) == 3


def test_the_encoder_names_the_libraries_that_write_jpeg_and_png() -> None:
    pillow, jpeg, deflate = reencode.encoder().split(", ")
    assert pillow == f"Pillow {PIL.__version__}"
    assert jpeg.startswith("libjpeg")
    assert deflate.startswith("zlib")
    assert "None" not in jpeg + deflate


def test_a_worker_with_another_encoder_refuses_to_mix() -> None:
    """Promise 1 on a cluster: two machines with two versions of a library write other bytes."""
    planned = replace(wanted(20), encoder="Pillow 9.9.9, libjpeg-turbo 1.0, zlib 1.0")
    content = encoded(scene(30, 40))
    with pytest.raises(OptionError) as caught:
        reencoded(
            pickle.loads(pickle.dumps(planned)), {"jpg": content}, sample_of(40, 30), place=""
        )
    assert str(caught.value) == (
        f"--resize, --quality: this process encodes with {reencode.encoder()}, the plan is for "
        "Pillow 9.9.9, libjpeg-turbo 1.0, zlib 1.0; give every worker the same versions"
    )


# --- which pictures, and how large ---------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(16, 5000))
@example(500, 375, 256)
@example(5000, 1, 16)
def test_the_longer_side_is_exact_and_the_shorter_one_is_rounded(
    width: int, height: int, side: int
) -> None:
    fitted = wanted(side).fitted((width, height))
    if max(width, height) <= side:
        assert fitted == (width, height)
        return
    assert max(fitted) == side
    ideal = min(width, height) * side / max(width, height)
    assert min(fitted) == 1 or abs(min(fitted) - ideal) <= 0.5
    assert (fitted[0] >= fitted[1]) == (width >= height) or fitted[0] == fitted[1]


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (16, 16), (39, 1)])
def test_a_picture_that_fits_passes_through_untouched(size: tuple[int, int]) -> None:
    members = {"jpg": encoded(scene(*size[::-1])), "class.png": b"not even opened"}
    sample = sample_of(*size, SampleObject(name="dog", label=12, bbox=(0.0, 0.0, 1.0, 1.0)))
    found, same = reencoded(wanted(40), members, sample, place=PLACE)
    assert (found, same) == (members, sample)


def test_a_quality_reencodes_what_fits_and_leaves_mask_and_annotation_alone() -> None:
    members = {"jpg": encoded(scene(30, 40), quality=97), "class.png": b"not even opened"}
    found, sample = reencoded(wanted(40, 30), members, sample_of(40, 30), place=PLACE)
    assert sample == sample_of(40, 30)
    assert found["class.png"] == members["class.png"]
    assert len(found["jpg"]) < len(members["jpg"])
    assert opened(found["jpg"]).size == (40, 30)


def test_reencoding_twice_changes_nothing_more() -> None:
    mask = encoded(Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40) % 21), "PNG")
    members = {"jpg": encoded(scene(30, 40)), "class.png": mask, "object.png": mask}
    box = SampleObject(name="dog", label=12, bbox=(1.0, 2.0, 30.5, 29.0))
    once = reencoded(wanted(23), members, sample_of(40, 30, box), place=PLACE)
    assert once[0].keys() == members.keys()
    assert all(once[0][name] != members[name] for name in members)
    assert reencoded(wanted(23), *once, place=PLACE) == once


def test_another_process_writes_the_same_bytes() -> None:
    members = {"jpg": encoded(scene(90, 120))}
    members["class.png"] = encoded(Image.fromarray(scene(90, 120, 1)), "PNG")
    code = (
        "import hashlib, pickle, sys\n"
        "from shard_tool.pictures.reencode import reencoded\n"
        "reencoding, members, sample = pickle.load(sys.stdin.buffer)\n"
        "made, _ = reencoded(reencoding, members, sample, place='')\n"
        "print(*[hashlib.sha256(content).hexdigest() for content in made.values()])\n"
    )
    work = (wanted(64, 80), members, sample_of(120, 90))
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, input=pickle.dumps(work), check=True, capture_output=True)
    made, _ = reencoded(*work, place=PLACE)
    expected = [hashlib.sha256(content).hexdigest() for content in made.values()]
    assert run.stdout.decode().split() == expected


# --- pixels --------------------------------------------------------------------------------------


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
def test_the_colours_stay_what_they_were(
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


@given(st.integers(1, 60), st.integers(17, 90), st.sampled_from("LP"), st.data())
def test_a_mask_is_scaled_by_the_pixel_at_each_centre(
    short: int, longer: int, mode: str, data: st.DataObject
) -> None:
    """The reference looks each pixel up, one after the other."""
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
    """Pillow would give two colours one bit, and 255 would come back as 1."""
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


# --- boxes, parts and points ---------------------------------------------------------------------

sides = st.integers(1, 4000)


@st.composite
def box_in_a_picture(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[float, ...]]:
    size = draw(sides), draw(sides)
    spans = []
    for side in size:
        bounds = st.floats(0, side, allow_subnormal=False)
        low, high = sorted(draw(st.lists(bounds, min_size=2, max_size=2, unique=True)))
        if draw(st.booleans()):  # as thin as it can be: scaled down, its sides may become one
            high = math.nextafter(low, math.inf)
        spans.append((low, high))
    (x0, x1), (y0, y1) = spans
    return size, (x0, y0, x1, y1)


@given(box_in_a_picture(), st.integers(16, 4000))
@example(((500, 375), (0.0, 0.0, 500.0, 375.0)), 333)
@example(((38, 38), (0.0, 0.0, 38.0, 38.0)), 21)  # 38 * (21 / 38) is more than 21
@example(((501, 499), (500.99999999999994, 498.99999999999994, 501.0, 499.0)), 500)
def test_a_box_is_scaled_as_the_plain_formula_says_and_stays_inside_and_not_empty(
    case: tuple[tuple[int, int], tuple[float, float, float, float]], side: int
) -> None:
    (width, height), box = case
    new_w, new_h = wanted(side).fitted((width, height))
    x0, y0, x1, y1 = scaled_box(box, (width, height), (new_w, new_h))
    assert 0 <= x0 < x1 <= new_w
    assert 0 <= y0 < y1 <= new_h
    obvious = np.array(box) * ([new_w / width, new_h / height] * 2)
    assert [x0, y0, x1, y1] == pytest.approx(list(obvious), rel=1e-12, abs=1e-12)


def test_boxes_parts_and_points_are_scaled_and_the_rest_stays() -> None:
    box = SampleObject(
        name="person",
        label=15,
        bbox=(10.0, 20.0, 401.0, 375.0),
        difficult=False,
        truncated=True,
        pose="Left",
        parts=(Part(name="hand", bbox=(0.0, 30.0, 500.0, 375.0)),),
        actions={"jumping": True},
    )
    point = SampleObject(name="person", label=15, point=(100.0, 50.0))
    content = encoded(scene(375, 500))
    sample = replace(sample_of(500, 375, box, point), segmented=None)
    _, found = reencoded(wanted(250), {"jpg": content}, sample, place=PLACE)
    assert (found.width, found.height) == (250, 188)  # 187.5 is rounded up: widths shrink more
    y = 188 / 375
    new_box, new_point = found.objects
    (hand,) = new_box.parts or ()
    assert new_box.bbox == pytest.approx((5.0, 20 * y, 200.5, 188.0))
    assert hand.bbox == pytest.approx((0.0, 30 * y, 250.0, 188.0))
    assert new_point.point == pytest.approx((50.0, 50 * y))
    back = (
        replace(new_box, bbox=box.bbox, parts=box.parts),
        replace(new_point, point=point.point),
    )
    assert replace(found, width=500, height=375, objects=back) == sample


def test_a_box_drawn_in_the_picture_lies_at_its_scaled_box() -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[60:180, 100:260] = 255
    item = SampleObject(name="dog", label=12, bbox=(100.0, 60.0, 260.0, 180.0))
    made, sample = reencoded(
        wanted(200), {"jpg": encoded(pixels, quality=95)}, sample_of(400, 300, item), place=PLACE
    )
    rows, columns = np.nonzero(by_pillow(made["jpg"])[..., 0] > 127)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert sample.objects[0].bbox == found


# --- real pictures -------------------------------------------------------------------------------


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


# --- what cannot be re-encoded -------------------------------------------------------------------


def test_limit_of_pixels_is_that_of_streaming() -> None:
    assert sample.MAX_PIXELS == decode.MAX_PIXELS


@pytest.mark.parametrize("size", [(10_000, 8_901), (10_000, 9_000), (60_000, 60_000)])
def test_a_picture_too_large_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    members = {"jpg": jpeg_that_claims(*size)}
    message = problem_of(members, sample_of(*size))
    assert message.startswith(f"{PLACE}: has more than 89,000,000 px")


@given(st.floats(0.0, 1.0, exclude_max=True))
def test_a_picture_cut_anywhere_is_named(share: float) -> None:
    content = encoded(scene(90, 120))
    message = problem_of({"jpg": content[: int(share * len(content))]}, sample_of(120, 90))
    assert message.startswith(f"{PLACE}: ")


@pytest.mark.parametrize(
    ("extension", "content", "message"),
    [
        ("jpg", b"", "not a JPEG picture (0 bytes)"),
        ("jpg", b"<html>moved</html>", "not a JPEG picture (18 bytes)"),
        ("jpg", encoded(scene(90, 120), "PNG"), "not a JPEG picture"),
        ("jpg", encoded(scene(80, 120)), "is 120 x 80 px, its sample 120 x 90"),
        ("class.png", encoded(scene(90, 120)), "not a PNG picture"),
        ("class.png", encoded(scene(90, 120), "PNG"), "a mask has mode 'P' or 'L', this is 'RGB'"),
        ("object.png", encoded(scene(90, 99, 1), "PNG"), "is 99 x 90 px, its sample 120 x 90"),
        ("object.png", encoded(scene(90, 120, 1), "PNG")[:-80], "cannot be re-encoded: "),
    ],
)
def test_file_that_is_no_such_picture_is_named(
    extension: str, content: bytes, message: str
) -> None:
    members = {"jpg": encoded(scene(90, 120)), extension: content}
    place = PLACE if extension == "jpg" else f"{PLACE}: its {extension}"
    assert problem_of(members, sample_of(120, 90)).startswith(f"{place}: {message}")


def _with_palette(png: bytes, palette: bytes) -> bytes:
    """A grey PNG of 8 bits whose header says that its values are colours of a palette."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = bytearray(png[16:29])
    header[9] = 3
    return png[:8] + chunk(b"IHDR", bytes(header)) + chunk(b"PLTE", palette) + png[33:]
