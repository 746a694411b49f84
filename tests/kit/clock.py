"""Clocks for tests: no verdict depends on how busy the machine is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shard_tool.storage import backoff

if TYPE_CHECKING:
    import pytest


class PausesOnly(backoff.Clock):
    """A clock that only pauses move on, and that does not wait for them.

    How often something is tried within its time is then a matter of arithmetic. Pauses of several
    threads and coroutines all count.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.pauses: list[float] = []

    def now_s(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)
        await asyncio.sleep(0)


def only_pauses_count(monkeypatch: pytest.MonkeyPatch) -> PausesOnly:
    """Give retries a clock that jumps over pauses and stands still otherwise."""
    clock = PausesOnly()
    monkeypatch.setattr(backoff, "clock", clock)
    return clock
