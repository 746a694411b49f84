"""Links labels to the flags and masks of their boxes, through transforms that drop boxes.

torchvision's `SanitizeBoundingBoxes` and `RandomIoUCrop` index labels and masks with the boxes they
keep, but leave our flags as they were. Transforms of others may index boxes and labels alone.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch


class LinkedLabels(torch.Tensor):
    """Labels int64 [N] that know which flags and masks they came with.

    Indexing them indexes `rows` too, by which `linked_flags` picks the flags afterwards. Used as
    the index of a table, they pass `rows` on. Any other operation gives a plain tensor.
    """

    rows: torch.Tensor
    """int64 [N]: the row in `given` of each label."""
    given: dict[str, torch.Tensor]
    """What the target had for each object before any transform: `difficult` bool [M]; `iscrowd`
    int64 [M] and `masks` uint8 [M, H, W], if there were any."""

    @classmethod
    def of(
        cls, labels: torch.Tensor, difficult: torch.Tensor, **given: torch.Tensor | None
    ) -> LinkedLabels:
        """Link labels int64 [N] to flags bool [N], and to what else is `given` of each object."""
        linked = {name: value for name, value in given.items() if value is not None}
        rows = _row_numbers(len(labels))
        return cls._tagged(labels, rows, {"difficult": difficult, **linked})

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.__getitem__ and result.ndim:
            source, at = args
            if isinstance(source, cls):  # labels[kept]
                return cls._tagged(result, source.rows[at], source.given)
            if isinstance(at, cls):  # table[labels], as one merges classes
                return cls._tagged(result, at.rows, at.given)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> LinkedLabels:
        return self._tagged(self.clone(), self.rows.clone(), copy.deepcopy(self.given, memo))

    @classmethod
    def _tagged(
        cls, labels: torch.Tensor, rows: torch.Tensor, given: dict[str, torch.Tensor]
    ) -> LinkedLabels:
        tagged = labels.as_subclass(cls)
        tagged.rows, tagged.given = rows, given
        return tagged


def linked_flags(
    flags: torch.Tensor | None, labels: torch.Tensor, name: str = "difficult"
) -> torch.Tensor | None:
    """The flags of labels: those a transform changed itself, else the given ones, by row."""
    if not isinstance(labels, LinkedLabels) or name not in labels.given:
        return flags
    given = labels.given[name]
    if flags is not None and flags is not given and flags.shape == labels.shape:
        return flags
    return given if labels.rows is _row_numbers(len(given)) else given[labels.rows]


def linked_masks(masks: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """The masks of labels: those a transform picked itself, else the labels' own, by row.

    Masks that were changed, and are as many as the labels, count as picked.
    """
    if not isinstance(labels, LinkedLabels):
        return masks
    num_given = len(labels.given["difficult"])
    is_picked = len(masks) == len(labels) and masks is not labels.given.get("masks")
    if labels.rows is _row_numbers(num_given) or is_picked or len(masks) != num_given:
        return masks
    return masks[labels.rows]


@lru_cache(64)
def _row_numbers(length: int) -> torch.Tensor:
    """int64 [length]: 0, 1, … Shared, so never write to it."""
    return torch.arange(length)
