"""Scores segmentation models over all ranks: mean intersection over union."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.evaluation.inputs import array_of, sample_id_array
from datamodules.evaluation.ranks import Records
from datamodules.evaluation.scores import class_keys, mean
from datamodules.evaluation.voc_metrics import intersections_over_unions
from shard_tool.errors import EvaluationError, OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from datamodules.evaluation.inputs import SampleIds
    from datamodules.evaluation.ranks import Tables

VOID = 255
"""Mask value of pixels that do not count."""
_PIXELS = np.dtype(
    [("sample_id", np.int64), ("truth", np.int32), ("predicted", np.int32), ("count", np.int64)]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationScores:
    """Scores of a segmentation model."""

    num_samples: int
    confusion: NDArray[np.int64]
    """int64 [C, C]: pixels by (true class, predicted class), void pixels left out."""
    class_names: tuple[str, ...] | None = None
    """Those that the evaluator knows: names in the order of labels from 1 on."""

    @property
    def iou(self) -> dict[int | str, float]:
        """Class to its intersection over union; classes without any pixel are left out.

        Keys are names ('background' for 0) where the evaluator knows them, else labels.
        """
        keys = class_keys(self.class_names, len(self.confusion), has_background=True)
        found = intersections_over_unions(self.confusion)
        return {keys[label]: value for label, value in found.items()}

    @property
    def miou(self) -> float:
        """Mean of `iou`, background included, as in the challenge."""
        return mean(self.iou.values())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels, void ones aside, whose class is predicted rightly."""
        total = int(self.confusion.sum())
        return int(self.confusion.trace()) / total if total else math.nan


class SegmentationEvaluator:
    """Computes the mean intersection over union of a segmentation model.

    It counts pixels of the masks that it is given: to compare with the challenge's numbers, give
    masks and predictions of the stored pictures' size.

    Args:
        num_classes: Classes, background (0) included; at most 255.
        class_names: Names in the order of labels from 1 on, such as `ShardDataset.class_names`;
            None: scores by class have labels.

    Raises:
        OptionError: Too many classes, or another number of names.
    """

    def __init__(self, num_classes: int, *, class_names: Sequence[str] | None = None) -> None:
        if not 1 <= num_classes <= 255:
            raise OptionError("num_classes", f"{num_classes} is not in 1 … 255")
        class_keys(class_names, num_classes, has_background=True)  # before any batch
        self.num_classes = num_classes
        self.class_names = None if class_names is None else tuple(class_names)
        self._records = Records({"pixels": _PIXELS})

    def update(
        self, sample_ids: SampleIds, predictions: Iterable[torch.Tensor], masks: Iterable[Any]
    ) -> None:
        """Count the pixels of some samples.

        Args:
            sample_ids: [B], as `batch.sample_ids`.
            predictions: For each sample the predicted class of every pixel, integers [H, W]: one
                tensor [B, H, W] (`logits.argmax(1)`), or a list of different sizes.
            masks: For each sample the true classes [H, W]; 255 is void and does not count.

        Raises:
            EvaluationError: Sizes differ, or a class is not in [0, num_classes).
        """
        predictions, masks = list(predictions), list(masks)
        ids = sample_id_array(sample_ids, predictions=predictions, masks=masks)
        if not len(ids):
            return
        for sample_id, predicted, mask in zip(ids, predictions, masks, strict=True):
            if predicted.shape != mask.shape or predicted.is_floating_point():
                problem = f"{predicted.dtype} {list(predicted.shape)} for a mask {list(mask.shape)}"
                hint = "give the class of every pixel: logits.argmax(1), at the mask's size"
                raise EvaluationError(f"predictions of sample {sample_id}", problem, hint)
        pairs = zip(predictions, masks, strict=True)
        counts = array_of(torch.stack([self._count(*pair) for pair in pairs]))
        if counts[:, -1].any():
            place = f"sample {ids[np.flatnonzero(counts[:, -1])[0]]}"
            problem = f"a class is not in [0, {self.num_classes})"
            raise EvaluationError(place, problem, "num_classes includes the background")
        at, cell = np.nonzero(counts[:, :-1])
        rows = np.zeros(len(at), _PIXELS)
        rows["sample_id"], rows["count"] = ids[at], counts[at, cell]
        rows["truth"], rows["predicted"] = np.divmod(cell, self.num_classes)
        self._records.add(ids, pixels=rows)

    def compute(self, num_samples: int | None = None) -> SegmentationScores:
        """As `DetectionEvaluator.compute`; sums of whole pixels are exact."""
        return self._records.over_ranks(self._scores, num_samples)

    def reset(self) -> None:
        """Remove all samples."""
        self._records.clear()

    def _count(self, predicted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """int64 [C·C + 1]: pixels by (true class, predicted class), then pixels out of range."""
        truth, found, classes = mask.to(torch.int64), predicted.to(torch.int64), self.num_classes
        is_known = (truth >= 0) & (truth < classes) & (found >= 0) & (found < classes)
        cell = torch.where(is_known, truth * classes + found, classes * classes)
        cells = classes * classes + 2  # the last one for void
        cell = torch.where(truth == VOID, cells - 1, cell)
        return torch.bincount(cell.reshape(-1), minlength=cells)[:-1]

    def _scores(self, merged: Tables) -> SegmentationScores:
        confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        pixels = merged["pixels"]
        np.add.at(confusion, (pixels["truth"], pixels["predicted"]), pixels["count"])
        return SegmentationScores(
            num_samples=len(merged["samples"]), confusion=confusion, class_names=self.class_names
        )
