"""pycocotools reads from the original JSON what samples say of it."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO

from shard_tool.format.run_lengths import pixels_of_counts, run_counts
from tests.kit.datasets.coco_files import SIZE, coco, image, thing, written
from tests.kit.datasets.converted import converted
from tests.kit.datasets.wild import documents

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, HEIGHT = SIZE

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools


def drawn(random: Random) -> dict[str, Any]:
    """Two hundred objects on forty images: boxes, polygons and run lengths of both kinds."""
    images = [image(7 * number + 3, f"{number:03d}.jpg") for number in range(40)]
    things = []
    for number in range(200):
        x, y = random.uniform(0, 12), random.uniform(0, 6)
        box = [x, y, random.uniform(1, 7), random.uniform(1, 3)]
        its = thing(900 - number, random.choice(images)["id"], random.randint(1, 2), box, area=x)
        pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        pixels[random.randrange(9) :, random.randrange(19) :] = 1
        pixels[random.randrange(10), random.randrange(20)] ^= 1
        runs = mask.encode(pixels)
        flat = pixels.flatten(order="F")
        ends = [*(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
        counts = np.diff([0, *([0] * int(flat[0])), *ends]).tolist()
        its["segmentation"] = random.choice(
            [
                [],
                [[random.uniform(0, 9) for _ in range(8)]],
                {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()},
                {"size": [HEIGHT, WIDTH], "counts": counts},
            ]
        )
        its["iscrowd"] = int(type(its["segmentation"]) is dict)
        things.append(its)
    return coco(images, things)


def test_samples_say_what_pycocotools_reads(tmp_path: Path) -> None:
    document = drawn(Random(3))
    names = [its["file_name"] for its in document["images"]]
    source = written(tmp_path / "in", {"instances_val.json": document}, names)
    converted(source, tmp_path / "out")
    theirs = COCO(str(source / "instances_val.json"))
    class_names = {its["id"]: its["name"] for its in theirs.dataset["categories"]}
    found = documents(tmp_path / "out", "val")
    assert len(found) == 40
    num_masks = 0
    for its in found.values():
        expected = theirs.loadAnns(theirs.getAnnIds(imgIds=[its["raw"]["id"]]))
        assert [one["raw"]["id"] for one in its["objects"]] == [one["id"] for one in expected]
        for one, other in zip(its["objects"], expected, strict=True):
            x, y, width, height = other["bbox"]
            assert one["bbox"] == [x, y, x + width, y + height]
            assert one["name"] == class_names[other["category_id"]]
            assert (one["raw"]["area"], one["crowd"]) == (other["area"], other["iscrowd"] == 1)
            assert one.get("polygons", []) or one.get("rle", []) == other["segmentation"]
            if "rle" in one:
                counts = run_counts(one["rle"])
                pixels = pixels_of_counts(counts, HEIGHT).T
                np.testing.assert_array_equal(pixels, theirs.annToMask(other))
                num_masks += 1
    assert num_masks > 50


def test_a_missing_box_is_that_of_pycocotools(tmp_path: Path) -> None:
    document = drawn(Random(4))
    things = [its for its in document["annotations"] if type(its["segmentation"]) is dict]
    for its in things:
        del its["bbox"]
    document["annotations"] = things
    names = [its["file_name"] for its in document["images"]]
    converted(written(tmp_path / "in", {"x.json": document}, names), tmp_path / "out")
    boxes = {
        one["raw"]["id"]: one["bbox"]
        for its in documents(tmp_path / "out").values()
        for one in its["objects"]
    }
    for its in json.loads(json.dumps(things)):
        rle = its["segmentation"]
        if type(rle["counts"]) is list:
            rle = mask.frPyObjects(rle, HEIGHT, WIDTH)
        x, y, width, height = mask.toBbox(rle)
        assert boxes[its["id"]] == [x, y, x + width, y + height]
