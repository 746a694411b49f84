"""Compares masks of objects made by our recipes with torchvision's v2 transforms on full masks.

    VOC_SAMPLE_DIR=... .venv-bench/bin/python benchmarks/instances.py [--rounds 7] [--pictures 60]
    python benchmarks/instances.py --toy         # seconds; writes nothing

Pictures are 640 x 480 photographs (made of VOC's, scaled by Lanczos and encoded at quality 90),
objects are drawn as COCO has them: 7.3 in a picture in the mean, few large ones among many small
ones, outlines of 20 to 60 corners, one crowd by run lengths in a hundred objects. Both sides begin
with the bytes of a sample, and end with the tensors that a batch takes, at 300 pixels.

The reference decodes by `torchvision.io.decode_jpeg` or torchcodec, whichever is faster in this
run, makes masks by pycocotools at full size, and applies the same recipe by torchvision's v2. Its
annotations are parsed already; ours are parsed from JSON. One process, one thread. Each round runs
every contender over all pictures and starts with another one. Figures are medians over rounds.
Writes `instances.json` into the results folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.augment import FILL
from benchmarks.augment import torchvision as reference
from benchmarks.data import ARCHIVE
from benchmarks.harness import circumstances
from benchmarks.pixels_contenders import samples
from datamodules import presets
from datamodules.loading.items import annotated_samples, load_item, planned_samples
from datamodules.profiling.batch_cost import Cost
from datamodules.reading.samples import RawSample
from datamodules.transforms.seeding import preserved_generators
from scripts.mini_voc import draw_archive
from shard_tool.format.run_lengths import counts_of_pixels, counts_string
from shard_tool.format.sample import Sample, SampleObject, Source, encode_sample
from shard_tool.keyed_random import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULTS = Path(__file__).parent / "results"
WH = (640, 480)
SIZE = 300
TARGET = 4.0
MEAN_OBJECTS = 7.3
_BATCH = 16


class Known(NamedTuple):
    """A stored sample, and what a user's dataset knows of it before it decodes anything."""

    raw: RawSample
    jpeg: bytes
    boxes: torch.Tensor
    labels: torch.Tensor
    outlines: list[Any]
    """Polygons, or run lengths: COCO's `segmentation`."""


def main() -> None:
    """Measure and write."""
    chosen = _parser().parse_args()
    rounds, count = (1, 4) if chosen.toy else (chosen.rounds, chosen.pictures)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.filterwarnings("ignore", message=".*capabilities of TorchVision are deprecated")
    warnings.filterwarnings("ignore", message="__array__ implementation")
    before = circumstances()
    pictures = [
        _known(number, jpeg) for number, jpeg in enumerate(_jpegs(count, is_toy=chosen.toy))
    ]
    contenders = {
        f"{recipe}, {name}": work
        for recipe, ours, chain in (
            ("flip and resize", presets.retinanet(SIZE), _short_side()),
            ("ssdlite", presets.ssdlite(SIZE), _ssdlite()),
            ("ssd", presets.ssd(SIZE), _ssd()),
        )
        for name, work in {
            "ours": _ours(ours),
            **{
                f"torchvision after {name}": _theirs(decode, chain)
                for name, decode in reference.own_decoders().items()
                if name != "Pillow"
            },
        }.items()
    }
    contenders["decode alone"] = _decode
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for work in contenders.values():
        work(pictures[:2])
    for number in range(rounds):
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn]]:
            begun = time.process_time()
            contenders[name](pictures)
            seconds[name].append((time.process_time() - begun) / len(pictures))
    medians = {name: median(of) for name, of in seconds.items()}
    document: dict[str, Any] = {
        **before,
        "pictures": len(pictures),
        "objects": sum(len(its.labels) for its in pictures),
        "rounds": rounds,
        "cpu_us": {name: of * 1e6 for name, of in medians.items()},
        "ratios": _ratios(medians),
        "target": TARGET,
        "seconds": seconds,
    }
    print(json.dumps({name: document[name] for name in ("cpu_us", "ratios")}, indent=1))
    out = chosen.out or (None if chosen.toy else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "instances.json").write_text(json.dumps(document, indent=1) + "\n")


def _ratios(medians: dict[str, float]) -> dict[str, float]:
    """By recipe, how often ours is as fast as the faster of torchvision's."""
    found = {}
    for name, ours in medians.items():
        recipe, _, kind = name.partition(", ")
        if kind == "ours":
            others = [
                of for other, of in medians.items() if other.startswith(f"{recipe}, torchvision")
            ]
            found[recipe] = min(others) / ours
    return found


# Data ---------------------------------------------------------------------------------------------


def _jpegs(count: int, *, is_toy: bool) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        if is_toy:
            archive = Path(folder) / "devkit.tar"
            draw_archive(archive, num_pictures=12, year="2007")
        else:
            archive = Path(os.environ["VOC_SAMPLE_DIR"]) / ARCHIVE
        stored = [bytes(its.raw.members["jpg"]) for its in samples(archive, "detection", count)]
    found = []
    for jpeg in stored:
        pixels = np.asarray(reference.opened(jpeg).resize(WH, Image.Resampling.LANCZOS))
        found.append(cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1])
    return [content.tobytes() for content in found]


