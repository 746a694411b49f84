"""Re-encoding decides which pictures change and how large they become, and refuses bad ones."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import PIL
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from datamodules.pixels import decode
from shard_tool.errors import DataError, OptionError
from shard_tool.format import sample
from shard_tool.format.sample import Sample, SampleObject
from shard_tool.pictures import reencode
from shard_tool.pictures.reencode import reencoded
from tests.kit.datasets.pictures import encoded, jpeg_that_claims, scene
from tests.kit.datasets.reencoding import PLACE, opened, sample_of, wanted


def problem_of(members: dict[str, bytes], sample: Sample) -> str:
    with pytest.raises(DataError) as caught:
        reencoded(wanted(20), members, sample, place=PLACE)
    return str(caught.value)


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


def test_a_worker_with_another_encoder_is_refused() -> None:
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


@pytest.mark.slow
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


def test_pixel_limit_equals_the_limit_of_streaming() -> None:
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
def test_wrong_or_damaged_picture_is_named(extension: str, content: bytes, message: str) -> None:
    members = {"jpg": encoded(scene(90, 120)), extension: content}
    place = PLACE if extension == "jpg" else f"{PLACE}: its {extension}"
    assert problem_of(members, sample_of(120, 90)).startswith(f"{place}: {message}")
