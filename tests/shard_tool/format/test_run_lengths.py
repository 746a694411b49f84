"""COCO's run lengths are read and written as pycocotools does, and wrong ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from shard_tool.format.run_lengths import (
    counts_of_pixels,
    counts_string,
    pixels_of_counts,
    run_counts,
)


@given(st.integers(1, 70), st.integers(1, 70), st.floats(0, 1), st.integers(0, 2**32))
def test_masks_are_those_of_pycocotools(height: int, width: int, share: float, seed: int) -> None:
    pixels = np.random.default_rng(seed).random((height, width)) < share
    written = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()
    counts = counts_of_pixels(pixels)
    assert counts_string(counts) == written
    for given_counts in (written, counts.tolist()):
        found = run_counts({"size": [height, width], "counts": given_counts})
        assert found.dtype == np.int64
        assert found.tolist() == counts.tolist()
    assert np.array_equal(pixels_of_counts(counts, height).T, pixels)


def test_large_pictures_have_numbers_of_several_characters() -> None:
    pixels = np.zeros((4000, 5000), bool)
    pixels[:, 100:4900] = True
    text = counts_string(counts_of_pixels(pixels))
    counts = run_counts({"size": [4000, 5000], "counts": text})
    assert counts.tolist() == [400_000, 19_200_000, 400_000]


def test_runs_of_no_length_may_stand_anywhere() -> None:
    counts = run_counts({"size": [2, 3], "counts": [0, 0, 2, 0, 1, 3, 0]})
    assert pixels_of_counts(counts, 2).tolist() == [[0, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ([3, 4], "the runs have 7 pixels, a picture of 3 x 2 has 6"),
        ([], "the runs have 0 pixels, a picture of 3 x 2 has 6"),
        ("", "the runs have 0 pixels, a picture of 3 x 2 has 6"),
        ([7, -1], "some run is shorter than 0"),
        ([6, 2**80], "some run is longer than any picture"),
        ("6 ", "not one of run lengths"),
        ("é", "not one of run lengths"),
        ("o", "not one of run lengths"),
        ("oooooooo1", "not one of run lengths"),
    ],
)
def test_wrong_runs_are_refused(counts: list[int] | str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        run_counts({"size": [2, 3], "counts": counts})


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        counts = run_counts({"size": [4, 4], "counts": text})
    except ValueError:
        return
    assert counts.sum() == 16
    assert (counts >= 0).all()
