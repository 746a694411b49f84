"""Computes how long to pause before each retry, and when to give up.

A pause doubles from attempt to attempt and is drawn at random, so that many processes do not retry
in step. One time limit covers all attempts at one thing, and grows when a part of it arrives.
Everything that retries takes its pauses and its limit from here.

Not tenacity or stamina: their time limit counts from a fixed start, and they retry one call, while
a limit here spans the parts of a range or a thread's downloads. With our limit, pauses and errors
as their callbacks, they would save no line (tried in November 2026).
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
    """The clock that measures budgets and pauses; tests replace it."""

    def now_s(self) -> float:
        """Return seconds since a fixed moment; they never run backwards."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Suspend this coroutine."""
        await asyncio.sleep(seconds)


clock = Clock()


class Backoff:
    """Yields the pauses between attempts until a budget of time is spent.

    Args:
        budget_s: Seconds for all attempts and pauses together.
        at_least: Attempts that are made even if they take longer than the budget.
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
        """Seconds left of the budget; below 0 once it is spent."""
        return self._deadline_s - clock.now_s()

    def extend(self, seconds: float) -> None:
        """Add to the budget, so that time in which data arrived does not count."""
        self._deadline_s += seconds

    def next_pause_s(self) -> float | None:
        """Count a failed attempt and return the seconds before the next; None: budget spent."""
        self.failed += 1
        pause_s = next(self._pauses)
        return pause_s if pause_s <= self.left_s or self.failed < self._at_least else None

    def pause(self) -> bool:
        """Count a failed attempt and block until the next; False: the budget is spent."""
        pause_s = self.next_pause_s()
        if pause_s is not None:
            clock.sleep(pause_s)
        return pause_s is not None


def _pauses() -> Iterator[float]:
    """Yield the seconds to wait after the first failure, the second and so on."""
    longest = _FIRST_PAUSE_S
    noise = random.SystemRandom()  # decides no sample and no pixel
    while True:
        yield longest * noise.uniform(0.5, 1)
        longest = min(2 * longest, _LONGEST_PAUSE_S)
