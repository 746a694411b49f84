"""Makes up COCO files with all that is odd in them, their datasets, and detections of them."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from shard_tool.format.manifest import Manifest, Split, encode_manifest
from shard_tool.format.sample import Sample, SampleObject, Source, encode_sample
from tests.kit.datasets.stored import shard_written
from tests.kit.datasets.voc_tree import jpeg

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from random import Random

WH = (320, 240)
"""Width and height of every picture."""
_ODD_IDS = (7, 3, 1_000_003, 12, 90, 41, 2, 1, 300, 299)


def coco_document(
    draw: Random, *, first_id: int = 1, num_images: int | None = None
) -> dict[str, Any]:
    """A COCO file: ids with gaps and in no order, crowds, areas unlike the boxes', empty pictures.

    Args:
        draw: The generator to draw from.
        first_id: Of annotations.
        num_images: At most ten; None: one to six.
    """
    count = num_images or draw.randint(1, 6)
    images = [
        {"id": number, "file_name": f"{number:06d}.jpg", "width": WH[0], "height": WH[1]}
        for number in draw.sample(_ODD_IDS, count)
    ]
    categories = [{"id": number, "name": f"c{number}"} for number in draw.sample(range(1, 90), 3)]
    categories.sort(key=lambda its: its["id"])
    digits = draw.choice([0, 2, 15])
    annotations: list[dict[str, Any]] = []
    for image in images:
        for _ in range(draw.randint(0, 5)):
            box = _box(draw, digits)
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": image["id"],
                    "category_id": draw.choice(categories[:2])["id"],  # the third has none
                    "bbox": box,
                    "area": round(box[2] * box[3] * draw.uniform(0.1, 1), 2),
                    "iscrowd": int(draw.random() < 0.2),
                }
            )
    return {"images": images, "categories": categories, "annotations": annotations}


def _box(draw: Random, digits: int) -> list[float]:
    x, y = round(draw.uniform(0, 250), digits), round(draw.uniform(0, 180), digits)
    width, height = (round(draw.uniform(4, side - 2), digits) for side in (WH[0] - x, WH[1] - y))
    return [x, y, width, height]


def results_of(document: dict[str, Any], draw: Random) -> list[dict[str, Any]]:
    """Detections as COCO's results, of quarters of pixels, with equal scores.

    Some pictures have more than a hundred.
    """
    found = []
    for image in document["images"]:
        mine = [item for item in document["annotations"] if item["image_id"] == image["id"]]
        for _ in range(draw.choice([0, 3, 10, 130])):
            truth = draw.choice(mine) if mine and draw.random() < 0.8 else None
            box = truth["bbox"] if truth else _box(draw, 0)
            moved = [round(4 * side + draw.randint(-12, 12)) / 4 for side in box]
            category = truth["category_id"] if truth else draw.choice(document["categories"])["id"]
            found.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [*moved[:2], *(max(side, 0.25) for side in moved[2:])],
                    "score": draw.randint(0, 16) / 16,
                }
            )
    return found


def stored_coco(folder: Path, document: dict[str, Any], *, split: str = "val") -> Path:
    """The dataset of a COCO file, as its reader makes it.

    Args:
        folder: Folder to create.
        document: The file.
        split: The split of its pictures.
    """
    folder.mkdir(parents=True)
    names = {category["id"]: category["name"] for category in document["categories"]}
    labels = {name: label for label, name in enumerate(names.values(), start=1)}
    of_image = defaultdict(list)
    for item in document["annotations"]:
        of_image[item["image_id"]].append(_object(item, names, labels))
    samples = {}
    for image in document["images"]:
        key = image["file_name"].removesuffix(".jpg")
        sample = Sample(
            key=key,
            width=image["width"],
            height=image["height"],
            objects=tuple(of_image[image["id"]]),
            segmented=None,
            image_sets=(),
            source=Source(year="unknown", archive=0),
            file=image["file_name"],
            raw={name: its for name, its in image.items() if name in ("id", "license")},
        )
        samples[key] = {
            "jpg": jpeg((image["width"], image["height"])),
            "json": encode_sample(sample),
        }
    entry = shard_written(folder / f"{split}-000000.tar", samples)
    counted = Counter(item.name for objects in of_image.values() for item in objects)
    manifest = Manifest(
        name="coco",
        task="detection",
        classes=labels,
        sources=({"format": "coco", "class_ids": {name: its for its, name in names.items()}},),
        release="0",
        options={},
        splits={
            split: Split(
                shards=(entry,),
                num_samples=len(samples),
                num_bytes=entry.num_bytes,
                objects=dict(counted),
                difficult={},
            )
        },
    )
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


def _object(item: dict[str, Any], names: dict[int, str], labels: dict[str, int]) -> SampleObject:
    x, y, width, height = map(float, item["bbox"])
    name = names[item["category_id"]]
    return SampleObject(
        name=name,
        label=labels[name],
        bbox=(x, y, x + width, y + height),
        crowd=bool(item["iscrowd"]) or None,
        raw={"id": item["id"], "area": item["area"]},
    )


def predictions_of(
    results: Iterable[dict[str, Any]],
    document: dict[str, Any],
    image_ids: Iterable[int],
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, torch.Tensor]]:
    """COCO's results as a detector returns them, for some images in turn."""
    label = {its["id"]: number for number, its in enumerate(document["categories"], start=1)}
    of_image = defaultdict(list)
    for result in results:
        of_image[result["image_id"]].append(result)
    found = []
    for image_id in image_ids:
        its = of_image[image_id]
        boxes = torch.tensor([result["bbox"] for result in its], dtype=dtype).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([label[result["category_id"]] for result in its], dtype=torch.int64)
        scores = torch.tensor([result["score"] for result in its], dtype=dtype)
        found.append({"boxes": boxes, "labels": labels, "scores": scores})
    return found


def by_pycocotools(document: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """COCO's twelve numbers, by the code of COCO on the file itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        truths, found = COCO(), COCO()
        truths.dataset = json.loads(json.dumps(document))
        truths.createIndex()
        if results:
            found = truths.loadRes(json.loads(json.dumps(results)))
        else:
            found.dataset = {**truths.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truths, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]