def _known(number: int, jpeg: bytes) -> Known:
    """A sample with drawn objects: sides spread as in COCO, from 8 to 300 pixels."""
    rng = np.random.default_rng(number)
    count = min(40, 1 + int(rng.geometric(1 / MEAN_OBJECTS)) - 1) or 1
    objects, outlines = [], []
    for at in range(count):
        radius = np.exp(rng.uniform(np.log(6), np.log(160)))
        corners = int(rng.integers(20, 61))
        angles = np.sort(rng.random(corners)) * 2 * np.pi
        reach = radius * (0.6 + 0.4 * rng.random(corners))
        middle = rng.random(2) * np.array(WH)
        points = middle + np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None]
        points = np.clip(points, 0, np.array(WH)).round(2)
        (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
        if x1 - x0 < 2 or y1 - y0 < 2:
            continue
        item = {"name": "thing", "label": 1 + at % 20, "bbox": (x0, y0, x1, y1)}
        polygon = points.ravel().tolist()
        if rng.random() < 0.01:
            drawn = cv2.fillPoly(np.zeros(WH[::-1], np.uint8), [points.round().astype(int)], 1)
            counts = counts_string(counts_of_pixels(drawn.astype(bool)))
            rle = {"size": [WH[1], WH[0]], "counts": counts}
            outlines.append(rle)
            objects.append(SampleObject(**item, rle=rle, crowd=True))
        else:
            outlines.append([polygon])
            objects.append(SampleObject(**item, polygons=(tuple(polygon),), crowd=False))
    sample = Sample(
        key=str(number),
        width=WH[0],
        height=WH[1],
        objects=tuple(objects),
        segmented=None,
        image_sets=(),
        source=Source(year="unknown", archive=0),
    )
    members = {"jpg": memoryview(jpeg), "json": memoryview(encode_sample(sample))}
    boxes = torch.tensor([item.bbox for item in objects], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([item.label for item in objects])
    return Known(RawSample("", str(number), members), jpeg, boxes, labels, outlines)


# Contenders ---------------------------------------------------------------------------------------


def _ours(recipe: Any) -> Callable[[Sequence[Known]], None]:
    def work(pictures: Sequence[Known]) -> None:
        cost = Cost()
        for start in range(0, len(pictures), _BATCH):
            some = [its.raw for its in pictures[start : start + _BATCH]]
            keys = [digest_of(("t", raw.key)) for raw in some]
            with preserved_generators():
                found = annotated_samples(
                    some,
                    range(len(some)),
                    task="instances",
                    classes={"thing": 1},
                    cost=cost,
                )
                plans = planned_samples(found, [recipe] * len(some), keys, cost=cost)
                for sample, key in zip(plans, keys, strict=True):
                    load_item(sample, transform=recipe, random_key=key, cost=cost)

    return work


def _theirs(
    decode: Callable[[bytes], torch.Tensor], chain: Any
) -> Callable[[Sequence[Known]], None]:
    def work(pictures: Sequence[Known]) -> None:
        for its in pictures:
            image = tv_tensors.Image(decode(its.jpeg))
            boxes = tv_tensors.BoundingBoxes(its.boxes, format="XYXY", canvas_size=WH[::-1])
            masks = tv_tensors.Mask(_full_masks(its.outlines))
            chain(image, {"boxes": boxes, "labels": its.labels, "masks": masks})

    return work


def _full_masks(outlines: list[Any]) -> torch.Tensor:
    """As torchvision's reference code makes them: uint8 [N, H, W]."""
    height, width = WH[::-1]
    found = np.zeros((len(outlines), height, width), np.uint8)
    for mask, outline in zip(found, outlines, strict=True):
        if isinstance(outline, list):
            runs = coco.merge(coco.frPyObjects(outline, height, width))
        else:
            runs = outline
        mask[...] = coco.decode(runs)
    return torch.from_numpy(found)


def _decode(pictures: Sequence[Known]) -> None:
    for its in pictures:
        reference.decoded(its.jpeg)


def _end(*transforms: Any) -> Any:
    return v2.Compose([*transforms, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes()])


def _short_side() -> Any:
    return _end(v2.RandomHorizontalFlip(), v2.Resize(SIZE, max_size=500, antialias=True))


def _ssdlite() -> Any:
    resize = v2.Resize((SIZE, SIZE), antialias=True)
    return _end(v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), resize)


def _ssd() -> Any:
    zoom = v2.RandomZoomOut(fill={tv_tensors.Image: FILL, "others": 0})
    resize = v2.Resize((SIZE, SIZE), antialias=True)
    return _end(
        v2.RandomPhotometricDistort(), zoom, v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), resize
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--toy", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--out", type=Path, help=f"folder of results ({RESULTS}; a toy: none)")
    return parser


if __name__ == "__main__":
    main()
