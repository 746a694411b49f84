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
from dataclasses import replace
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
from datamodules.targets import annotated, load_item, planned
from shard_tool import ConvertOptions, convert
from shard_tool.keyed import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datamodules.targets import Annotated, Item

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
    decoded_once = [
        decode_image(sample.raw.members["jpg"], place="") for sample in boxes[: len(boxes) // 4]
    ]
    contenders: dict[str, Callable[[], None]] = {
        "decode": lambda: decoded(boxes),
        "ssd": lambda: loaded(boxes, presets.ssd(300)),
        "ssd, torchvision": lambda: loaded(boxes, SSD),
        "ssdlite": lambda: loaded(boxes, presets.ssdlite(320)),
        "ssdlite, torchvision": lambda: loaded(boxes, SSDLITE),
        "resize 300": lambda: loaded(boxes, presets.detection_eval(300)),
        "resize 300, torchvision": lambda: loaded(boxes, v2.Resize((300, 300), antialias=True)),
        "resize 300, fast": lambda: loaded(boxes, fast(300)),
        "resize 224": lambda: loaded(boxes, presets.detection_eval(224)),
        "resize 224, fast": lambda: loaded(boxes, fast(224)),
        "resize alone": lambda: resized(decoded_once),
        "segmentation": lambda: loaded(masks, presets.segmentation_train(256)),
        "segmentation, torchvision": lambda: loaded(masks, SEGMENTATION),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for round_number in range(chosen.rounds):
        for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
            begun = time.perf_counter()
            contenders[name]()
            count = {"segmentation": len(masks), "resize alone": len(decoded_once)}.get(
                name.partition(",")[0], len(boxes)
            )
            seconds[name].append((time.perf_counter() - begun) / count)
    rates = {name: 1 / median(found) for name, found in seconds.items()}
    ratios = {
        "ssd / torchvision (target 8)": rates["ssd"] / rates["ssd, torchvision"],
        "ssd / decoding alone (target 0.5)": rates["ssd"] / rates["decode"],
        "ssdlite / torchvision": rates["ssdlite"] / rates["ssdlite, torchvision"],
        "resize 300 / decoding alone (target 0.6)": rates["resize 300"] / rates["decode"],
        "the bound of that": 1 / (1 + rates["decode"] / rates["resize alone"]),
        "resize 300, fast / decoding alone": rates["resize 300, fast"] / rates["decode"],
        "resize 224 / decoding alone": rates["resize 224"] / rates["decode"],
        "resize 224, fast / decoding alone (target 0.85)": rates["resize 224, fast"]
        / rates["decode"],
        "segmentation / torchvision (target 4)": rates["segmentation"]
        / rates["segmentation, torchvision"],
    }
    report: dict[str, Any] = {
        **circumstances(),
        "pictures": len(boxes),
        "with_masks": len(masks),
        "samples_per_s": rates,
        "ratios": ratios,
        "levels_by_which_fast_differs": {
            size: difference(boxes, presets.detection_eval(size), fast(size)) for size in (224, 300)
        },
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
    for _ in items(found, transform):
        pass


def items(found: list[Annotated], transform: Any) -> Iterator[Item]:
    """One by one, but what a recipe draws for a batch of 16 first."""
    cost, keys = Cost(), [digest_of((number,)) for number in range(len(found))]
    with preserved_generators():
        for first in range(0, len(found), 16):
            batch = [
                planned(sample, transform=transform, random_key=key)
                for sample, key in zip(found[first : first + 16], keys[first:], strict=False)
            ]
            for sample, key in zip(batch, keys[first:], strict=False):
                yield load_item(sample, transform=transform, random_key=key, cost=cost)


def fast(size: int) -> Any:
    """Evaluation with quick decoding."""
    return replace(presets.detection_eval(size), decode="fast")


def resized(pictures: list[torch.Tensor]) -> None:
    """Decoded pictures, to 300 x 300: what no pipeline can be faster at by these means."""
    for picture in pictures:
        v2.functional.resize(picture, [300, 300], antialias=True)


def difference(found: list[Annotated], one: Any, other: Any) -> dict[str, float]:
    """Mean over pictures of the mean difference, and of the worst picture."""
    pairs = zip(items(found, one), items(found, other), strict=True)
    means = [float((a.image.float() - b.image.float()).abs().mean()) for a, b in pairs]
    return {"mean": sum(means) / len(means), "worst_picture": max(means)}


if __name__ == "__main__":
    main()
