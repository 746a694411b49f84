"""Computes the VOC challenge's metrics from arrays. Pure NumPy: no torch, no ranks, no pictures.

Source: the challenge's development kit, https://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/
(sections 3.4.1, 4.4 and 5.4), and its `VOCevaldet.m`, `VOCevalcls.m`, `VOCap.m`, `VOCevalseg.m`:

* Detections of a class are ranked by score over all pictures. Each is assigned to the truth of its
  class and picture that it overlaps most, whether another detection has that truth or not. At an
  overlap of 0.5 or more, the first detection of a truth is right and every later one is wrong.
  Below 0.5, a detection is wrong. A detection assigned to a *difficult* truth is ignored, and
  difficult truths need not be found.
* The text says that the overlap must exceed 0.5. The code accepts 0.5 itself, and so does this
  module.
* The code counts pixels from 1 with both corners inside, so a width is xmax - xmin + 1. Boxes here
  are half-open from 0: (xmin - 1, ymin - 1, xmax, ymax). Their widths x1 - x0 and intersections are
  the same numbers, so the overlaps are the code's, without any + 1.
* Equal scores are ranked by sample id, then in the order given. The code ranks them in the order of
  the results file.

Libraries that were looked at (November 2026): torchmetrics, pycocotools and faster-coco-eval have
COCO's assignment and 101 points. mean-average-precision 2024.1.5 counts difficult truths as missed.
podm has no difficult truths. mmeval 0.2.1 agrees with this module
(`tests/datamodules/evaluation/test_voc_metrics.py` has its numbers), but its last release is of
April 2023.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_OVERLAP = 0.5
"""Least intersection over union at which a detection finds a truth."""

DETECTION = np.dtype(
    [("sample_id", np.int64), ("label", np.int32), ("score", np.float64), ("box", np.float64, 4)]
)
"""One detection: box xyxy, half-open, in the same pixels as the truths."""
TRUTH = np.dtype(
    [("sample_id", np.int64), ("label", np.int32), ("difficult", np.bool_), ("box", np.float64, 4)],
    align=True,
)
"""One annotated object."""

RIGHT, WRONG, IGNORED = 1, 0, -1


class AveragePrecision(NamedTuple):
    """Area under one precision/recall curve, in [0, 1]."""

    all_points: float
    """The challenge's from 2010 on: the exact area under the curve, after precision is made
    monotonically decreasing."""
    eleven_points: float
    """The challenge's up to 2009: the mean of that precision at recall 0, 0.1, … 1."""


