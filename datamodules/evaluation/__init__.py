"""Scores over all ranks, each sample counted once: VOC's, COCO's, mIoU, multi-label AP."""

from datamodules.evaluation.evaluators import (
    ClassificationEvaluator,
    DetectionEvaluator,
    DetectionScores,
    PrecisionScores,
    SegmentationEvaluator,
    SegmentationScores,
)

__all__ = [
    "ClassificationEvaluator",
    "DetectionEvaluator",
    "DetectionScores",
    "PrecisionScores",
    "SegmentationEvaluator",
    "SegmentationScores",
]
