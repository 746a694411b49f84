"""Polygons and run lengths are scaled with their picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shard_tool.errors import DataError
from shard_tool.format.run_lengths import (
    counts_of_pixels,
    counts_string,
    pixels_of_counts,
    run_counts,
)
from shard_tool.format.sample import SampleObject
from shard_tool.pictures.reencode import _scaled_sample, reencoded
from tests.kit.datasets.pictures import encoded, scene, voc_mask
from tests.kit.datasets.reencoding import PLACE, sample_of, wanted

PIXELS = voc_mask()[0] > 0
HEIGHT, WIDTH = PIXELS.shape


def of_runs(counts: Any, size: tuple[int, int] = (HEIGHT, WIDTH)) -> SampleObject:
    return SampleObject(name="dog", label=1, rle={"size": list(size), "counts": counts})


def test_corners_of_polygons_are_scaled_as_boxes_are() -> None:
    polygons = ((0.0, 0.0, 64.0, 0.0, 64.0, 48.0), (1.5, 2.25, 8.0, 3.0, 4.0, 70.0))
    sample = sample_of(64, 48, SampleObject(name="dog", label=1, polygons=polygons))
    _, found = reencoded(wanted(32), {"jpg": encoded(scene(48, 64))}, sample, place=PLACE)
    assert found.objects[0].polygons == tuple(tuple(value / 2 for value in its) for its in polygons)


@pytest.mark.parametrize("is_text", [True, False])
def test_run_lengths_are_scaled_as_masks_are(is_text: bool) -> None:
    """By the pixel under each centre; 'counts' stays what it was, a string or a list."""
    tall = np.kron(PIXELS, np.ones((3, 3), bool))
    counts = counts_of_pixels(tall)
    rle = {
        "size": list(tall.shape),
        "counts": counts_string(counts) if is_text else counts.tolist(),
    }
    sample = sample_of(3 * WIDTH, 3 * HEIGHT, SampleObject(name="dog", label=1, rle=rle))
    members = {"jpg": encoded(scene(3 * HEIGHT, 3 * WIDTH))}
    _, found = reencoded(wanted(max(HEIGHT, WIDTH)), members, sample, place=PLACE)
    made = found.objects[0].rle
    assert made is not None
    assert (made["size"], type(made["counts"])) == ([HEIGHT, WIDTH], str if is_text else list)
    assert np.array_equal(pixels_of_counts(run_counts(made), HEIGHT).T, PIXELS)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (of_runs([HEIGHT * WIDTH], (WIDTH, HEIGHT)), "its run lengths are of 12 x 16 px, its pict"),
        (of_runs([7]), "its run lengths are wrong: the runs have 7 pixels, a picture of 16 x 12"),
        (of_runs("~~"), "its run lengths are wrong: the string is not one of run lengths"),
    ],
)
def test_wrong_run_lengths_are_refused_with_their_object(item: SampleObject, problem: str) -> None:
    sample = sample_of(WIDTH, HEIGHT, item)
    with pytest.raises(DataError) as caught:
        _scaled_sample(sample, (8, 6), PLACE)
    assert str(caught.value).startswith(f"{PLACE}: object 1: {problem}")
