"""Values that evaluators compute, and input that they refuse."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from datamodules import ShardDataset, ShardLoader
from datamodules.evaluation import (
    ClassificationEvaluator,
    DetectionEvaluator,
    SegmentationEvaluator,
)
from datamodules.evaluation.segmentation import VOID
from datamodules.presets import classification_eval, segmentation_eval
from shard_tool.errors import EvaluationError, OptionError

if TYPE_CHECKING:
    from pathlib import Path

BOX = [[10.0, 10.0, 20.0, 20.0]]


def prediction(boxes: Any = BOX, label: int = 1, score: float = 0.5) -> dict[str, torch.Tensor]:
    found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.full((len(found),), label)
    return {"boxes": found, "labels": labels, "scores": torch.full((len(found),), score)}


def target(boxes: Any = BOX, label: int = 1, difficult: bool = False) -> dict[str, torch.Tensor]:
    truths = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.full((len(truths),), label)
    return {"boxes": truths, "labels": labels, "difficult": torch.full((len(truths),), difficult)}


# Values -----------------------------------------------------------------------------------------


def test_detections_of_a_batch_are_scored_as_the_challenge_and_coco_do() -> None:
    evaluator = DetectionEvaluator(3)
    found = [prediction(), prediction(label=2, score=0.9), prediction([])]
    evaluator.update([0, 1, 2], found, [target(), target(), target()])
    scores = evaluator.compute(3)
    assert scores.voc_ap == {1: (1 / 3, 4 / 11)}
    assert (scores.voc_map, scores.voc07_map) == (1 / 3, 4 / 11)
    assert scores.coco_ap50 == scores.coco_map == pytest.approx(34 / 101)  # 0, 0.01, … 0.33


def test_difficult_truths_do_not_count_in_either_metric() -> None:
    evaluator = DetectionEvaluator(3)
    evaluator.update([0, 1], [prediction(), prediction([])], [target(), target(difficult=True)])
    evaluator.update([2], [prediction()], [target(difficult=True)])
    scores = evaluator.compute()
    assert (scores.voc_map, scores.coco_map) == (1, 1)


def test_coco_ignores_a_small_detection_in_a_difficult_truth_and_voc_does_not() -> None:
    """COCO divides by the area of the detection in place of the union, as the docs say."""
    evaluator = DetectionEvaluator(2)
    evaluator.update([0], [prediction()], [target()])
    large = target([[0.0, 0.0, 100.0, 100.0]], difficult=True)
    evaluator.update([1], [prediction(score=0.9)], [large])
    scores = evaluator.compute()
    assert scores.coco_ap50 == 1
    assert scores.voc_map == 0.5


def test_scores_without_truths_are_nan() -> None:
    for evaluator in (DetectionEvaluator(3), DetectionEvaluator(3, coco_backend=None)):
        for _ in range(2):
            scores = evaluator.compute()
            values = (scores.voc_map, scores.voc07_map, scores.coco_map, scores.coco_ap50)
            assert all(map(math.isnan, values))
            evaluator.update([0], [prediction()], [target(difficult=True)])
    assert math.isnan(SegmentationEvaluator(2).compute(0).miou)
    assert math.isnan(SegmentationEvaluator(2).compute(0).pixel_accuracy)


def test_segmentation_leaves_void_out_and_counts_whole_pixels() -> None:
    evaluator = SegmentationEvaluator(3)
    mask = torch.tensor([[[0, 1], [255, 2]]])
    evaluator.update([0], torch.tensor([[[0, 2], [1, 2]]]), mask)
    other = torch.tensor([[0, 0, 255]], dtype=torch.uint8)
    evaluator.update([1], [torch.tensor([[0, 1, 7]])], [other])  # another size and dtype
    scores = evaluator.compute(2)
    assert scores.confusion.dtype == np.int64
    assert scores.confusion.tolist() == [[2, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert scores.iou == {0: 2 / 3, 1: 0, 2: 1 / 2}
    assert scores.miou == pytest.approx(7 / 18)
    assert scores.pixel_accuracy == 3 / 5


def test_classification_takes_the_labels_of_the_loader() -> None:
    evaluator = ClassificationEvaluator(2)
    scores = torch.tensor([[0.1, 2.0], [0.2, 1.0], [0.3, 0.0]], dtype=torch.bfloat16)
    evaluator.update([0, 1, 2], scores, torch.tensor([[1.0, -1], [0, 1], [-1, 0]]))
    found = evaluator.compute(3)
    assert found.voc_ap == {0: (1 / 2, 1 / 2), 1: (1, 1)}
    assert found.voc_map == 0.75


def test_evaluators_take_batches_of_the_loader(mini_masks: Path, mini_labels: Path) -> None:
    """Predictions that equal the truth score 1."""
    dataset = ShardDataset(str(mini_masks), "val", shuffle=False, transform=segmentation_eval(64))
    masks = SegmentationEvaluator(21)
    for batch in ShardLoader(dataset, batch_size=4):
        masks.update(batch.sample_ids, batch.targets.where(batch.targets != VOID, 0), batch.targets)
    assert masks.compute(dataset.num_samples).miou == 1

    transform = classification_eval(32)
    dataset = ShardDataset(str(mini_labels), "val", shuffle=False, transform=transform)
    labels = ClassificationEvaluator(20)
    for batch in ShardLoader(dataset, batch_size=4):
        labels.update(batch.sample_ids, batch.targets.clamp(min=0), batch.targets)
    assert labels.compute(dataset.num_samples).voc_map == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_evaluators_take_detections_of_any_float_type_and_with_a_gradient(
    dtype: torch.dtype,
) -> None:
    evaluator = DetectionEvaluator(2)
    found = {**prediction(), "boxes": torch.tensor(BOX, dtype=dtype, requires_grad=True)}
    evaluator.update([0], [found], [target()])
    assert evaluator.compute().voc_map == 1


def test_evaluators_keep_copies_of_tensors() -> None:
    """Batches lie in memory that is reused."""
    evaluator = DetectionEvaluator(2)
    found, truth, ids = prediction(), target(), torch.tensor([4])
    evaluator.update(ids, [found], [truth])
    for tensor in (found["boxes"], truth["boxes"], ids):
        tensor.zero_()
    evaluator.update([0], [prediction([])], [target([])])
    assert evaluator.compute(2).voc_map == 1


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        pytest.param([], [target()], "predictions: 0 for 1 samples", id="no prediction"),
        pytest.param([prediction()], [], "targets: 0 for 1 samples", id="no target"),
        pytest.param(
            [{"boxes": torch.empty(0, 4)}],
            [target()],
            "predictions of sample 8: no 'labels', found 'boxes'",
            id="losses",
        ),
        pytest.param(
            [prediction()],
            [{name: value for name, value in target().items() if name != "difficult"}],
            "targets of sample 8: no 'difficult', found 'boxes', 'labels'",
            id="no difficult",
        ),
        pytest.param(
            [{**prediction(), "scores": torch.empty(0)}],
            [target()],
            "predictions of sample 8: shapes {'labels': [1], 'scores': [0], 'boxes': [1, 4]} do "
            "not fit, expected [N, 4] and [N]",
            id="lengths",
        ),
        pytest.param(
            [prediction(label=3)],
            [target()],
            "predictions of sample 8: label 3, expected in [1, 3)",
            id="label",
        ),
        pytest.param(
            [prediction()],
            [target(label=0)],
            "targets of sample 8: label 0, expected in [1, 3)",
            id="background",
        ),
        pytest.param(
            [prediction(score=math.nan)],
            [target()],
            "predictions of sample 8: score nan, expected a number",
            id="score",
        ),
        pytest.param(
            [prediction([[0, 0, math.inf, 1]])],
            [target()],
            "predictions of sample 8: box [0.0, 0.0, inf, 1.0], expected finite",
            id="box",
        ),
    ],
)
def test_bad_detections_are_errors_that_name_the_sample(
    found: Any, truth: Any, message: str
) -> None:
    with pytest.raises(EvaluationError) as caught:
        DetectionEvaluator(3).update([8], found, truth)
    assert str(caught.value) == message


def test_bad_masks_are_errors_that_name_the_sample() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.int64)
    evaluator = SegmentationEvaluator(3)
    with pytest.raises(EvaluationError) as caught:
        evaluator.update([8, 9], torch.zeros(2, 3, 4, 4), masks)
    assert str(caught.value) == (
        "predictions of sample 8: torch.float32 [3, 4, 4] for a mask [4, 4]; "
        "give the class of every pixel: logits.argmax(1), at the mask's size"
    )
    for predicted, truth in ((3, 0), (-1, 0), (0, 3), (0, 254)):
        found, true = masks.clone(), masks.clone()
        found[1, 2, 2], true[1, 2, 2] = predicted, truth
        with pytest.raises(EvaluationError) as caught:
            evaluator.update([8, 9], found, true)
        assert str(caught.value) == (
            "sample 9: a class is not in [0, 3); num_classes includes the background"
        )
    assert evaluator.compute().num_samples == 0


def test_bad_classifications_are_errors() -> None:
    with pytest.raises(EvaluationError, match=r"scores: \[1, 3\], expected \[1, 2\]"):
        ClassificationEvaluator(2).update([8], torch.zeros(1, 3), torch.zeros(1, 2))
    with pytest.raises(EvaluationError, match=r"scores of sample 8: scores \[0.0, nan\], expected"):
        ClassificationEvaluator(2).update([8], torch.tensor([[0, math.nan]]), torch.zeros(1, 2))


def test_a_backend_that_is_not_installed_is_an_error_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        DetectionEvaluator(3, coco_backend="not_there")
    assert str(caught.value) == (
        "coco_backend: not_there is not installed; pip install 'voc-shards[train]', "
        "or give None to do without COCO's scores"
    )


def test_labels_other_than_1_0_and_minus_1_are_refused() -> None:
    evaluator = ClassificationEvaluator(1)
    for label in (0.5, 7.0, 255.0, float("nan")):
        expected = rf"^labels of sample 4: {label}, expected 1, 0 or -1; -1 does not count$"
        with pytest.raises(EvaluationError, match=expected):
            evaluator.update([3, 4], torch.rand(2, 1), torch.tensor([[1.0], [label]]))


def test_more_classes_than_a_mask_can_hold_are_refused() -> None:
    for number in (0, 256):
        with pytest.raises(OptionError, match=rf"^num_classes: {number} is not in 1 … 255$"):
            SegmentationEvaluator(number)
    evaluator = SegmentationEvaluator(3)
    evaluator.update([], [], [])
    assert evaluator.compute(0).num_samples == 0
