"""Links labels to the `difficult` flags of their boxes, through transforms that drop boxes.

torchvision's `SanitizeBoundingBoxes` and `RandomIoUCrop` index the labels with the boxes they keep,
but leave our flags as they were.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch


class LinkedLabels(torch.Tensor):
    """Labels int64 [N] that know which flags they came with.

    Indexing them indexes `rows` too, by which `linked_flags` picks the flags afterwards. Used as
    the index of a table, they pass `rows` on. Any other operation gives a plain tensor.
    """

    rows: torch.Tensor
    """int64 [N]: the row in `given` of each label."""
    given: torch.Tensor
    """bool [M]: the flags of the target before any transform."""

    @classmethod
    def of(cls, labels: torch.Tensor, given: torch.Tensor) -> LinkedLabels:
        """Link labels int64 [N] to flags bool [N]."""
        return cls._tagged(labels, _row_numbers(len(labels)), given)

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
    def _tagged(cls, labels: torch.Tensor, rows: torch.Tensor, given: torch.Tensor) -> LinkedLabels:
        tagged = labels.as_subclass(cls)
        tagged.rows, tagged.given = rows, given
        return tagged


def linked_flags(flags: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor | None:
    """The flags of labels: those a transform changed itself, else the given ones, by row."""
    if not isinstance(labels, LinkedLabels):
        return flags
    given = labels.given
    if flags is not None and flags is not given and flags.shape == labels.shape:
        return flags
    return given if labels.rows is _row_numbers(len(given)) else given[labels.rows]


@lru_cache(64)
def _row_numbers(length: int) -> torch.Tensor:
    """int64 [length]: 0, 1, … Shared, so never write to it."""
    return torch.arange(length)
