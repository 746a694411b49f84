"""Evaluates made-up samples: those of this process, or those of all ranks in one process."""

from __future__ import annotations

import random
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.evaluation import (
    ClassificationEvaluator,
    DetectionEvaluator,
    SegmentationEvaluator,
)
from datamodules.evaluation.ranks import merge
from datamodules.order.canonical import CanonicalOrder
from tests.kit.datasets.detections import made_up
from tests.kit.simulate import Topology, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_ID = 450
"""Ids of a validation split start where training's end."""
SIZES = ((3, 1), (7, 2), (40, 5))
"""(samples, batch size) of the worlds of real processes."""
NUM_CLASSES = 4

Evaluator = DetectionEvaluator | SegmentationEvaluator | ClassificationEvaluator


def evaluator_of(kind: str, *, coco_backend: str | None = "faster_coco_eval") -> Evaluator:
    """An empty evaluator."""
    if kind == "detection":
        return DetectionEvaluator(NUM_CLASSES, coco_backend=coco_backend)
    return {"segmentation": SegmentationEvaluator, "classification": ClassificationEvaluator}[kind](
        NUM_CLASSES
    )


@cache
def answer(kind: str, sample_id: int) -> tuple[Any, Any]:
    """(prediction, truth) of one sample: a function of its id."""
    if kind == "detection":
        return made_up(sample_id, num_classes=NUM_CLASSES)
    draw = random.Random(sample_id).random
    shape = (6, 5) if kind == "segmentation" else (NUM_CLASSES,)

    def drawn(choices: list[int]) -> torch.Tensor:
        values = [choices[int(draw() * len(choices))] for _ in range(int(np.prod(shape)))]
        return torch.tensor(values).reshape(shape)

    if kind == "segmentation":
        return drawn([0, 0, 1, 2, 3]), drawn([0, 0, 1, 2, 255])
    return drawn(list(range(100))) / 100, drawn([0, 0, 1, -1]).float()


def take_in(evaluator: Any, kind: str, sample_ids: tuple[int, ...]) -> None:
    """Update with one batch."""
    predictions, truths = zip(*[answer(kind, i) for i in sample_ids], strict=True)
    if kind != "detection":
        predictions, truths = torch.stack(predictions), torch.stack(truths)
    evaluator.update(torch.tensor(sample_ids), predictions, truths)


def batches(num_samples: int, batch_size: int, world_size: int) -> Iterator[tuple[Any, ...]]:
    """The ids of every step of an evaluation, by rank; two nodes where ranks allow."""
    lengths = np.diff([0, num_samples // 3, num_samples // 2, num_samples])
    num_nodes = 2 if world_size % 2 == 0 else 1
    order = CanonicalOrder(lengths.astype(np.int64), seed=0, lanes=num_nodes, shuffle=False)
    topology = Topology(world_size=world_size, num_nodes=num_nodes, batch_size=batch_size)
    for step in simulate(order, topology):
        yield tuple(tuple(FIRST_ID + i for i in ids) for ids in step.ids)


def evaluated_on(kind: str, num_samples: int, batch_size: int, rank: int, world_size: int) -> Any:
    """The scores over all ranks, from this rank's samples, by torch.distributed."""
    evaluator = evaluator_of(kind)
    for step in batches(num_samples, batch_size, world_size):
        take_in(evaluator, kind, step[rank])
    return asdict(evaluator.compute(num_samples))


def evaluated_together(kind: str, num_samples: int, batch_size: int, world_size: int) -> Any:
    """The scores with all ranks simulated in this process; without COCO's."""
    ranks: list[Any] = [evaluator_of(kind, coco_backend=None) for _ in range(world_size)]
    for step in batches(num_samples, batch_size, world_size):
        for evaluator, sample_ids in zip(ranks, step, strict=True):
            take_in(evaluator, kind, sample_ids)
    tables = [evaluator._records.tables() for evaluator in ranks]
    return ranks[0]._scores(merge(tables, num_samples))
