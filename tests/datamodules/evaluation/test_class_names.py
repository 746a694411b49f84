"""Scores by class have names where the evaluator is given them, and numbers otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from datamodules import ShardDataset, ShardLoader
from datamodules.evaluation import (
    ClassificationEvaluator,
    DetectionEvaluator,
    SegmentationEvaluator,
)
from shard_tool.errors import OptionError
from tests.kit.datasets.own_classes import THREE, many, own_classes

if TYPE_CHECKING:
    from pathlib import Path

BOX = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


def detected(label: int) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    labels = torch.tensor([label])
    found = {"boxes": BOX, "labels": labels, "scores": torch.ones(1)}
    return [found], [{"boxes": BOX, "labels": labels, "difficult": torch.zeros(1).bool()}]


@pytest.mark.parametrize("count", [3, 25, 300])
def test_detections(count: int) -> None:
    for names, key in ((None, count), (many(count), f"class {count}")):
        evaluator = DetectionEvaluator(count + 1, class_names=names, coco_backend=None)
        evaluator.update([0], *detected(count))
        assert evaluator.compute(1).voc_ap == {key: (1, 1)}


@pytest.mark.parametrize("count", [3, 25, 300])
def test_classifications(count: int) -> None:
    labels = torch.eye(count)[-1:]
    for names, key in ((None, count - 1), (many(count), f"class {count}")):
        evaluator = ClassificationEvaluator(count, class_names=names)
        evaluator.update([0], labels, labels)
        assert evaluator.compute(1).voc_ap == {key: (1, 1)}


@pytest.mark.parametrize("count", [3, 25, 254])
def test_masks(count: int) -> None:
    mask = torch.tensor([[[0, 0, count, count]]])
    for names, keys in ((None, (0, count)), (many(count), ("background", f"class {count}"))):
        evaluator = SegmentationEvaluator(count + 1, class_names=names)
        evaluator.update([0], mask, mask)
        assert evaluator.compute(1).iou == dict.fromkeys(keys, 1.0)


def test_a_class_may_be_called_background() -> None:
    evaluator = SegmentationEvaluator(2, class_names=["background"])
    evaluator.update([0], torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1]]]))
    assert evaluator.compute(1).iou == {"(background)": 1.0, "background": 1.0}


@pytest.mark.parametrize(
    ("make", "background"),
    [(DetectionEvaluator, 1), (SegmentationEvaluator, 1), (ClassificationEvaluator, 0)],
)
def test_other_numbers_of_names_are_refused(make: Any, background: int) -> None:
    hint = "give those of the dataset, `dataset.class_names`"
    with pytest.raises(OptionError) as caught:
        make(4 + background, class_names=THREE)
    problem = f"3 names for num_classes={4 + background}, expected 4"
    assert str(caught.value) == f"class_names: {problem}; {hint}"
    with pytest.raises(OptionError, match=r"^class_names: 'a' is there twice; give"):
        make(3 + background, class_names=["a", "b", "a"])


def test_batches_of_own_classes_are_scored_by_name(tmp_path: Path) -> None:
    root = own_classes(tmp_path / "own")
    dataset = ShardDataset(str(root), "val", shuffle=False)
    names = dataset.class_names
    evaluator = DetectionEvaluator(dataset.num_classes, class_names=names, coco_backend=None)
    for batch in ShardLoader(dataset, batch_size=2):
        _, targets = batch
        found = [{**target, "scores": torch.ones(len(target["boxes"]))} for target in targets]
        evaluator.update(batch.sample_ids, found, targets)
    assert evaluator.compute(4).voc_ap == dict.fromkeys(reversed(THREE), (1, 1))
