"""Scores detectors over all ranks: VOC's and COCO's mean average precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.evaluation.inputs import array_of, check_rows, sample_id_array
from datamodules.evaluation.ranks import Records
from datamodules.evaluation.scores import PrecisionScores, class_keys
from datamodules.evaluation.voc_metrics import DETECTION, TRUTH, detection_precisions
from shard_tool.errors import EvaluationError, OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from datamodules.evaluation.inputs import SampleIds
    from datamodules.evaluation.ranks import Tables


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionScores(PrecisionScores):
    """Scores of a detector."""

    coco_map: float
    """COCO's mAP over IoU 0.50 to 0.95, by torchmetrics, in [0, 1]; NaN without a backend."""
    coco_ap50: float
    """COCO's AP at IoU 0.50."""


class DetectionEvaluator:
    """Computes VOC's and COCO's mean average precision of a detector.

    COCO has no difficult truths. They become crowds, which a detector need not find either. COCO
    ignores a detection that lies at least half inside a crowd; VOC ignores one whose IoU with the
    difficult truth is at least 0.5.

    Args:
        num_classes: Labels, background (0) included.
        coco_backend: What torchmetrics computes COCO's scores with: 'faster_coco_eval' or
            'pycocotools'. None: COCO's scores are NaN.
        class_names: Names in the order of labels from 1 on, such as `ShardDataset.class_names`;
            None: scores by class have labels.

    Raises:
        OptionError: torchmetrics or the backend is not installed, or there is another number of
            names.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        coco_backend: str | None = "faster_coco_eval",
        class_names: Sequence[str] | None = None,
    ) -> None:
        for package in ("torchmetrics", coco_backend) if coco_backend else ():
            if find_spec(package) is None:
                hint = "pip install 'voc-shards[train]', or give None to do without COCO's scores"
                raise OptionError("coco_backend", f"{package} is not installed", hint)
        self.num_classes, self.coco_backend = num_classes, coco_backend
        self._keys = class_keys(class_names, num_classes, has_background=True)
        self._records = Records({"found": DETECTION, "truths": TRUTH})

    def update(
        self,
        sample_ids: SampleIds,
        predictions: Sequence[Mapping[str, torch.Tensor]],
        targets: Sequence[Mapping[str, torch.Tensor]],
    ) -> None:
        """Add the detections and the truths of some samples.

        Args:
            sample_ids: [B], as `batch.sample_ids`.
            predictions: For each sample: boxes [N, 4] xyxy in pixels of its picture, scores [N]
                (kept as float32) and labels [N], as torchvision's detectors return them.
            targets: For each sample: boxes, labels and difficult, as the loader gives them.

        Raises:
            EvaluationError: Lengths differ, something is missing, a label is not in
                [1, num_classes), a box is not finite or a score not a number.
        """
        ids = sample_id_array(sample_ids, predictions=predictions, targets=targets)
        found = _rows(DETECTION, "predictions", ids, predictions)
        truths = _rows(TRUTH, "targets", ids, targets)
        for place, rows in (("predictions", found), ("targets", truths)):
            known = (rows["label"] >= 1) & (rows["label"] < self.num_classes)
            check_rows(place, rows, "label", known, f"in [1, {self.num_classes})")
            check_rows(place, rows, "box", np.isfinite(rows["box"]).all(axis=1), "finite")
        check_rows("predictions", found, "score", ~np.isnan(found["score"]), "a number")
        self._records.add(ids, found=found, truths=truths)

    def compute(self, num_samples: int | None = None) -> DetectionScores:
        """Compute the scores over all ranks; every rank must call this.

        Args:
            num_samples: Samples there must be over all ranks; None: any number.

        Raises:
            EvaluationError: A sample was counted twice or is missing; raised on every rank.
        """
        return self._records.over_ranks(self._scores, num_samples)

    def reset(self) -> None:
        """Remove all samples."""
        self._records.clear()

    def _scores(self, merged: Tables) -> DetectionScores:
        coco = (math.nan, math.nan)
        if self.coco_backend is not None:
            coco = _coco_scores(merged, self.coco_backend)
        precisions = detection_precisions(merged["found"], merged["truths"])
        return DetectionScores(
            num_samples=len(merged["samples"]),
            voc_ap={self._keys[label]: found for label, found in precisions.items()},
            coco_map=coco[0],
            coco_ap50=coco[1],
        )


_KEYS = {"box": "boxes", "label": "labels", "score": "scores", "difficult": "difficult"}
"""Column of `DETECTION` and `TRUTH` to its key in predictions and targets."""


def _rows(
    dtype: np.dtype[Any],
    place: str,
    ids: NDArray[np.int64],
    records: Sequence[Mapping[str, torch.Tensor]],
) -> NDArray[Any]:
    """Make one row for each box of some samples.

    Raises:
        EvaluationError: A key is missing, or shapes do not fit.
    """
    columns = [name for name in dtype.names or () if name in _KEYS]
    for sample_id, record in zip(ids, records, strict=True):
        missing = [_KEYS[column] for column in columns if _KEYS[column] not in record]
        if missing:
            problem = f"no {missing[0]!r}, found {', '.join(map(repr, record)) or 'nothing'}"
            raise EvaluationError(f"{place} of sample {sample_id}", problem)
        found = {_KEYS[column]: list(record[_KEYS[column]].shape) for column in columns}
        count = len(record["boxes"])
        if found != {name: [count, 4] if name == "boxes" else [count] for name in found}:
            problem = f"shapes {found} do not fit, expected [N, 4] and [N]"
            raise EvaluationError(f"{place} of sample {sample_id}", problem)
    counts = [len(record["boxes"]) for record in records]
    rows = np.zeros(sum(counts), dtype)
    rows["sample_id"] = np.repeat(ids, counts)
    if records:
        for column in columns:  # one copy from the device for all samples
            rows[column] = array_of(torch.cat([record[_KEYS[column]] for record in records]))
    return rows


def _coco_scores(merged: Tables, backend: Any) -> tuple[float, float]:
    """(mAP, AP50) by torchmetrics, without its own gathering over ranks; NaN without truths."""
    from torchmetrics.detection import MeanAveragePrecision  # here: VOC's scores do not need it

    ids = merged["samples"]["sample_id"]
    if not len(ids):
        return math.nan, math.nan
    metric = MeanAveragePrecision(backend=backend, sync_on_compute=False)
    metric.warn_on_many_detections = False
    found, truths = (
        np.split(merged[name], np.searchsorted(merged[name]["sample_id"], ids[1:]))
        for name in ("found", "truths")
    )
    metric.update(
        [{**_boxes(rows), "scores": _tensor(rows["score"])} for rows in found],
        [{**_boxes(rows), "iscrowd": _tensor(rows["difficult"]).long()} for rows in truths],
    )
    values = metric.compute()
    coco_map, coco_ap50 = (float(values[name]) for name in ("map", "map_50"))
    if coco_map < 0:  # torchmetrics' -1: no truth counts
        return math.nan, math.nan
    return coco_map, coco_ap50


def _boxes(rows: NDArray[Any]) -> dict[str, torch.Tensor]:
    return {"boxes": _tensor(rows["box"]), "labels": _tensor(rows["label"]).long()}


def _tensor(column: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(column))
