"""Names and numbers of a dataset's classes, by the table of its manifest (class name to label)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_MASK_LABEL = 254
"""Masks are stored as one byte a pixel, and 255 is void."""


def names_by_label(classes: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the classes: that of label k at k - 1.

    A label that the table leaves out is named by its number.

    >>> names_by_label({"wolf": 2, "red fox": 1, "bear": 4})
    ('red fox', 'wolf', '3', 'bear')
    """
    by_label = {label: name for name, label in classes.items()}
    return tuple(by_label.get(k, str(k)) for k in range(1, 1 + max(by_label, default=0)))


def num_classes_of(classes: Mapping[str, int], task: str) -> int:
    """Labels with the background (0), as models count them; classification has no background.

    >>> num_classes_of({"fox": 1, "wolf": 2}, "detection")
    3
    >>> num_classes_of({"fox": 1, "wolf": 2}, "classification")
    2
    """
    return max(classes.values(), default=0) + (task != "classification")


def check_masks_hold(classes: Mapping[str, int], task: str, *, place: str) -> None:
    """Refuse segmentation where a class has a label that masks cannot hold.

    Raises:
        OptionError: A label is above 254.
    """
    most = max(classes.values(), default=0)
    if task == "segmentation" and most > MOST_MASK_LABEL:
        problem = f"has labels up to {most}, and a mask holds {MOST_MASK_LABEL} at most (255: void)"
        hint = "give task='detection' if its samples have boxes, or convert with fewer --classes"
        raise OptionError(place, problem, hint)
