"""Scores classifiers of several labels a picture over all ranks: VOC's mean average precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datamodules.evaluation.inputs import array_of, check_rows, sample_id_array
from datamodules.evaluation.ranks import Records
from datamodules.evaluation.scores import PrecisionScores, class_keys
from datamodules.evaluation.voc_metrics import classification_precisions
from shard_tool.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from datamodules.evaluation.inputs import SampleIds
    from datamodules.evaluation.ranks import Tables


class ClassificationEvaluator:
    """Computes VOC's mean average precision of a classifier of several labels a picture.

    Args:
        num_classes: Classes; there is no background.
        class_names: Names in the order of columns, such as `ShardDataset.class_names`; None: scores
            by class have columns.

    Raises:
        OptionError: There is another number of names.
    """

    def __init__(self, num_classes: int, *, class_names: Sequence[str] | None = None) -> None:
        per_class = ("scores", np.float32, num_classes), ("labels", np.int8, num_classes)
        self.num_classes = num_classes
        self._dtype = np.dtype([("sample_id", np.int64), *per_class])
        self._keys = class_keys(class_names, num_classes, has_background=False)
        self._records = Records({"answers": self._dtype})

    def update(self, sample_ids: SampleIds, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Add the scores and the labels of some samples.

        Args:
            sample_ids: [B], as `batch.sample_ids`.
            scores: Float [B, C], kept as float32: logits or probabilities.
            labels: [B, C]: 1, 0, or -1 for what does not count, as the loader gives them.

        Raises:
            EvaluationError: Shapes differ, a score is not a number, or a label is another number.
        """
        ids = sample_id_array(sample_ids, scores=scores, labels=labels)
        for place, tensor in (("scores", scores), ("labels", labels)):
            if tensor.shape != (len(ids), self.num_classes):
                problem = f"{list(tensor.shape)}, expected [{len(ids)}, {self.num_classes}]"
                raise EvaluationError(place, problem)
        rows = np.zeros(len(ids), self._dtype)
        given = array_of(labels)
        odd = ~np.isin(given, (-1, 0, 1))
        if odd.any():
            row = int(np.flatnonzero(odd.any(1))[0])
            problem = f"{given[row][odd[row]][0].item()!r}, expected 1, 0 or -1"
            raise EvaluationError(f"labels of sample {ids[row]}", problem, "-1 does not count")
        rows["sample_id"], rows["scores"], rows["labels"] = ids, array_of(scores), given
        check_rows("scores", rows, "scores", ~np.isnan(rows["scores"]).any(axis=1), "numbers")
        self._records.add(ids, answers=rows)

    def compute(self, num_samples: int | None = None) -> PrecisionScores:
        """As `DetectionEvaluator.compute`."""
        return self._records.over_ranks(self._scores, num_samples)

    def reset(self) -> None:
        """Remove all samples."""
        self._records.clear()

    def _scores(self, merged: Tables) -> PrecisionScores:
        answers = merged["answers"]
        precisions = classification_precisions(answers["scores"], answers["labels"])
        return PrecisionScores(
            num_samples=len(answers),
            voc_ap={self._keys[column]: found for column, found in precisions.items()},
        )
