"""Tells a damaged object from a network that corrupts, when fetched bytes are not the right ones.

Whoever fetches bytes with a known digest fetches them again where they have another one. What came
decides the rest. If the same wrong bytes come twice, the object itself is damaged, which is an
error at once. If other wrong bytes come each time, they were corrupted on the way: they are
fetched again after growing pauses, until a budget of time is spent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shard_tool.errors import StoreError
from shard_tool.storage.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Hashable

    from shard_tool.errors import FormatError, ShardToolError, SourceError

_FEWEST_FETCHES = 3
"""Fetches before the network is blamed, however long each takes."""
_CORRUPTED = "the network, a gateway or this machine's memory corrupts the bytes: try again later, "
_CORRUPTED += "or by another route"
_AT_REST = "wait until nobody writes there, and repeat"


class WrongBytes:
    """The fetches of some bytes that brought wrong ones.

    Args:
        budget_s: Seconds after which the bytes are not fetched again.
    """

    def __init__(self, budget_s: float) -> None:
        self._backoff = Backoff(budget_s, at_least=_FEWEST_FETCHES)
        self._seen: set[Hashable] = set()
        self._last: ShardToolError
        """Raised when the budget is spent."""

    def note(
        self, error: FormatError | SourceError, found: Hashable | None, *, is_proof: bool = True
    ) -> None:
        """Note what came instead of the right bytes.

        Args:
            error: Names the object and says what is wrong, as if it were damaged.
            found: Tells these wrong bytes from others, and from those of other objects noted here,
                such as their digest; None where the object was replaced while it was read.
            is_proof: Whether the same bytes twice prove that the object is damaged. A page that a
                gateway answers with proves nothing.

        Raises:
            FormatError: The object is damaged: of the type of `error`, as is a SourceError.
        """
        place, problem, hint = error.args  # the error itself holds its traceback, hence all callers
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
        """Wait until it is time to fetch again what was noted.

        Raises:
            StoreError: The budget is spent. If the last bytes came before and prove nothing, an
                error of the type that was noted.
        """
        if not self._backoff.pause():
            raise self._last
