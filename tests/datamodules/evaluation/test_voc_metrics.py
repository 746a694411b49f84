"""VOC's metrics equal values by hand, a slow reference and the numbers of another library."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.evaluation.voc_metrics import (
    IGNORED,
    RIGHT,
    WRONG,
    assigned_truths,
    average_precision,
    classification_precisions,
    detection_precisions,
    intersections_over_unions,
    overlaps,
    verdicts,
)
from tests.kit.datasets.detections import found_table, made_up_tables, truth_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOX = (10.0, 10.0, 20.0, 20.0)
HALF = (10.0, 10.0, 20.0, 15.0)  # overlaps BOX by exactly a half
LESS = (10.0, 10.0, 20.0, 14.0)
FAR = (50.0, 50.0, 60.0, 60.0)


def only(found: NDArray[Any], truths: NDArray[Any]) -> float:
    """The all-point average precision of the one label there is."""
    (precision,) = detection_precisions(found, truths).values()
    return precision.all_points


# By hand ----------------------------------------------------------------------------------------


def test_a_detection_that_overlaps_by_a_half_is_right_and_by_less_wrong() -> None:
    truths = truth_table((0, 1, False, BOX))
    assert only(found_table((0, 1, 0.9, HALF)), truths) == 1
    assert only(found_table((0, 1, 0.9, LESS)), truths) == 0


def test_overlaps_are_the_devkit_s_of_the_boxes_counted_from_1_with_both_corners_inside() -> None:
    """Its code: widths are xmax - xmin + 1. Ours: (xmin - 1, ymin - 1, xmax, ymax)."""

    def devkit(a: tuple[int, ...], b: tuple[int, ...]) -> Fraction:
        width = min(a[2], b[2]) - max(a[0], b[0]) + 1
        height = min(a[3], b[3]) - max(a[1], b[1]) + 1
        if width <= 0 or height <= 0:
            return Fraction(0)
        areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
        return Fraction(width * height, sum(areas) - width * height)

    rng = np.random.default_rng(0)
    corners = rng.integers(1, 30, (400, 2, 2, 2))
    inclusive = np.sort(corners, axis=2).reshape(400, 2, 4)  # xmin, ymin, xmax, ymax
    half_open = (inclusive - (1, 1, 0, 0)).astype(np.float32)
    ours = overlaps(half_open[:, 0], half_open[:, 1])
    expected = [float(devkit(*map(tuple, pair))) for pair in inclusive.tolist()]
    assert ours.tolist() == expected
    assert len({0.0, *expected}) > 100


def test_a_box_without_area_overlaps_nothing() -> None:
    empty = np.array([[10, 10, 10, 20], [30, 10, 20, 20]], np.float32)
    assert overlaps(empty, np.array([BOX, (0, 0, 40, 40)], np.float32)).tolist() == [0, 0]
    assert overlaps(empty, empty).tolist() == [0, 0]


def test_the_second_detection_of_a_truth_is_wrong() -> None:
    found = found_table((0, 1, 0.9, BOX), (0, 1, 0.8, BOX))
    truths = truth_table((0, 1, False, BOX), (0, 1, False, FAR))
    assert verdicts(found, truths).tolist() == [RIGHT, WRONG]


def test_a_detection_goes_to_the_truth_it_overlaps_most_even_where_that_is_taken() -> None:
    """COCO takes the next best truth instead."""
    other = (10.0, 12.0, 20.0, 22.0)  # overlaps BOX by 2 / 3
    found = found_table((0, 1, 0.9, BOX), (0, 1, 0.8, (10.0, 10.5, 20.0, 20.5)))
    truths = truth_table((0, 1, False, BOX), (0, 1, False, other))
    assert verdicts(found, truths).tolist() == [RIGHT, WRONG]


def test_of_truths_overlapped_equally_the_first_is_taken() -> None:
    truths = truth_table((0, 1, False, BOX), (0, 1, True, BOX))
    found = found_table((0, 1, 0.9, BOX))
    assert assigned_truths(found, truths)[0].tolist() == [0]
    assert assigned_truths(found, truths[::-1])[0].tolist() == [0]


def test_detections_of_a_difficult_truth_count_neither_way_however_many() -> None:
    truths = truth_table((0, 1, True, FAR), (0, 1, False, BOX))
    found = found_table((0, 1, 0.9, FAR), (0, 1, 0.8, FAR), (0, 1, 0.7, BOX))
    assert verdicts(found, truths).tolist() == [IGNORED, IGNORED, RIGHT]
    assert only(found, truths) == 1


def test_a_difficult_truth_that_is_not_found_is_not_missed() -> None:
    truths = truth_table((0, 1, True, FAR), (0, 1, False, BOX))
    assert only(found_table((0, 1, 0.7, BOX)), truths) == 1


def test_a_small_detection_within_a_difficult_truth_is_wrong() -> None:
    """COCO ignores such a detection if difficult truths are crowds."""
    truths = truth_table((0, 1, True, (0.0, 0.0, 100.0, 100.0)))
    assert verdicts(found_table((0, 1, 0.7, BOX)), truths).tolist() == [WRONG]


def test_labels_and_samples_are_kept_apart() -> None:
    truths = truth_table((0, 2, False, BOX), (1, 2, False, BOX))
    others = [(sample_id, label, 0.9, BOX) for sample_id, label in ((0, 1), (1, 1), (2, 1), (2, 2))]
    found = found_table(*others, (1, 2, 0.8, BOX), (0, 2, 0.7, BOX))
    assert verdicts(found, truths).tolist() == [WRONG] * 4 + [RIGHT] * 2


def test_labels_without_a_truth_that_counts_have_no_precision() -> None:
    truths = truth_table((0, 1, False, BOX), (0, 2, True, BOX))
    found = found_table((0, 2, 0.9, BOX), (0, 3, 0.9, BOX))
    precisions = detection_precisions(found, truths)
    assert precisions == {1: (0.0, 0.0)}


def test_equal_scores_are_ranked_by_sample_then_as_they_stand() -> None:
    truths = truth_table((1, 1, False, BOX), (1, 1, False, FAR))
    right, wrong = (1, 1, 0.5, BOX), (1, 1, 0.5, LESS)
    assert only(found_table(right, wrong), truths) == 1 / 2
    assert only(found_table(wrong, right), truths) == 1 / 4
    other = (0, 1, 0.5, BOX)
    assert (
        only(found_table(right, other), truths) == only(found_table(other, right), truths) == 1 / 4
    )


def test_areas_under_a_curve_computed_by_hand() -> None:
    """Right, wrong, right, wrong, of 4: precision 1, 1/2, 2/3, 1/2 at recall 1/4, 1/4, 2/4, 2/4."""
    precision = average_precision(np.array([True, False, True, False]), 4)
    assert precision.all_points == pytest.approx(1 / 4 * 1 + 1 / 4 * 2 / 3, abs=1e-15)
    # recall 0, 0.1, 0.2 at precision 1; 0.3, 0.4, 0.5 at 2/3; the other five are not reached
    assert precision.eleven_points == pytest.approx((3 * 1 + 3 * 2 / 3) / 11, abs=1e-15)
    assert average_precision(np.array([], bool), 4) == (0, 0)


@pytest.mark.parametrize("tenths", range(11))
def test_a_recall_of_exactly_so_many_tenths_reaches_that_point(tenths: int) -> None:
    """In floating point 3 x 0.1 is above 3 / 10, 6 x 0.1 above 6 / 10 and 7 x 0.1 above 7 / 10."""
    found = average_precision(np.ones(tenths, bool), 10)
    assert found.eleven_points == pytest.approx((tenths + 1) / 11 if tenths else 0, abs=1e-15)


def test_classification_ignores_pictures_with_difficult_ones_only() -> None:
    scores = np.array([[0.9], [0.8], [0.7], [0.6]], np.float32)
    assert classification_precisions(scores, np.array([[-1], [1], [-1], [1]])) == {0: (1, 1)}
    (precision,) = classification_precisions(scores, np.array([[0], [1], [-1], [1]])).values()
    assert precision.all_points == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert classification_precisions(scores, np.array([[-1], [0], [0], [-1]])) == {}


def test_intersection_over_union_of_a_confusion_computed_by_hand() -> None:
    confusion = np.array([[5, 1, 0, 0], [2, 3, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    assert intersections_over_unions(confusion) == {0: 5 / 9, 1: 3 / 6, 3: 0}


# Against a slow reading of the definition -------------------------------------------------------


def slow_precisions(found: NDArray[Any], truths: NDArray[Any]) -> dict[int, tuple[Any, Any]]:
    """One detection after the other, in fractions."""
    precisions = {}
    for label in {int(t["label"]) for t in truths if not t["difficult"]}:
        ranked = sorted(
            (d for d in found if d["label"] == label), key=lambda d: (-d["score"], d["sample_id"])
        )
        there = [t for t in truths if t["label"] == label]
        taken: set[int] = set()
        answers = []
        for detection in ranked:
            best, most = -1, Fraction(0)
            for i, truth in enumerate(there):
                if truth["sample_id"] == detection["sample_id"]:
                    overlap = slow_overlap(detection["box"].tolist(), truth["box"].tolist())
                    if overlap > most:
                        best, most = i, overlap
            if most >= Fraction(1, 2) and there[best]["difficult"]:
                continue
            answers.append(most >= Fraction(1, 2) and best not in taken)
            if answers[-1]:
                taken.add(best)
        precisions[label] = slow_areas(answers, sum(not t["difficult"] for t in there))
    return precisions


def slow_overlap(a: list[float], b: list[float]) -> Fraction:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = map(Fraction, a), map(Fraction, b)
    width, height = min(ax1, bx1) - max(ax0, bx0), min(ay1, by1) - max(ay0, by0)
    if width <= 0 or height <= 0:
        return Fraction(0)
    shared = width * height
    return shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)


def slow_areas(answers: list[bool], num_truths: int) -> tuple[Fraction, Fraction]:
    curve = []
    for count in range(1, len(answers) + 1):
        right = sum(answers[:count])
        curve.append((Fraction(right, num_truths), Fraction(right, count)))

    def precision_from(recall: Fraction) -> Fraction:
        return max((p for r, p in curve if r >= recall), default=Fraction(0))

    steps = [Fraction(k, num_truths) for k in range(1, num_truths + 1)]
    every = sum(precision_from(recall) for recall in steps) / Fraction(num_truths)
    eleven = sum(precision_from(Fraction(t, 10)) for t in range(11)) / Fraction(11)
    return every, eleven


def assert_close(ours: dict[int, Any], slow: dict[int, tuple[Any, Any]]) -> None:
    assert ours.keys() == slow.keys()
    for label, precision in ours.items():
        assert precision == pytest.approx(tuple(map(float, slow[label])), abs=1e-14)


boxes = st.tuples(*[st.integers(0, 6)] * 4).map(
    lambda b: (float(b[0]), float(b[1]), b[0] + b[2] + 1.0, b[1] + b[3] + 1.0)
)
labels, ids = st.integers(1, 2), st.integers(0, 2)


@pytest.mark.slow
@given(
    found=st.lists(st.tuples(ids, labels, st.sampled_from([0.25, 0.5, 0.75]), boxes), max_size=12),
    truths=st.lists(st.tuples(ids, labels, st.booleans(), boxes), max_size=8),
)
def test_precisions_are_those_of_a_slow_reading_of_the_definition(
    found: list[Any], truths: list[Any]
) -> None:
    """On a coarse grid: overlaps of exactly a half, equal overlaps and equal scores are common."""
    found_rows, truth_rows = found_table(*found), truth_table(*truths)
    assert_close(
        detection_precisions(found_rows, truth_rows), slow_precisions(found_rows, truth_rows)
    )


@given(answers=st.lists(st.booleans(), max_size=30), missed=st.integers(0, 12))
def test_areas_are_those_of_a_slow_reading_of_the_definition(
    answers: list[bool], missed: int
) -> None:
    num_truths = sum(answers) + missed
    if num_truths:
        ours = average_precision(np.array(answers, bool), num_truths)
        assert_close({0: ours}, {0: slow_areas(answers, num_truths)})


@given(st.data())
def test_the_order_of_samples_is_of_no_account(data: st.DataObject) -> None:
    found, truths = made_up_tables(range(6), num_classes=3, seed=data.draw(st.integers(0, 50)))
    order = data.draw(st.permutations(range(6)))
    shuffled = [
        np.concatenate([table[table["sample_id"] == i] for i in order]) for table in (found, truths)
    ]
    assert detection_precisions(*shuffled) == detection_precisions(found, truths)


# Against another implementation -----------------------------------------------------------------

MMEVAL = {
    0: [
        (0.264070600271225, 0.26025697588920593),
        (0.24117647111415863, 0.25151515007019043),
        (0.1746031790971756, 0.20779220759868622),
        (0.4218619763851166, 0.4290955364704132),
    ],
    1: [
        (0.34857869148254395, 0.3397108316421509),
        (0.25899210572242737, 0.26253417134284973),
        (0.20416666567325592, 0.22499999403953552),
        (0.16596639156341553, 0.18258212506771088),
    ],
    7: [
        (0.1044960469007492, 0.11893639713525772),
        (0.12771116197109222, 0.13469535112380981),
        (0.47448980808258057, 0.5019480586051941),
        (0.25419411063194275, 0.2486385554075241),
    ],
}
"""Seed to (area, 11points) of labels 1 to 4, as mmeval 0.2.1 (NumPy 2.4.6) gives them in float32.

`VOCMeanAP(num_classes=4, eval_mode=…, nproc=0, classwise=True)` was given each of the 60 samples as
one picture, labels less 1, difficult truths as `bboxes_ignore` and `labels_ignore`. Scores are made
all different: it ranks equal ones arbitrarily. Recalls of exactly 3, 6 or 7 tenths do not occur: it
compares them with floating-point tenths.
"""


@pytest.mark.parametrize("seed", MMEVAL)
def test_precisions_are_those_of_mmeval(seed: int) -> None:
    found, truths = made_up_tables(range(60), num_classes=5, seed=seed)
    found["score"] = np.arange(len(found)) * 7919 % 10007 / 10007
    precisions = detection_precisions(found, truths)
    assert list(precisions) == [1, 2, 3, 4]
    for ours, theirs in zip(precisions.values(), MMEVAL[seed], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-7)
