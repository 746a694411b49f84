"""Clocks for tests, so that a busy machine decides no verdict."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shard_tool.storage import backoff

if TYPE_CHECKING:
    import pytest


class PausesOnly(backoff.Clock):
    """A clock that only pauses advance, and that does not wait for them.

    The number of tries within a time is then exact. Pauses of several threads and coroutines add
    up.
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
    """Give retries a clock that jumps over pauses and otherwise stands still."""
    clock = PausesOnly()
    monkeypatch.setattr(backoff, "clock", clock)
    return clock
