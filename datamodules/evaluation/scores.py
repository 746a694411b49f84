"""Holds average precisions by class, and their mean; says which keys results by class have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from datamodules.evaluation.voc_metrics import AveragePrecision


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionScores:
    """Average precision of each class; means are over `voc_ap`, and NaN if it is empty."""

    num_samples: int
    voc_ap: dict[int | str, AveragePrecision]
    """Class to its average precision: its name where the evaluator knows names, else its label (a
    classifier's: column). Classes without a counted truth are left out."""

    @property
    def voc_map(self) -> float:
        """VOC's mAP from 2010 on: mean area under the precision/recall curve."""
        return mean(ap.all_points for ap in self.voc_ap.values())

    @property
    def voc07_map(self) -> float:
        """VOC's mAP up to 2009: mean precision at eleven points of recall."""
        return mean(ap.eleven_points for ap in self.voc_ap.values())


def class_keys(
    class_names: Sequence[str] | None, num_classes: int, *, has_background: bool
) -> tuple[int | str, ...]:
    """Keys of results by class: that of label (or column) k at k.

    Args:
        class_names: Names without the background's; None: the keys are numbers.
        num_classes: Classes, background included if there is one.
        has_background: Whether label 0 is the background.

    Raises:
        OptionError: There is another number of names, or one of them twice.

    >>> class_keys(["fox", "wolf"], 3, has_background=True)
    ('background', 'fox', 'wolf')
    >>> class_keys(None, 2, has_background=False)
    (0, 1)
    """
    if class_names is None:
        return tuple(range(num_classes))
    hint = "give those of the dataset, `dataset.class_names`"
    expected = num_classes - has_background
    if len(class_names) != expected:
        problem = f"{len(class_names)} names for num_classes={num_classes}, expected {expected}"
        raise OptionError("class_names", problem, hint)
    if len(set(class_names)) < expected:
        twice = next(name for name in class_names if list(class_names).count(name) > 1)
        raise OptionError("class_names", f"{twice!r} is there twice", hint)
    background = "(background)" if "background" in class_names else "background"
    return (*((background,) if has_background else ()), *class_names)


def mean(values: Iterable[float]) -> float:
    """Mean, rounded once; NaN of no values."""
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan
