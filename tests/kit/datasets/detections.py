"""Makes up detections and truths: a few boxes a sample, found once, twice or not at all."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.evaluation.voc_metrics import DETECTION, TRUTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datamodules import Batch

Box = tuple[float, float, float, float]


def found_table(*rows: tuple[int, int, float, Box]) -> NDArray[Any]:
    """Rows of (sample id, label, score, box)."""
    return np.array(list(rows), DETECTION)


def truth_table(*rows: tuple[int, int, bool, Box]) -> NDArray[Any]:
    """Rows of (sample id, label, difficult, box)."""
    return np.array(list(rows), TRUTH)


def made_up(
    sample_id: int, *, num_classes: int, seed: int = 0
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(prediction, target) of a sample: a function of its id and the seed alone.

    Scores have two digits and boxes whole numbers, so that equal ones occur. Uses `random()` alone,
    whose stream Python promises to keep.
    """
    draw = random.Random(f"{seed} {sample_id}").random

    def label() -> int:
        return 1 + int(draw() * (num_classes - 1))

    def near(box: list[float]) -> list[float]:
        return [side + int(draw() * 14) - 7 for side in box]

    truths = []
    for _ in range(int(draw() * 4)):
        left, top = int(draw() * 60), int(draw() * 60)
        box = [left, top, left + 10 + int(draw() * 40), top + 10 + int(draw() * 40)]
        truths.append((box, label(), draw() < 0.2))
    found = [(near(box), right) for box, right, _ in truths for _ in range(int(draw() * 3))]
    found += [([1.0, 1.0, 20 + int(draw() * 50), 30.0], label()) for _ in range(int(draw() * 3))]
    found.sort(key=lambda _: draw())
    prediction = {
        "boxes": torch.tensor([box for box, _ in found], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([right for _, right in found], dtype=torch.int64),
        "scores": torch.tensor([int(draw() * 100) / 100 for _ in found]),
    }
    target = {
        "boxes": torch.tensor([box for box, _, _ in truths], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([right for _, right, _ in truths], dtype=torch.int64),
        "difficult": torch.tensor([hard for _, _, hard in truths], dtype=torch.bool),
    }
    return prediction, target


def made_up_tables(
    sample_ids: range, *, num_classes: int, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same as tables (DETECTION, TRUTH)."""
    found, truths = [], []
    for sample_id in sample_ids:
        prediction, target = made_up(sample_id, num_classes=num_classes, seed=seed)
        p = [prediction[name].tolist() for name in ("labels", "scores", "boxes")]
        t = [target[name].tolist() for name in ("labels", "difficult", "boxes")]
        found += [(sample_id, a, b, tuple(c)) for a, b, c in zip(*p, strict=True)]
        truths += [(sample_id, a, b, tuple(c)) for a, b, c in zip(*t, strict=True)]
    return found_table(*found), truth_table(*truths)


def near_the_truth(batch: Batch) -> list[dict[str, torch.Tensor]]:
    """Predictions for a batch of real samples, some of them good; a function of each sample."""
    found = []
    for sample_id, target in zip(batch.sample_ids.tolist(), batch.targets, strict=True):
        moves = torch.tensor([float(sample_id * k % 9 - 4) for k in (1, 2, 3, 4)])
        scores = (target["area"] * 0.37 + sample_id).sin().abs()
        boxes, labels = target["boxes"] + moves, target["labels"]
        found.append({"boxes": boxes, "labels": labels, "scores": scores})
    return found