def average_precision(is_right: NDArray[np.bool_], num_truths: int) -> AveragePrecision:
    """Area under the precision/recall curve of ranked answers.

    Recall is compared with the eleven points in whole numbers: 3 of 10 reaches 0.3, whatever
    floating point makes of 0.1. Sums are rounded once.

    Args:
        is_right: bool [N], best first, ignored detections left out.
        num_truths: Truths to find, at least 1.

    >>> average_precision(np.array([True, False, True]), num_truths=4)
    AveragePrecision(all_points=0.41666666666666663, eleven_points=0.45454545454545453)
    """
    num_right = np.cumsum(is_right)
    precision = num_right / np.arange(1, len(is_right) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    reaching = np.searchsorted(10 * num_right, np.arange(11) * num_truths)
    reaching = reaching[reaching < len(is_right)]
    return AveragePrecision(
        all_points=math.fsum(best_from_here[is_right]) / num_truths,
        eleven_points=math.fsum(best_from_here[reaching]) / 11,
    )


# Detection --------------------------------------------------------------------------------------


def detection_precisions(found: NDArray[Any], truths: NDArray[Any]) -> dict[int, AveragePrecision]:
    """Average precision of each label that has a truth which is not difficult.

    Args:
        found: DETECTION [N]. Samples may come in any order; within a sample, equal scores keep
            theirs.
        truths: TRUTH [M], likewise. Of truths that a detection overlaps equally, the first counts.
    """
    found = found[np.lexsort((found["sample_id"], -found["score"]))]  # stable
    verdict = verdicts(found, truths)
    counted, num_truths = np.unique(truths["label"][~truths["difficult"]], return_counts=True)
    precisions = {}
    for label, count in zip(counted.tolist(), num_truths.tolist(), strict=True):
        of_label = verdict[(found["label"] == label) & (verdict != IGNORED)]
        precisions[label] = average_precision(of_label == RIGHT, count)
    return precisions


def verdicts(ranked: NDArray[Any], truths: NDArray[Any]) -> NDArray[np.int8]:
    """Judge each detection: int8 [N] of RIGHT, WRONG or IGNORED.

    Args:
        ranked: DETECTION [N], best first.
        truths: TRUTH [M].
    """
    truth, overlap = assigned_truths(ranked, truths)
    verdict = np.full(len(ranked), WRONG, np.int8)
    hits = np.flatnonzero(overlap >= MIN_OVERLAP)
    is_difficult = truths["difficult"][truth[hits]]
    verdict[hits[is_difficult]] = IGNORED
    hits = hits[~is_difficult]
    _, first = np.unique(truth[hits], return_index=True)
    verdict[hits[first]] = RIGHT
    return verdict


def assigned_truths(
    found: NDArray[Any], truths: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the truth of the same sample and label that each detection overlaps most.

    Returns:
        (int64 [N]: row in `truths`, the first of equals, -1 for a detection that overlaps none;
        float64 [N]: overlap).
    """
    group_of_truth, group_of_found = _groups(truths, found)
    by_group = np.argsort(group_of_truth, kind="stable")
    start = np.searchsorted(group_of_truth[by_group], group_of_found, "left")
    stop = np.searchsorted(group_of_truth[by_group], group_of_found, "right")
    # Every pair of a detection and a truth of its group, detection by detection.
    count = stop - start
    first_pair = np.cumsum(count) - count
    row = np.repeat(np.arange(len(found)), count)
    truth = by_group[np.arange(len(row)) + np.repeat(start - first_pair, count)]
    overlap = overlaps(found["box"][row], truths["box"][truth])
    # The largest overlap comes first among its detection's; lexsort is stable.
    order = np.lexsort((-overlap, row))
    best = order[first_pair[count > 0]]
    best = best[overlap[best] > 0]
    assigned, most = np.full(len(found), -1, np.int64), np.zeros(len(found))
    assigned[row[best]], most[row[best]] = truth[best], overlap[best]
    return assigned, most


def overlaps(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of half-open boxes [N, 4] and [N, 4], row by row: float64 [N].

    A box without area overlaps nothing.
    """
    boxes, others = boxes.astype(np.float64), others.astype(np.float64)
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    shared = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    areas += (others[:, 2:] - others[:, :2]).prod(axis=1)
    overlap: NDArray[np.float64] = np.zeros(len(boxes))
    np.divide(shared, areas - shared, out=overlap, where=shared > 0)
    return overlap


def _groups(*tables: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Number each row by its (sample id, label); equal pairs get equal numbers in all tables."""
    num_labels = 1 + max(table["label"].max(initial=0) for table in tables)
    return [table["sample_id"] * np.int64(num_labels) + table["label"] for table in tables]


# Classification and segmentation ----------------------------------------------------------------


def classification_precisions(
    scores: NDArray[Any], labels: NDArray[Any]
) -> dict[int, AveragePrecision]:
    """Average precision of each class that some picture shows.

    Args:
        scores: float [N, C]; equal scores keep their order.
        labels: [N, C]: 1 if the picture shows the class, 0 if not, -1 if it shows only difficult
            objects of the class, which do not count.
    """
    precisions = {}
    for column in range(labels.shape[1]):
        ranked = labels[np.argsort(-scores[:, column], kind="stable"), column]
        is_right = ranked[ranked >= 0] > 0
        if is_right.any():
            precisions[column] = average_precision(is_right, int(is_right.sum()))
    return precisions


def intersections_over_unions(confusion: NDArray[np.int64]) -> dict[int, float]:
    """Class to its intersection over union; classes in no truth and no prediction are left out.

    Args:
        confusion: int64 [C, C]: pixels by (true class, predicted class), void pixels left out.
    """
    hits = confusion.diagonal()
    unions = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return {int(label): float(hits[label] / unions[label]) for label in np.flatnonzero(unions)}
