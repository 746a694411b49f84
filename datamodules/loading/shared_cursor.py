"""Shares the cursor from which a pass starts with workers that are running already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from datamodules.order.cursor import Cursor


class SharedCursor:
    """Where the next pass starts: four integers in shared memory."""

    def __init__(self) -> None:
        self._values = torch.zeros(4, dtype=torch.int64)
        self._values.share_memory_()  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._values.share_memory_()  # type: ignore[no-untyped-call]  # a deep copy is not shared

    def set(self, cursor: Cursor) -> None:
        """Let passes that start from now on begin at this cursor."""
        values = [cursor.epoch, cursor.samples, cursor.lanes, cursor.window]
        self._values.copy_(torch.tensor(values))

    def get(self) -> tuple[int, int, int, int]:
        """(epoch, samples, lanes, window)."""
        epoch, samples, lanes, window = self._values.tolist()
        return epoch, samples, lanes, window
