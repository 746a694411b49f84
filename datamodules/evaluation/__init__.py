"""Computes scores over all ranks, the same to the last digit on any number of them.

An evaluator keeps rows: predictions and truths, each with its sample id. `compute` brings the rows
of all ranks to rank 0 and sorts them by sample id before it computes anything. So neither the
number of ranks nor the batch size changes a score, as long as each prediction depends on its
sample alone. Every rank gets the result. A sample counted twice is an error. So is a missing one,
where `compute` is told how many there are.

    evaluator = DetectionEvaluator(dataset.num_classes, class_names=dataset.class_names)
    for batch in loader:
        images, targets = batch
        evaluator.update(batch.sample_ids, model(images), targets)
    scores = evaluator.compute(num_samples)
    evaluator.reset()

Evaluators work alone, under torch.distributed and inside a LightningModule, and need none of them.
`voc_metrics` defines VOC's scores, `coco_metrics` asks a library for COCO's, and `saving` writes
predictions as files.

Imports `shard_tool.format`, `shard_tool.errors`, and nothing else of ours.
"""

from datamodules.evaluation.classification import ClassificationEvaluator
from datamodules.evaluation.detection import DetectionEvaluator, DetectionScores
from datamodules.evaluation.saving import SavedPredictions
from datamodules.evaluation.scores import PrecisionScores
from datamodules.evaluation.segmentation import SegmentationEvaluator, SegmentationScores

__all__ = [
    "ClassificationEvaluator",
    "DetectionEvaluator",
    "DetectionScores",
    "PrecisionScores",
    "SavedPredictions",
    "SegmentationEvaluator",
    "SegmentationScores",
]
