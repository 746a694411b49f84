"""Compares decoding on workers and on the device: pictures per second, and how long a model waits.

    VOC_SAMPLE_DIR=... python benchmarks/device.py [--rounds 5] [--batches 40] [--batch-size 32]
    python benchmarks/device.py --toy    # drawn pictures, a small detector: whether it runs

SSD's recipe at 300 x 300 runs in three ways that take turns, with one worker per core: everything
on the workers, colours on the device, or decoding and all else on the device. Each way runs without
a model, and then with a training step of torchvision's SSD300 for each batch. The stall is the time
that such a step takes longer than a step on a batch that is already there. Figures are medians over
rounds.

Writes `device.json` into the results folder if there is a CUDA device. Without one it only prints,
and says that its figures are of a CPU: they show that the same code runs, and nothing about GPUs.
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
from torchvision.models import detection

from benchmarks.harness import circumstances
from datamodules import ShardDataset, ShardLoader, presets
from datamodules.loading.on_device import check_decoder, finish
from scripts.mini_voc import draw_archive
from shard_tool import ConvertOptions, convert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from datamodules import Batch

    Step = Callable[[Batch], None]

RESULTS = Path(__file__).parent / "results/device.json"
WAYS: dict[str, dict[str, str]] = {
    "workers": {},
    "colours on the device": {"recolor_on": "device"},
    "all on the device": {"decode": "cuda"},
}
"""What is left to the device, by name."""


def main() -> None:
    """Measure, print, and write where there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--toy", action="store_true")
    chosen = parser.parse_args()
    if chosen.toy:
        chosen.rounds, chosen.batches, chosen.batch_size = 1, 2, 2
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    if has_gpu:
        check_decoder(device)
    with tempfile.TemporaryDirectory() as folder:
        root = dataset(Path(folder), is_drawn=chosen.toy)
        found = measured(root, device, chosen)
    report = {**circumstances(), "device": device_name(device), "settings": vars(chosen), **found}
    print(json.dumps(found, indent=1))
    if has_gpu:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    else:
        print("no CUDA device: figures of a CPU, not written; pinned memory was not measured")


def measured(root: Path, device: torch.device, chosen: argparse.Namespace) -> dict[str, Any]:
    """All cases."""
    lying = ready_batch(root, device, chosen.batch_size)
    step = training_step(device, is_small=chosen.toy)
    cases: dict[str, Callable[[], float]] = {
        "step alone": lambda: rate([lying] * chosen.batches, step, device)
    }
    for name, left in WAYS.items():
        batches = Batches(root, device, left, chosen)
        cases[f"{name}, no model"] = lambda batches=batches: rate(batches, nothing, device)
        cases[f"{name}, training"] = lambda batches=batches: rate(batches, step, device)
    rates: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(chosen.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rates[name].append(cases[name]())
            print(f"  {name}: {rates[name][-1]:.1f} pictures/s", file=sys.stderr, flush=True)
    middle = {name: median(values) for name, values in rates.items()}
    alone = middle["step alone"]
    return {
        "pictures_per_s": middle,
        "stall_share": {way: max(0.0, 1 - middle[f"{way}, training"] / alone) for way in WAYS},
        "hand_over_gb_per_s": hand_over(lying.pixels.nbytes, device),
        "runs": rates,
    }


class Batches:
    """Iterates over finished batches again and again, from the same workers."""

    def __init__(
        self, root: Path, device: torch.device, left: dict[str, str], chosen: argparse.Namespace
    ) -> None:
        recipe = replace(presets.ssd(300), **left)  # type: ignore[arg-type]
        self.loader = ShardLoader(
            ShardDataset(str(root), "trainval", transform=recipe),
            batch_size=chosen.batch_size,
            num_workers=len(os.sched_getaffinity(0)),
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )
        self.device, self.count = device, chosen.batches

    def __iter__(self) -> Iterator[Batch]:
        for batch in islice(self.loader, self.count):
            yield finish(batch.to(self.device, non_blocking=True))


def rate(batches: Iterable[Batch], step: Step, device: torch.device) -> float:
    """Pictures per second from the second batch on; the first waits for workers to start."""
    count, begun = 0, 0.0
    for number, batch in enumerate(batches):
        step(batch)
        if number == 0:
            settled(device)
            begun = time.perf_counter()
        else:
            count += len(batch)
    settled(device)
    return count / (time.perf_counter() - begun)


def nothing(batch: Batch) -> None:
    """Do nothing: no model."""


def training_step(device: torch.device, *, is_small: bool) -> Step:
    """Run forward, backward and optimizer of a real detector with random weights."""
    make = detection.ssdlite320_mobilenet_v3_large if is_small else detection.ssd300_vgg16
    model = make(weights=None, weights_backbone=None, num_classes=21).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(batch: Batch) -> None:
        images, targets = batch
        losses = model(images, [{k: t[k] for k in ("boxes", "labels")} for t in targets])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


def hand_over(num_bytes: int, device: torch.device) -> dict[str, float] | None:
    """Copying speed from host memory to the device in GB/s, pinned and not; None on a CPU."""
    if device.type != "cuda":
        return None
    found = {}
    memory = torch.empty(num_bytes, dtype=torch.uint8)
    for name, source in {"not pinned": memory, "pinned": memory.pin_memory()}.items():
        times = []
        for _ in range(20):
            settled(device)
            begun = time.perf_counter()
            source.to(device, non_blocking=True)
            settled(device)
            times.append(time.perf_counter() - begun)
        found[name] = num_bytes / median(times) / 1e9
    return found


def ready_batch(root: Path, device: torch.device, batch_size: int) -> Batch:
    """Return a batch that is on the device already."""
    data = ShardDataset(str(root), "trainval", transform=presets.ssd(300))
    return finish(next(iter(ShardLoader(data, batch_size=batch_size))).to(device))


def settled(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """Name of the device, without which a figure means nothing."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def dataset(folder: Path, *, is_drawn: bool) -> Path:
    """Photographs, or drawn pictures, as shards."""
    archive = folder / "drawn.tar"
    if is_drawn:
        draw_archive(archive, num_pictures=40)
    else:
        archive = Path(os.environ["VOC_SAMPLE_DIR"]) / "VOCtrainval_sample-2007.tar"
    convert(ConvertOptions(source=str(archive), dest=str(folder / "voc"), workers=1))
    return folder / "voc"


if __name__ == "__main__":
    main()
