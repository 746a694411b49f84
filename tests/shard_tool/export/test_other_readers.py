"""Other people's readers find in what we export the boxes that our samples hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.kit.agreement import assert_agrees, objects_of
from tests.kit.datasets.coco_files import written
from tests.kit.datasets.coco_outlines import WH, mixed_outlines
from tests.kit.datasets.converted import converted
from tests.kit.datasets.exports import exported
from tests.kit.datasets.wild import documents
from tests.kit.other_readers import HOW, PYTHON, read_by_others, sets_read_by_others

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason=HOW)]

ATOL = 1e-4
"""Of supervision's float32, in pixels."""


@pytest.fixture(scope="module")
def outlined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO set of polygons and crowds as `in`, converted as `out`. Read only."""
    root = tmp_path_factory.mktemp("outlined")
    document = mixed_outlines(np.random.default_rng(7), has_texts=False)
    written(root / "in", {"x.json": document}, [its["file_name"] for its in document["images"]], WH)
    converted(root / "in", root / "out")
    return root


def json_of(out: Path, split: str) -> list[Path]:
    return [out / f"annotations/instances_{split}.json"]


def folders_of(out: Path, split: str) -> list[Path | str]:
    return [out / f"images/{split}", out / f"labels/{split}", out / "data.yaml", split]


# VOC's sets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["coco", "yolo"])
def test_voc_as_coco_and_as_yolo(mini_dataset: Path, tmp_path: Path, format_: str) -> None:
    exported(mini_dataset, tmp_path / "out", format_)
    place = json_of if format_ == "coco" else folders_of
    places = [place(tmp_path / "out", split) for split in ("train", "val")]
    readings = sets_read_by_others(format_, places)
    for split, others in zip(("train", "val"), readings, strict=True):
        found = objects_of(mini_dataset, split)
        assert len(found) > 10
        assert_agrees(found, others["supervision"], atol=ATOL)
        assert_agrees(found, others["labelformat"], atol=0 if format_ == "coco" else 1e-9)


def test_voc_as_voc(mini_dataset: Path, tmp_path: Path) -> None:
    """From 1, both corners inside, as the devkit has them and as supervision reads them."""
    exported(mini_dataset, tmp_path / "out", "voc")
    others = read_by_others(tmp_path / "out/JPEGImages", tmp_path / "out/Annotations")
    assert_agrees(objects_of(mini_dataset), others["supervision"])


# COCO's sets --------------------------------------------------------------------------------------


def test_coco_as_coco(outlined: Path, tmp_path: Path) -> None:
    """All four readings are those of the original file, masks and outlines too."""
    exported(outlined / "out", tmp_path / "out", "coco")
    places = [[outlined / "in/x.json"], json_of(tmp_path / "out", "train")]
    original, again = sets_read_by_others("coco", places)
    assert original == again
    assert_agrees(objects_of(outlined / "out"), again["labelformat"], atol=0)


def test_coco_as_yolo(outlined: Path, tmp_path: Path) -> None:
    """YOLO has no crowds. labelformat reads no polygon as a box, so it gets boxes alone."""
    found = {
        key: [[its["name"], *its["bbox"]] for its in one["objects"] if not its.get("crowd")]
        for key, one in documents(outlined / "out").items()
    }
    assert sum(map(len, found.values())) == 60
    exported(outlined / "out", tmp_path / "polygons", "yolo")
    exported(outlined / "out", tmp_path / "boxes", "yolo", shapes="boxes")
    places = [folders_of(tmp_path / shapes, "train") for shapes in ("polygons", "boxes")]
    of_polygons, of_boxes = sets_read_by_others("yolo", places)
    for others in (of_polygons, of_boxes):
        assert_agrees(found, others["supervision"], atol=ATOL)
    assert_agrees(found, of_boxes["labelformat"], atol=1e-9)


def test_coco_as_voc(outlined: Path, tmp_path: Path) -> None:
    """Own classes: corners as they are, which is what labelformat reads."""
    exported(outlined / "out", tmp_path / "out", "voc")
    others = read_by_others(tmp_path / "out/JPEGImages", tmp_path / "out/Annotations")
    assert_agrees(objects_of(outlined / "out"), others["labelformat"])
