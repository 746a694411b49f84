"""Pauses between the attempts at one thing, within a budget of time for all of them.

A pause doubles from attempt to attempt and is drawn at random, so that many processes do not ask
in step. All that is retried in this room takes its pauses and its time from here.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 8.0


class Clock:
    """The time by which budgets and pauses go; a test may put another in its place."""

    def now_s(self) -> float:
        """Seconds since some moment; never set back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Stop this thread."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Stop this coroutine."""
        await asyncio.sleep(seconds)


clock = Clock()


class Backoff:
    """The pauses of one thing that is tried until its budget is spent.

    Args:
        budget_s: Seconds all attempts and pauses may take together.
        at_least: Attempts that are made even where the budget does not suffice for them.
    """

    def __init__(self, budget_s: float, *, at_least: int = 1) -> None:
        self.budget_s = budget_s
        self.failed = 0
        """Attempts that failed so far."""
        self._at_least = at_least
        self._deadline_s = clock.now_s() + budget_s
        self._pauses = _pauses()

    @property
    def left_s(self) -> float:
        """Seconds that are left of the budget; below 0 once it is spent."""
        return self._deadline_s - clock.now_s()

    def extend(self, seconds: float) -> None:
        """Add to the budget: time in which something came is not counted."""
        self._deadline_s += seconds

    def next_pause_s(self) -> float | None:
        """Count a failed attempt; seconds to wait before the next, None: the budget is spent."""
        self.failed += 1
        pause_s = next(self._pauses)
        return pause_s if pause_s <= self.left_s or self.failed < self._at_least else None

    def pause(self) -> bool:
        """Count a failed attempt and wait in this thread; False: the budget is spent."""
        pause_s = self.next_pause_s()
        if pause_s is not None:
            clock.sleep(pause_s)
        return pause_s is not None


def _pauses() -> Iterator[float]:
    """Seconds to wait after the first failure, the second and so on."""
    longest = _FIRST_PAUSE_S
    noise = random.SystemRandom()  # decides no sample and no pixel
    while True:
        yield longest * noise.uniform(0.5, 1)
        longest = min(2 * longest, _LONGEST_PAUSE_S)
