"""Holds average precisions by label, and their mean: for detection and for classification."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datamodules.evaluation.voc_metrics import AveragePrecision


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionScores:
    """Average precision of each label; means are over `voc_ap`, and NaN if it is empty."""

    num_samples: int
    voc_ap: dict[int, AveragePrecision]
    """Label (a classifier's: column) to its average precision; labels without a counted truth are
    left out."""

    @property
    def voc_map(self) -> float:
        """VOC's mAP from 2010 on: mean area under the precision/recall curve."""
        return mean(ap.all_points for ap in self.voc_ap.values())

    @property
    def voc07_map(self) -> float:
        """VOC's mAP up to 2009: mean precision at eleven points of recall."""
        return mean(ap.eleven_points for ap in self.voc_ap.values())


def mean(values: Iterable[float]) -> float:
    """Mean, rounded once; NaN of no values."""
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan
