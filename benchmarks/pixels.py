"""Fused recipes beside torchvision's own, and both beside decoding alone, on real photographs.

    VOC_SAMPLE_DIR=... python benchmarks/pixels.py [--rounds 7] [--pictures 200]

One core. Each round runs every contender over the same pictures, beginning with another one each
time. Figures are medians over rounds; ratios are of medians. Writes `pixels.json` into the results
folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.harness import circumstances
from datamodules import ShardDataset, presets
from datamodules.cost import Cost
from datamodules.decode import decode_image
from datamodules.randomness import preserved_generators
from datamodules.shards import RawSample
from datamodules.targets import annotated, load_item
from shard_tool import ConvertOptions, convert
from shard_tool.keyed import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from datamodules.targets import Annotated

RESULTS = Path(__file__).parent / "results/pixels.json"

SSD = v2.Compose(
    [
        v2.RandomPhotometricDistort(),
        v2.RandomZoomOut(fill={tv_tensors.Image: (123, 117, 104), "others": 0}),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.Resize((300, 300), antialias=True),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(),
    ]
)
SSDLITE = v2.Compose(
    [
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.Resize((320, 320), antialias=True),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(),
    ]
)
SEGMENTATION = v2.Compose(
    [
        v2.RandomResizedCrop((256, 256), scale=(0.5, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
    ]
)
"""torchvision's recipes, on pictures by the same decoder: they differ in the transform alone."""


def main() -> None:
    """Measure and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--pictures", type=int, default=200)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    boxes, masks = samples(chosen.pictures)
    contenders: dict[str, Callable[[], None]] = {
        "decode": lambda: decoded(boxes),
        "ssd": lambda: loaded(boxes, presets.ssd(300)),
        "ssd, torchvision": lambda: loaded(boxes, SSD),
        "ssdlite": lambda: loaded(boxes, presets.ssdlite(320)),
        "ssdlite, torchvision": lambda: loaded(boxes, SSDLITE),
        "resize 300": lambda: loaded(boxes, presets.detection_eval(300)),
        "resize 300, torchvision": lambda: loaded(boxes, v2.Resize((300, 300), antialias=True)),
        "segmentation": lambda: loaded(masks, presets.segmentation_train(256)),
        "segmentation, torchvision": lambda: loaded(masks, SEGMENTATION),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for round_number in range(chosen.rounds):
        for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
            begun = time.perf_counter()
            contenders[name]()
            count = len(masks) if name.startswith("segmentation") else len(boxes)
            seconds[name].append((time.perf_counter() - begun) / count)
    rates = {name: 1 / median(found) for name, found in seconds.items()}
    ratios = {
        "ssd / torchvision (target 8)": rates["ssd"] / rates["ssd, torchvision"],
        "ssd / decoding alone (target 0.5)": rates["ssd"] / rates["decode"],
        "ssdlite / torchvision": rates["ssdlite"] / rates["ssdlite, torchvision"],
        "resize 300 / decoding alone (target 0.6)": rates["resize 300"] / rates["decode"],
        "segmentation / torchvision (target 4)": rates["segmentation"]
        / rates["segmentation, torchvision"],
    }
    report: dict[str, Any] = {
        **circumstances(),
        "pictures": len(boxes),
        "with_masks": len(masks),
        "samples_per_s": rates,
        "ratios": ratios,
        "seconds": seconds,
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    for name, rate in rates.items():
        print(f"{name:30} {rate:8.0f} samples/s")
    for name, ratio in ratios.items():
        print(f"{name:45} {ratio:6.2f}")


def samples(count: int) -> tuple[list[Annotated], list[Annotated]]:
    """Photographs with boxes, and ones with masks."""
    archive = Path(os.environ["VOC_SAMPLE_DIR"]) / "VOCtrainval_sample-2007.tar"
    found = []
    for task in ("detection", "segmentation"):
        with tempfile.TemporaryDirectory() as folder:
            convert(ConvertOptions(source=str(archive), dest=f"{folder}/voc", task=task, workers=1))
            raws = islice(ShardDataset(f"{folder}/voc", "trainval", decode=False), count)
            found.append([_annotated(sample, task) for sample in raws])
    return found[0], found[1]


def _annotated(sample: dict[str, Any], task: str) -> Annotated:
    members = {name: memoryview(sample[name]) for name in sample if not name.startswith("__")}
    raw = RawSample(sample["__url__"], sample["__key__"], members)
    return annotated(raw, sample_id=0, task=task)


def decoded(found: list[Annotated]) -> None:
    """The pictures alone."""
    for sample in found:
        decode_image(sample.raw.members["jpg"], place="")


def loaded(found: list[Annotated], transform: Any) -> None:
    """Samples as a worker makes them."""
    cost = Cost()
    with preserved_generators():
        for number, sample in enumerate(found):
            load_item(sample, transform=transform, random_key=digest_of((number,)), cost=cost)


if __name__ == "__main__":
    main()
