"""Scores detectors over all ranks: VOC's and COCO's mean average precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.evaluation.coco_metrics import (
    BACKENDS,
    OBJECT,
    PICTURE,
    CocoNumbers,
    coco_numbers,
)
from datamodules.evaluation.inputs import array_of, check_rows, sample_id_array
from datamodules.evaluation.ranks import Records
from datamodules.evaluation.saving import Saving
from datamodules.evaluation.scores import PrecisionScores, class_keys
from datamodules.evaluation.truth_rows import (
    as_target,
    object_rows,
    picture_rows,
    truth_as_labelled,
)
from datamodules.evaluation.voc_metrics import DETECTION, TRUTH, detection_precisions
from shard_tool.errors import EvaluationError, OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from datamodules.evaluation.inputs import SampleIds
    from datamodules.evaluation.ranks import Tables
    from datamodules.evaluation.saving import SavedPredictions


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionScores(PrecisionScores):
    """Scores of a detector. COCO's are in [0, 1]; NaN without a backend, or where no truth counts.

    Small objects have an area below 32², large ones above 96² square pixels.
    """

    coco_map: float
    """COCO's AP: the mean over IoU 0.50, 0.55, … 0.95 and classes."""
    coco_ap50: float
    """COCO's AP at IoU 0.50."""
    coco_ap75: float = math.nan
    coco_ap_small: float = math.nan
    coco_ap_medium: float = math.nan
    coco_ap_large: float = math.nan
    coco_ar1: float = math.nan
    """COCO's average recall with the best detection of a class in a picture alone."""
    coco_ar10: float = math.nan
    coco_ar100: float = math.nan
    coco_ar_small: float = math.nan
    coco_ar_medium: float = math.nan
    coco_ar_large: float = math.nan


