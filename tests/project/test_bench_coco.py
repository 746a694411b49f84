"""`benchmarks/coco.py` at toy size: what it makes is COCO, and every way reads all of it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from benchmarks.coco import FIGURES, OBJECTS, WAYS, make_coco, measured

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("way", WAYS)
def test_every_way_reads_all_objects(tmp_path: Path, way: str) -> None:
    if way == "ijson" and importlib.util.find_spec("ijson") is None:
        pytest.skip("ijson is in the environment of benchmarks alone")
    folder = make_coco(tmp_path / "data", 20)
    made = (folder / "annotations/instances_train2017.json").stat().st_mtime_ns
    result = measured(way, folder)
    assert result["num_objects"] == 20 * OBJECTS
    assert {*FIGURES} < {*result}
    assert make_coco(folder, 20) == folder
    assert (folder / "annotations/instances_train2017.json").stat().st_mtime_ns == made
