"""Times a device's work without waiting for it.

A GPU runs behind the program that feeds it. CUDA events in its queue of work tell how long it
copied or had nothing to do. An event is read only after the GPU has passed it, so reading never
waits.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch


class DeviceEvent:
    """Marks when the device has done all work it was given so far; on the CPU, that is now.

    Args:
        device: The device whose queue gets the mark.
    """

    def __init__(self, device: torch.device) -> None:
        self.host_s = time.perf_counter()
        """When the event was made, by `time.perf_counter`."""
        self._event: Any = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(device))

    def seconds_until(self, later: DeviceEvent) -> float | None:
        """Seconds on the device to a later event; None: the device has not reached it yet."""
        if self._event is None or later._event is None:
            return later.host_s - self.host_s
        if not later._event.query():
            return None
        return float(self._event.elapsed_time(later._event)) / 1000

    def synchronize(self) -> None:
        """Wait until the device has reached this event."""
        if self._event is not None:
            self._event.synchronize()

    def __getstate__(self) -> dict[str, Any]:
        return {"host_s": self.host_s, "_event": None}  # another process does not have this queue


class DeviceCopy(NamedTuple):
    """The copy of a batch to the device."""

    start: DeviceEvent
    end: DeviceEvent
