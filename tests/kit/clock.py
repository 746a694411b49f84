"""Time limits that a busy machine does not decide."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMES = 6


def seconds_of(work: Callable[[], object], *, at_most: float) -> float:
    """Seconds that work takes: the first time it takes no longer than that, else the last of six.

    Who takes longer for a reason takes longer each time; who was disturbed does not.
    """
    for _ in range(_TIMES):
        begun = time.monotonic()
        work()
        taken = time.monotonic() - begun
        if taken <= at_most:
            break
    return taken
