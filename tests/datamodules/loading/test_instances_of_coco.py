"""The masks of a COCO file, converted and read, beside those that pycocotools draws of it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from datamodules import ShardDataset
from tests.kit.datasets.coco_files import written
from tests.kit.datasets.coco_outlines import PER_PICTURE, WH, mixed_outlines, uneven_outlines
from tests.kit.datasets.converted import converted
from tests.kit.datasets.wild import documents
from tests.kit.other_readers import HOW, PYTHON, sets_read_by_others

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kit.datasets.coco_files import Json

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools

GUIDE = {
    5: (0.963, 0.843),
    10: (0.981, 0.930),
    20: (0.990, 0.976),
    40: (0.995, 0.990),
    80: (0.998, 0.995),
    160: (0.999, 0.998),
}
"""Farthest corner to mean and least IoU, as docs/guides/instance-masks.md says."""


def stored(root: Path, document: Json) -> Path:
    """The file and its pictures, and the dataset `out` of it."""
    names = [its["file_name"] for its in document["images"]]
    size = (document["images"][0]["width"], document["images"][0]["height"])
    written(root / "in", {"x.json": document}, names, size)
    converted(root / "in", root / "out")
    return root


def masks_of(dataset: Path, split: str = "train", **options: Any) -> dict[str, np.ndarray]:
    """Stem of a picture's file to the masks of its objects, bool [N, H, W]."""
    data = ShardDataset(str(dataset), split, task="instances", shuffle=False, **options)
    names = {key: Path(its["file"]).stem for key, its in documents(dataset, split).items()}
    return {names[its["key"]]: its["masks"].numpy().astype(bool) for _, its in data}


def by_pycocotools(path: Path, found: dict[str, np.ndarray]) -> Iterator[tuple[Json, Any, Any]]:
    """Each annotation that has an outline, our mask of it, and that of pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(path))
    for shot in theirs.dataset["images"]:
        annotations = theirs.loadAnns(theirs.getAnnIds(imgIds=[shot["id"]]))
        masks = found[Path(shot["file_name"]).stem]
        for annotation, mask in zip(annotations, masks, strict=True):
            if annotation["segmentation"]:  # its `annToMask` raises for none
                yield annotation, mask, theirs.annToMask(annotation).astype(bool)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """1 for two empty masks."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def test_every_run_length_is_the_mask_of_pycocotools(tmp_path: Path) -> None:
    """Lists and texts, also of no pixel and of all pixels: an IoU of 1."""
    root = stored(tmp_path, mixed_outlines(np.random.default_rng(5)))
    kinds = {"list": 0, "str": 0, "polygon": 0}
    for annotation, mask, expected in by_pycocotools(root / "in/x.json", masks_of(root / "out")):
        runs = annotation["segmentation"]
        if isinstance(runs, dict):
            np.testing.assert_array_equal(mask, expected, str(annotation["id"]))
            kinds[type(runs["counts"]).__name__] += 1
        else:
            assert iou(mask, expected) > 0.8
            kinds["polygon"] += 1
    assert kinds == {"list": 15, "str": 15, "polygon": 60}


@pytest.mark.slow
@pytest.mark.parametrize("radius", GUIDE)
def test_polygons_are_as_near_to_pycocotools_as_the_guide_says(tmp_path: Path, radius: int) -> None:
    """Drawn anew, 200 outlines have the guide's figures, but for what the draw changes."""
    root = stored(tmp_path, uneven_outlines(np.random.default_rng(14), radius, 200))
    pairs = [its[1:] for its in by_pycocotools(root / "in/x.json", masks_of(root / "out"))]
    found = [iou(*pair) for pair in pairs]
    mean, least = GUIDE[radius]
    assert len(found) == 200
    assert np.mean(found) > mean - 0.002
    assert min(found) > least - 0.01
    assert np.mean([ours.sum() / theirs.sum() for ours, theirs in pairs]) == pytest.approx(1, 2e-3)


@pytest.mark.slow
def test_real_masks_beside_those_of_pycocotools(tmp_path: Path, voc_sample: Path) -> None:
    """Objects that have an outline, of Roboflow's ten frames."""
    root, found = voc_sample.parent / "data/sharks-tiny-coco", []
    if not root.exists():
        pytest.skip("no sharks-tiny-coco beside VOC_SAMPLE_DIR, in data")
    converted(root, tmp_path / "out")
    for split, word in (("train", "train"), ("val", "valid"), ("test", "test")):
        masks = masks_of(tmp_path / "out", split, unmasked="box")
        path = root / f"{word}/_annotations.coco.json"
        found += [iou(*its[1:]) for its in by_pycocotools(path, masks)]
    assert len(found) == 17
    assert min(found) > 0.9  # an object of 6 x 7 px
    assert np.mean(found) > 0.98


# Other people's readers ---------------------------------------------------------------------------


def pixels_of(runs: list[int], size_hw: tuple[int, int]) -> np.ndarray:
    """Of column-wise run lengths that begin with zeros."""
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size_hw[::-1]).T


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason=HOW)
def test_masks_beside_those_of_supervision(tmp_path: Path) -> None:
    """Run lengths are equal.

    supervision takes rounded corners for numbers of pixels, which moves an outline by up to a
    pixel to the right and down, and it fills the outline's own pixels too. So it has more than we
    and pycocotools, up to two pixels beyond our border, and lacks only pixels along it.
    """
    document = mixed_outlines(np.random.default_rng(6))
    root = stored(tmp_path, document)
    found = masks_of(root / "out")
    (others,) = sets_read_by_others("coco", [[root / "in/x.json"]])
    theirs = {
        key: [pixels_of(runs, WH[::-1]) for runs in its]
        for key, its in others["supervision masks"].items()
    }
    excess = []
    for number, its in enumerate(document["annotations"]):
        key, at = f"p{number // PER_PICTURE}", number % PER_PICTURE
        ours, other = found[key][at], theirs[key][at]
        if isinstance(its["segmentation"], dict):
            np.testing.assert_array_equal(ours, other)
        else:
            square = np.ones((3, 3), np.uint8)
            grown = cv2.dilate(ours.astype(np.uint8), square, iterations=2) > 0
            shrunk = cv2.erode(ours.astype(np.uint8), square) > 0
            assert not (other & ~grown).any()
            assert not (shrunk & ~other).any()
            excess.append(other.sum() / ours.sum())
    assert len(excess) == 60
    assert min(excess) > 1
