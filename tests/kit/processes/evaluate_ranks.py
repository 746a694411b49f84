"""Evaluates the same data on the first 1, 2 and 3 of its processes in turn: run by torchrun.

Each world has a process group of its own. Every rank writes one line of JSON for each case:
`[case, world size, outcome]`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from datamodules import ShardDataset, ShardLoader
from datamodules.evaluation import (
    DetectionEvaluator,
)
from datamodules.presets import detection_eval
from shard_tool.errors import ShardToolError
from tests.kit.datasets.detections import made_up, near_the_truth
from tests.kit.models.evaluators import SIZES, evaluated_on
from tests.kit.models.tiny_detector import NUM_CLASSES, SIZE, as_objects, tiny_detector

if TYPE_CHECKING:
    from collections.abc import Callable

WORLDS = (1, 2, 3)
BATCH_SIZES = (1, 4)


def cases(root: str, weights: str) -> dict[str, Callable[[int, int], Any]]:
    """Name to `(rank, world size) -> outcome`."""
    found: dict[str, Callable[[int, int], Any]] = {
        f"{kind} of {num_samples} by {batch_size}": partial(
            evaluated_on, kind, num_samples, batch_size
        )
        for kind in ("detection", "segmentation", "classification")
        for num_samples, batch_size in SIZES
    }
    for batch_size in BATCH_SIZES:
        found[f"loader by {batch_size}"] = partial(from_loader, root, batch_size)
        found[f"detector by {batch_size}"] = partial(by_detector, root, weights, batch_size)
    return {**found, "as under NCCL": as_under_nccl, "twice": twice, "broken": broken}


def from_loader(root: str, batch_size: int, rank: int, world_size: int) -> Any:
    """Real samples; predictions depend on the sample alone."""
    evaluator = DetectionEvaluator(21)
    loader = loader_of(root, batch_size)
    for batch in loader:
        evaluator.update(batch.sample_ids, near_the_truth(batch), batch.targets)
    return asdict(evaluator.compute(loader.num_samples_of(len(loader))))


def by_detector(root: str, weights: str, batch_size: int, rank: int, world_size: int) -> Any:
    """A real detector on real samples."""
    model = tiny_detector().eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    evaluator = DetectionEvaluator(NUM_CLASSES)
    with torch.no_grad():
        for batch in loader_of(root, batch_size):
            images, targets = as_objects(batch)
            evaluator.update(batch.sample_ids, model(images), targets)
    return asdict(evaluator.compute())


def loader_of(root: str, batch_size: int) -> ShardLoader:
    """Batches of the validation samples of this rank."""
    transform = detection_eval(SIZE)
    return ShardLoader(ShardDataset(root, "val", shuffle=False, transform=transform), batch_size)


def as_under_nccl(rank: int, world_size: int) -> Any:
    """The default group carries GPU tensors only."""
    with patch.object(dist, "get_backend_config", lambda: "cuda:nccl"):
        return evaluated_on("detection", 7, 2, rank, world_size)


def twice(rank: int, world_size: int) -> Any:
    """The last rank evaluates a sample of the first one's."""
    evaluator = DetectionEvaluator(5, coco_backend=None)
    for sample_id in {rank, 0} if rank == world_size - 1 else {rank}:
        prediction, target = made_up(sample_id, num_classes=5)
        evaluator.update([sample_id], [prediction], [target])
    return asdict(evaluator.compute())


def broken(rank: int, world_size: int) -> Any:
    """An unexpected error happens while scores are computed."""
    evaluator = DetectionEvaluator(5)
    evaluator.coco_backend = "unheard of"
    prediction, target = made_up(rank, num_classes=5)
    evaluator.update([rank], [prediction], [target])
    return asdict(evaluator.compute())


def outcome(case: Callable[[int, int], Any], rank: int, world_size: int) -> Any:
    """What a case returns, as plain types, or its error."""
    try:
        return case(rank, world_size)
    except ShardToolError as error:
        return f"{type(error).__name__}: {error}"


def main(folder: str, root: str, weights: str) -> None:
    """Evaluate everything in every world this process is in."""
    rank = int(os.environ["RANK"])
    with Path(folder, f"rank{rank}").open("w") as log:
        for world_size in WORLDS:
            if rank >= world_size:
                continue
            group = Path(folder, f"group{world_size}").as_uri()
            dist.init_process_group("gloo", init_method=group, rank=rank, world_size=world_size)
            for name, case in cases(root, weights).items():
                line = [name, world_size, outcome(case, rank, world_size)]
                log.write(json.dumps(line, default=lambda array: array.tolist()) + "\n")
            dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
