"""Points in time as a device lives them, taken without waiting for it.

A GPU works behind the program that feeds it. How long it copied, or had nothing to do, is known
from events in its own queue of work, once it has come to them; asking earlier would mean to wait.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch


class Moment:
    """When the device has done what it was given so far; now, where the device is the CPU.

    Args:
        device: Whose moment.
    """

    def __init__(self, device: torch.device) -> None:
        self.host_s = time.perf_counter()
        """When it was taken, by `time.perf_counter`."""
        self._event: Any = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(device))

    def until(self, later: Moment) -> float | None:
        """Seconds on the device to a later moment; None: it has not come there yet."""
        if self._event is None or later._event is None:
            return later.host_s - self.host_s
        if not later._event.query():
            return None
        return float(self._event.elapsed_time(later._event)) / 1000

    def wait(self) -> None:
        """Wait until the device has come here."""
        if self._event is not None:
            self._event.synchronize()

    def __getstate__(self) -> dict[str, Any]:
        return {"host_s": self.host_s, "_event": None}  # another process has not this queue


class Copied(NamedTuple):
    """The way of a batch to the device."""

    begun: Moment
    done: Moment
