"""Decides whether the object or the network is at fault when fetched bytes are wrong.

A reader that knows a digest fetches bytes again if theirs differs. If the same wrong bytes come
twice, the stored object is damaged: an error at once. If the wrong bytes differ from each other,
the network corrupts them: the reader fetches again after growing pauses, until a budget of time is
spent.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from shard_tool.errors import StoreError
from shard_tool.storage.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Hashable

    from shard_tool.errors import FormatError, ShardToolError, SourceError

log = logging.getLogger(__name__)

_FEWEST_FETCHES = 3
"""Fetches before the network is blamed, however long each takes."""
_WARNED_AFTER = 4
"""Fetches after which a warning says why it takes long."""
_CORRUPTED = "the network, a gateway or this machine's memory corrupts the bytes: try again later, "
_CORRUPTED += "or by another route"
_AT_REST = "wait until nobody writes there, and repeat"


class WrongBytes:
    """The wrong results of fetching some bytes.

    Args:
        budget_s: Seconds after which the reader stops fetching.
    """

    def __init__(self, budget_s: float) -> None:
        self._backoff = Backoff(budget_s, at_least=_FEWEST_FETCHES)
        self._seen: set[Hashable] = set()
        self._last: ShardToolError
        """The error for a spent budget."""

    def note(
        self, error: FormatError | SourceError, found: Hashable | None, *, is_proof: bool = True
    ) -> None:
        """Note wrong bytes.

        Args:
            error: Names the object and says what is wrong with its bytes.
            found: Identifies these wrong bytes among all noted here, for example by their digest;
                None if the object was replaced while it was read.
            is_proof: Whether the same bytes twice prove damage. A gateway's page proves nothing.

        Raises:
            FormatError: The same wrong bytes came before. Has the type of `error`, which may also
                be SourceError.
        """
        place, problem, hint = error.args  # keep no traceback: it would keep all callers alive
        times = self._backoff.failed + 1
        if found is None:
            self._last = StoreError(place, f"{problem} (each of {times} times)", _AT_REST)
        elif found not in self._seen:
            problem += f" (fetched {times} times, other bytes each time)"
            self._last = StoreError(place, problem, _CORRUPTED)
        elif is_proof:
            raise type(error)(place, f"{problem} (the same in 2 fetches)", hint)
        else:
            self._last = type(error)(place, f"{problem} (fetched {times} times)", hint)
        self._seen.add(found)

    def wait(self) -> None:
        """Wait before the next fetch.

        Raises:
            StoreError: The budget is spent; if the same bytes came before without being a proof,
                the type of the noted error.
        """
        if self._backoff.failed == _WARNED_AFTER - 1:
            place, problem, *_ = self._last.args
            text = "%s: %s; fetching it again for up to %.0f s"
            log.warning(text, place, problem, self._backoff.left_s)
        if not self._backoff.pause():
            raise self._last
