"""What `index` and `verify` refuse in one sample."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from shard_tool.dataset.sample_rules import checked_sample
from shard_tool.errors import DataError


def checked(**of_object: Any) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 3)).save(file, "PNG")
    item = {"name": "cat", "label": 1, "bbox": [0, 0, 2, 2]} | of_object
    document = {"key": "a", "width": 4, "height": 3, "objects": [item]}
    members = {"png": file.getvalue(), "json": json.dumps(document).encode()}
    checked_sample("a", members, {"cat": 1}, "t.tar: a")


@pytest.mark.parametrize(
    "rle", [{"size": [3, 4], "counts": [5, 7]}, {"size": [3, 4], "counts": "57"}]
)
def test_run_lengths_of_the_whole_picture_pass(rle: dict[str, Any]) -> None:
    checked(rle=rle)


@pytest.mark.parametrize(
    ("rle", "problem"),
    [
        (
            {"size": [4, 3], "counts": "57"},
            "its run lengths are of 3 x 4 px, the picture has 4 x 3",
        ),
        ({"size": [3, 4], "counts": [5, 6]}, "its run lengths cover 11 of 12 px"),
    ],
)
def test_run_lengths_of_other_pixels_are_refused(rle: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError) as caught:
        checked(rle=rle)
    assert (caught.value.place, caught.value.problem) == ("t.tar: a.json: object 1", problem)
