"""Scores over all ranks that are the same to the last digit on any number of them.

An evaluator keeps what was predicted and what was true as rows that carry their sample id. At the
end all rows come to rank 0 and are put in the order of sample ids before anything is computed, so
neither ranks nor batches leave a trace: where a prediction depends on its sample alone, so does the
score, exactly. Every rank gets it. A sample counted twice is an error, and so is one missing where
`compute` is told how many there are.

    evaluator = DetectionEvaluator(num_classes=21)
    for batch in loader:
        images, targets = batch
        evaluator.update(batch.sample_ids, model(images), targets)
    scores = evaluator.compute(num_samples)
    evaluator.reset()

Works alone, under torch.distributed and inside a LightningModule, and needs none of them. What the
scores mean `voc_metrics` says.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from datamodules.evaluation.voc_metrics import (
    DETECTION,
    TRUTH,
    classification_precisions,
    detection_precisions,
    intersections_over_unions,
)
from shard_tool.errors import EvaluationError, OptionError, ShardToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from datamodules.evaluation.voc_metrics import AveragePrecision

    SampleIds = torch.Tensor | Sequence[int]
    Tables = dict[str, NDArray[Any]]

Scores = TypeVar("Scores")

VOID = 255
"""Mask value of pixels that count neither way."""
_SAMPLE = np.dtype([("sample_id", np.int64)])
_PIXELS = np.dtype(
    [("sample_id", np.int64), ("truth", np.int32), ("predicted", np.int32), ("count", np.int64)]
)


# Scores -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionScores:
    """How well labels are told apart. Means are over the labels in `voc_ap`; NaN of none."""

    num_samples: int
    voc_ap: dict[int, AveragePrecision]
    """Label (for a classifier: column) to its average precision, where a truth of it counts."""

    @property
    def voc_map(self) -> float:
        """VOC's mAP from 2010 on: areas under curves."""
        return _mean(ap.all_points for ap in self.voc_ap.values())

    @property
    def voc07_map(self) -> float:
        """VOC's mAP up to 2009: eleven points."""
        return _mean(ap.eleven_points for ap in self.voc_ap.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionScores(PrecisionScores):
    """What a detector reached."""

    coco_map: float
    """COCO's mAP at IoU 0.50 to 0.95, by torchmetrics, in [0, 1]; NaN without a backend."""
    coco_ap50: float
    """The same at 0.50 alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationScores:
    """What a segmentation model reached."""

    num_samples: int
    confusion: NDArray[np.int64]
    """[C, C]: pixels by (true class, predicted class), void ones left out."""

    @property
    def iou(self) -> dict[int, float]:
        """Class to intersection over union, where truth or prediction has any of it."""
        return intersections_over_unions(self.confusion)

    @property
    def miou(self) -> float:
        """Mean of them, background included, as the challenge has it."""
        return _mean(self.iou.values())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that are not void which were told rightly."""
        total = int(self.confusion.sum())
        return int(self.confusion.trace()) / total if total else math.nan


# Evaluators -------------------------------------------------------------------------------------


class DetectionEvaluator:
    """VOC's and COCO's mean average precision of a detector.

    COCO knows no difficult truths. They go in as its crowds, which are not to be found either; a
    detection in one is forgiven when it lies half within, where VOC wants an overlap of a half.

    Args:
        num_classes: Labels, background (0) included.
        coco_backend: 'faster_coco_eval' or 'pycocotools', what torchmetrics computes COCO's scores
            with; None: they are NaN.

    Raises:
        OptionError: torchmetrics or the backend is not installed.
    """

    def __init__(self, num_classes: int, *, coco_backend: str | None = "faster_coco_eval") -> None:
        for package in ("torchmetrics", coco_backend) if coco_backend else ():
            if find_spec(package) is None:
                hint = "pip install 'voc-shards[train]', or give None to do without COCO's scores"
                raise OptionError("coco_backend", f"{package} is not installed", hint)
        self.num_classes, self.coco_backend = num_classes, coco_backend
        self._records = Records({"found": DETECTION, "truths": TRUTH})

    def update(
        self,
        sample_ids: SampleIds,
        predictions: Sequence[Mapping[str, torch.Tensor]],
        targets: Sequence[Mapping[str, torch.Tensor]],
    ) -> None:
        """Take down what was found in some samples, and what is there.

        Args:
            sample_ids: Their ids, as `batch.sample_ids`.
            predictions: Of each: boxes [N, 4] xyxy in the pixels of its picture, scores [N] (kept
                as float32) and labels [N], as torchvision's detectors give them.
            targets: Of each: boxes, labels and difficult, as the loader gives them.

        Raises:
            EvaluationError: Lengths differ, something is missing, a label is not in
                [1, num_classes), a box is not finite or a score not a number.
        """
        ids = _ids(sample_ids, predictions=predictions, targets=targets)
        found = _rows(DETECTION, "predictions", ids, predictions)
        truths = _rows(TRUTH, "targets", ids, targets)
        for place, rows in (("predictions", found), ("targets", truths)):
            known = (rows["label"] >= 1) & (rows["label"] < self.num_classes)
            _check(place, rows, "label", known, f"in [1, {self.num_classes})")
            _check(place, rows, "box", np.isfinite(rows["box"]).all(axis=1), "finite")
        _check("predictions", found, "score", ~np.isnan(found["score"]), "a number")
        self._records.add(ids, found=found, truths=truths)

    def compute(self, num_samples: int | None = None) -> DetectionScores:
        """The scores over all ranks, which must all call this.

        Args:
            num_samples: Samples there should be over all ranks; None: however many there are.

        Raises:
            EvaluationError: On every rank: a sample was counted twice, or is missing.
        """
        return self._records.over_ranks(self._scores, num_samples)

    def reset(self) -> None:
        """Forget all samples."""
        self._records.clear()

    def _scores(self, merged: Tables) -> DetectionScores:
        coco = (math.nan, math.nan)
        if self.coco_backend is not None:
            coco = _coco_scores(merged, self.coco_backend)
        return DetectionScores(
            num_samples=len(merged["samples"]),
            voc_ap=detection_precisions(merged["found"], merged["truths"]),
            coco_map=coco[0],
            coco_ap50=coco[1],
        )


class SegmentationEvaluator:
    """Mean intersection over union of a segmentation model.

    It is measured on the masks as they are given: to compare with the challenge's numbers, give
    masks and predictions at the stored pictures' size.

    Args:
        num_classes: Classes, background (0) included; at most 255.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= 255:
            raise OptionError("num_classes", f"{num_classes} is not in 1 … 255")
        self.num_classes = num_classes
        self._records = Records({"pixels": _PIXELS})

    def update(
        self, sample_ids: SampleIds, predictions: Iterable[torch.Tensor], masks: Iterable[Any]
    ) -> None:
        """Count the pixels of some samples.

        Args:
            sample_ids: Their ids, as `batch.sample_ids`.
            predictions: Of each: the predicted class of every pixel, an integer [H, W]; one tensor
                [B, H, W] (`logits.argmax(1)`) or a list of different sizes.
            masks: Of each: the true class [H, W]; 255 is void and does not count.

        Raises:
            EvaluationError: Sizes differ, or a class is not in [0, num_classes).
        """
        predictions, masks = list(predictions), list(masks)
        ids = _ids(sample_ids, predictions=predictions, masks=masks)
        if not len(ids):
            return
        for sample_id, predicted, mask in zip(ids, predictions, masks, strict=True):
            if predicted.shape != mask.shape or predicted.is_floating_point():
                problem = f"{predicted.dtype} {list(predicted.shape)} for a mask {list(mask.shape)}"
                hint = "give the class of every pixel: logits.argmax(1), at the mask's size"
                raise EvaluationError(f"predictions of sample {sample_id}", problem, hint)
        pairs = zip(predictions, masks, strict=True)
        counts = _array(torch.stack([self._count(*pair) for pair in pairs]))
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
        """As `DetectionEvaluator.compute`; pixels are whole numbers, so their sums are exact."""
        return self._records.over_ranks(self._scores, num_samples)

    def reset(self) -> None:
        """Forget all samples."""
        self._records.clear()

    def _count(self, predicted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pixels by (true class, predicted class), then those out of range: int64 [C·C + 1]."""
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
        return SegmentationScores(num_samples=len(merged["samples"]), confusion=confusion)


class ClassificationEvaluator:
    """VOC's mean average precision of a classifier of several labels a picture.

    Args:
        num_classes: Classes; there is no background.
    """

    def __init__(self, num_classes: int) -> None:
        per_class = ("scores", np.float32, num_classes), ("labels", np.int8, num_classes)
        self.num_classes = num_classes
        self._dtype = np.dtype([("sample_id", np.int64), *per_class])
        self._records = Records({"answers": self._dtype})

    def update(self, sample_ids: SampleIds, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Take down the answers for some samples.

        Args:
            sample_ids: Their ids, as `batch.sample_ids`.
            scores: Float [B, C], kept as float32; logits do as well as probabilities.
            labels: [B, C]: 1, 0, or -1 for what counts neither way, as the loader gives them.

        Raises:
            EvaluationError: Shapes differ, a score is not a number, or a label is another number.
        """
        ids = _ids(sample_ids, scores=scores, labels=labels)
        for place, tensor in (("scores", scores), ("labels", labels)):
            if tensor.shape != (len(ids), self.num_classes):
                problem = f"{list(tensor.shape)}, expected [{len(ids)}, {self.num_classes}]"
                raise EvaluationError(place, problem)
        rows = np.zeros(len(ids), self._dtype)
        given = _array(labels)
        odd = ~np.isin(given, (-1, 0, 1))
        if odd.any():
            row = int(np.flatnonzero(odd.any(1))[0])
            problem = f"{given[row][odd[row]][0].item()!r}, expected 1, 0 or -1"
            raise EvaluationError(f"labels of sample {ids[row]}", problem, "-1 counts neither way")
        rows["sample_id"], rows["scores"], rows["labels"] = ids, _array(scores), given
        _check("scores", rows, "scores", ~np.isnan(rows["scores"]).any(axis=1), "numbers")
        self._records.add(ids, answers=rows)

    def compute(self, num_samples: int | None = None) -> PrecisionScores:
        """As `DetectionEvaluator.compute`."""
        return self._records.over_ranks(self._scores, num_samples)

    def reset(self) -> None:
        """Forget all samples."""
        self._records.clear()

    def _scores(self, merged: Tables) -> PrecisionScores:
        answers = merged["answers"]
        return PrecisionScores(
            num_samples=len(answers),
            voc_ap=classification_precisions(answers["scores"], answers["labels"]),
        )


# Records over ranks -----------------------------------------------------------------------------


class Records:
    """Rows about samples, on this rank: tables whose rows carry a `sample_id`.

    Args:
        dtypes: Table to the type of its rows. A table `samples` lists every sample itself, also
            one that has no rows elsewhere.
    """

    def __init__(self, dtypes: Mapping[str, np.dtype[Any]]) -> None:
        self._dtypes = {"samples": _SAMPLE, **dtypes}
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self.clear()

    def add(self, sample_ids: NDArray[np.int64], **rows: NDArray[Any]) -> None:
        """Rows of each table about some samples."""
        self._parts["samples"].append(sample_ids.view(_SAMPLE))
        for name, part in rows.items():
            self._parts[name].append(part)

    def clear(self) -> None:
        """Forget all."""
        self._parts = {name: [] for name in self._dtypes}

    def tables(self) -> Tables:
        """All rows of this rank, as they came."""
        return {
            name: np.concatenate([np.empty(0, dtype), *self._parts[name]])
            for name, dtype in self._dtypes.items()
        }

    def over_ranks(self, score: Callable[[Tables], Scores], num_samples: int | None) -> Scores:
        """What `score` makes of the rows of all ranks, computed on rank 0 and given to every rank.

        An error of rank 0 is raised on every rank, so that none waits for the others in vain.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return score(merge([self.tables()], num_samples))
        is_first = dist.get_rank() == 0
        ranks: list[Any] | None = [None] * dist.get_world_size() if is_first else None
        outcome: list[Any] = [None]
        with _cpu_group() as group:
            dist.gather_object(self.tables(), ranks, group=group)
            if ranks is not None:
                outcome = [_outcome(lambda: score(merge(ranks, num_samples)))]
            dist.broadcast_object_list(outcome, group=group)
        if isinstance(outcome[0], ShardToolError):
            raise outcome[0]
        scores: Scores = outcome[0]
        return scores


def merge(ranks: Sequence[Tables], num_samples: int | None = None) -> Tables:
    """The tables of all ranks as one set, in the order of sample ids.

    Rows of one sample, which are one rank's, keep their order.

    Raises:
        EvaluationError: A sample was counted twice, or there are not `num_samples`.
    """
    merged = {}
    for name in ranks[0]:
        rows = np.concatenate([tables[name] for tables in ranks])
        merged[name] = rows[np.argsort(rows["sample_id"], kind="stable")]
    ids = merged["samples"]["sample_id"]
    twice = np.unique(ids[1:][ids[1:] == ids[:-1]])
    if len(twice):
        problem = f"{len(twice)} samples were counted more than once, the first is {twice[0]}"
        hint = "call reset() before each pass, and let each rank evaluate its own samples alone"
        raise EvaluationError("evaluation", problem, hint)
    if num_samples is not None and len(ids) != num_samples:
        problem = f"{len(ids)} samples were counted, expected {num_samples}"
        hint = "give every batch of the pass to update(), or num_samples=None where it is cut short"
        raise EvaluationError("evaluation", problem, hint)
    return merged


@contextmanager
def _cpu_group() -> Iterator[Any]:
    """A group of all ranks that carries what lies in memory: NCCL's carries what is on GPUs.

    Made for each use, which all ranks make: a kept one would outlive the default group.
    """
    if "cpu:" in dist.get_backend_config():
        yield None
        return
    group = dist.new_group(backend="gloo")
    try:
        yield group
    finally:
        dist.destroy_process_group(group)


def _outcome(compute: Callable[[], Any]) -> Any:
    """What it returns, or the error it raises, as one that survives the way to other ranks."""
    try:
        return compute()
    except ShardToolError as error:
        return error
    except Exception as error:  # noqa: BLE001  (the others are waiting for an answer)
        told = EvaluationError("evaluation", f"failed on rank 0: {error!r}")
        told.__cause__ = error  # stays on rank 0
        return told


# Parts ------------------------------------------------------------------------------------------


def _mean(values: Iterable[float]) -> float:
    """Rounded once; NaN of nothing."""
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan


def _ids(sample_ids: SampleIds, **given: Any) -> NDArray[np.int64]:
    """Sample ids as an array of their own; one of each thing given for each."""
    if isinstance(sample_ids, torch.Tensor):
        sample_ids = sample_ids.tolist()
    ids = np.array(sample_ids, np.int64).reshape(-1)
    for place, things in given.items():
        if len(things) != len(ids):
            raise EvaluationError(place, f"{len(things)} for {len(ids)} samples")
    return ids


_KEYS = {"box": "boxes", "label": "labels", "score": "scores", "difficult": "difficult"}
"""What predictions and targets call a column of `DETECTION` and `TRUTH`."""


def _rows(
    dtype: np.dtype[Any],
    place: str,
    ids: NDArray[np.int64],
    records: Sequence[Mapping[str, torch.Tensor]],
) -> NDArray[Any]:
    """Rows of the boxes of some samples, and of what belongs to each box."""
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
            rows[column] = _array(torch.cat([record[_KEYS[column]] for record in records]))
    return rows


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    """On the CPU; floats as float32, which NumPy knows where bfloat16 it does not."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def _check(
    place: str, rows: NDArray[Any], column: str, is_good: NDArray[np.bool_], expected: str
) -> None:
    bad = np.flatnonzero(~is_good)
    if len(bad):
        row = rows[bad[0]]
        problem = f"{column} {row[column].tolist()}, expected {expected}"
        raise EvaluationError(f"{place} of sample {row['sample_id']}", problem)


def _coco_scores(merged: Tables, backend: Any) -> tuple[float, float]:
    """(mAP, AP50) by torchmetrics, whose own gathering over ranks is left out; NaN of nothing."""
    from torchmetrics.detection import MeanAveragePrecision  # here: VOC's scores need it not

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