class DetectionEvaluator:
    """Computes VOC's and COCO's mean average precision of a detector.

    COCO's numbers are those of pycocotools on the source's own file: with targets of an evaluation
    loader (`shuffle=False`) they come of its float64 boxes, its areas, its crowds and the order of
    its image ids, in pixels of the stored pictures. VOC's are compared in pixels that the model
    saw.

    COCO has no difficult truths. They become crowds, which a detector need not find either; in
    VOC's scores crowds are difficult. COCO ignores a detection that lies at least half inside a
    crowd; VOC ignores one whose IoU with the difficult truth is at least 0.5.

    Args:
        num_classes: Labels, background (0) included.
        coco_backend: What computes COCO's scores: 'faster_coco_eval' or 'pycocotools'. None: they
            are NaN.
        class_names: Names in the order of labels from 1 on, such as `ShardDataset.class_names`;
            None: scores by class have labels.

    Raises:
        OptionError: The backend is unknown or not installed, or there is another number of names.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        coco_backend: str | None = BACKENDS[0],
        class_names: Sequence[str] | None = None,
    ) -> None:
        if coco_backend is not None:
            if find_spec(coco_backend) is None:
                hint = "pip install 'voc-shards[train]', or give None to do without COCO's scores"
                raise OptionError("coco_backend", f"{coco_backend} is not installed", hint)
            if coco_backend not in BACKENDS:
                problem = f"{coco_backend!r} is not one of {', '.join(BACKENDS)}"
                raise OptionError("coco_backend", problem)
        self.num_classes, self.coco_backend = num_classes, coco_backend
        self._keys = class_keys(class_names, num_classes, has_background=True)
        self._class_names = None if class_names is None else tuple(class_names)
        self._records = Records(
            {"found": DETECTION, "truths": TRUTH, "objects": OBJECT, "pictures": PICTURE}
        )

    def update(
        self,
        sample_ids: SampleIds,
        predictions: Sequence[Mapping[str, torch.Tensor]],
        targets: Sequence[Mapping[str, Any]],
        *,
        in_original_pixels: bool = False,
    ) -> None:
        """Add the detections and the truths of some samples.

        Args:
            sample_ids: [B], as `batch.sample_ids`.
            predictions: For each sample: boxes [N, 4] xyxy in pixels of its picture, scores [N]
                and labels [N], as torchvision's detectors return them. Floats of 64 bits stay what
                they are.
            targets: For each sample: boxes, labels and difficult, as the loader gives them, and
                `truth` for COCO's scores and for `save`.
            in_original_pixels: Whether predicted boxes are in pixels of the stored picture,
                `orig_size`, and not in those that the model saw. Then VOC's scores are of these,
                too.

        Raises:
            EvaluationError: Lengths differ, something is missing, a label is not in
                [1, num_classes), a box is not finite or a score not a number.
        """
        ids = sample_id_array(sample_ids, predictions=predictions, targets=targets)
        truths_of = [truth_as_labelled(target) for target in targets]
        if in_original_pixels:
            targets = [
                as_target(truth, sample_id) for truth, sample_id in zip(truths_of, ids, strict=True)
            ]
        found = _rows(DETECTION, "predictions", ids, predictions)
        truths = _rows(TRUTH, "targets", ids, targets)
        _take_crowds(truths, targets)
        for place, rows in (("predictions", found), ("targets", truths)):
            known = (rows["label"] >= 1) & (rows["label"] < self.num_classes)
            check_rows(place, rows, "label", known, f"in [1, {self.num_classes})")
            check_rows(place, rows, "box", np.isfinite(rows["box"]).all(axis=1), "finite")
        check_rows("predictions", found, "score", ~np.isnan(found["score"]), "a number")
        pictures = picture_rows(ids, truths_of, in_original_pixels=in_original_pixels)
        objects = object_rows(ids, truths_of, pictures, truths)
        self._records.add(ids, found=found, truths=truths, objects=objects, pictures=pictures)

    def compute(self, num_samples: int | None = None) -> DetectionScores:
        """Compute the scores over all ranks; every rank must call this.

        Args:
            num_samples: Samples there must be over all ranks; None: any number.

        Raises:
            EvaluationError: A sample was counted twice or is missing; raised on every rank.
        """
        return self._records.over_ranks(self._scores, num_samples)

    def save(
        self,
        path: str | Path,
        format: str = "coco",
        *,
        split: str = "val",
        num_samples: int | None = None,
    ) -> SavedPredictions:
        """Write the detections of all ranks, in the order of samples; every rank must call this.

        Rank 0 writes. Boxes are in pixels of the stored pictures.

        Args:
            path: 'coco': the file, which is replaced. 'yolo' and 'voc': a folder, new or empty.
            format: 'coco': results JSON with the source's image and category ids. 'yolo': a text
                file for each sample, lines of class, centre x and y, width, height, confidence.
                'voc': `comp4_det_<split>_<class>.txt` for each class, as the devkit wants them.
            split: Of the samples. 'voc': in names of files. Names of pictures lose its folder.
            num_samples: As for `compute`.

        Raises:
            OptionError: There is no such format, or 'voc' without `class_names`.
            EvaluationError: A sample was counted twice or is missing; targets hold no truth; or a
                transform is no resize of the whole picture. Raised on every rank.
        """
        saving = Saving(Path(path), format, split=split, class_names=self._class_names)
        return self._records.over_ranks(saving.write, num_samples)

    def reset(self) -> None:
        """Remove all samples."""
        self._records.clear()

    def _scores(self, merged: Tables) -> DetectionScores:
        coco = [math.nan] * len(CocoNumbers._fields)
        if self.coco_backend is not None and len(merged["samples"]):
            numbers = coco_numbers(merged, self.coco_backend)
            coco = [math.nan if value < 0 else value for value in numbers]  # -1: no truth counts
        precisions = detection_precisions(merged["found"], merged["truths"])
        coco_map, *others = coco
        return DetectionScores(
            num_samples=len(merged["samples"]),
            voc_ap={self._keys[label]: found for label, found in precisions.items()},
            coco_map=coco_map,
            **{
                f"coco_{name}": value
                for name, value in zip(CocoNumbers._fields[1:], others, strict=True)
            },
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


def _take_crowds(truths: NDArray[Any], targets: Sequence[Mapping[str, Any]]) -> None:
    """Mark crowds difficult, where targets know them."""
    crowds = [target.get("iscrowd") for target in targets]
    if any(its is not None for its in crowds):
        flags = [
            array_of(its) if its is not None else np.zeros(len(target["labels"]), np.int64)
            for its, target in zip(crowds, targets, strict=True)
        ]
        truths["difficult"] |= np.concatenate(flags) != 0
