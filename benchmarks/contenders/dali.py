"""NVIDIA DALI on the CPU: SSD's recipe in its own operators, as its SSD example puts them.

What zooming out puts around a picture is not drawn on a canvas: the crop reaches beyond the
picture, which `slice` fills. Its IoU crop keeps boxes by their centre, as SSD's does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from benchmarks.augment import FILL
from benchmarks.work import BATCH, SIZE, WORKERS, Passes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from benchmarks.data import Data


def make(data: Data) -> None:
    """Write our annotations as COCO's JSON, for its reader; its pictures are the loose files."""
    path = _annotations(data)
    if path.exists():
        return
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, (key, _, text) in enumerate(data.samples()):
        sample = json.loads(text)
        size = {"width": sample["width"], "height": sample["height"]}
        images.append({"id": number, "file_name": f"{key}.jpg", **size})
        for item in sample["objects"]:
            x0, y0, x1, y1 = item["bbox"]
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            label = {"category_id": item["label"], "image_id": number, "id": len(annotations)}
            annotations.append({**box, **label})
    categories = [{"id": label, "name": str(label)} for label in range(1, 21)]
    path.parent.mkdir(exist_ok=True)
    document = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document))


def augmented(data: Data) -> Iterable[Any]:
    """The loader of `loaders.py`, with its own recipe."""
    pipeline = _ssd(
        data, batch_size=BATCH, num_threads=WORKERS, device_id=None, prefetch_queue_depth=2
    )
    pipeline.build()
    return Passes(lambda: _batches(pipeline))


def _annotations(data: Data) -> Path:
    return data.copy_of("dali") / "instances.json"


def _batches(pipeline: Any) -> Iterator[Any]:
    """Without end: its reader begins anew."""
    while True:
        images, boxes, labels = (found.as_cpu() for found in pipeline.run())
        pictures = torch.from_numpy(images.as_array().copy())  # its memory is used again
        targets = [
            {
                "boxes": torch.from_numpy(np.array(boxes.at(at)) * SIZE),
                "labels": torch.from_numpy(np.array(labels.at(at), np.int64)),
            }
            for at in range(len(labels))
        ]
        yield pictures, targets


@pipeline_def
def _ssd(data: Data) -> Any:
    jpegs, boxes, labels = fn.readers.coco(
        file_root=str(data.loose / "VOCdevkit/VOC2007/JPEGImages"),
        annotations_file=str(_annotations(data)),
        ltrb=True,
        ratio=True,
        shuffle_after_epoch=True,
        name="reader",
    )
    # Zooming out: a canvas of 1 to 4 times the size, the picture anywhere on it, in half of them.
    times = _in_half(fn.random.uniform(range=(1.0, 4.0)), 1.0)
    place = fn.random.uniform(range=(0.0, 1.0), shape=(2,))
    boxes = fn.bbox_paste(boxes, ratio=times, paste_x=place[0], paste_y=place[1], ltrb=True)
    start, shape, boxes, labels = fn.random_bbox_crop(
        boxes,
        labels,
        aspect_ratio=[0.5, 2.0],
        thresholds=[0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0],
        scaling=[0.3, 1.0],
        bbox_layout="xyXY",
        allow_no_crop=True,
        num_attempts=40,
    )
    pictures = fn.slice(
        fn.decoders.image(jpegs, output_type=types.RGB),
        start * times - place * (times - 1.0),
        shape * times,
        axis_names="WH",
        out_of_bounds_policy="pad",
        fill_values=list(FILL),
    )
    flips = fn.random.coin_flip(probability=0.5)
    pictures = fn.resize(pictures, size=(SIZE, SIZE), antialias=True)
    pictures = fn.flip(pictures, horizontal=flips)
    pictures = fn.color_twist(
        pictures,
        brightness=_in_half(fn.random.uniform(range=(0.875, 1.125)), 1.0),
        contrast=_in_half(fn.random.uniform(range=(0.5, 1.5)), 1.0),
        saturation=_in_half(fn.random.uniform(range=(0.5, 1.5)), 1.0),
        hue=_in_half(fn.random.uniform(range=(-18.0, 18.0)), 0.0),
    )
    pictures = fn.transpose(pictures, perm=[2, 0, 1])
    return pictures, fn.bb_flip(boxes, horizontal=flips, ltrb=True), labels


def _in_half(drawn: Any, usual: float) -> Any:
    """What was drawn in half of the samples, else what changes nothing."""
    return usual + (drawn - usual) * fn.random.coin_flip(probability=0.5)
