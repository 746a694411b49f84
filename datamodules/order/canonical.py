"""Computes the canonical order: which sample is at which position of an epoch. Pure arithmetic.

The order is a function of (shard sizes, seed, epoch, lanes, window, shuffle) alone. Ranks, workers
and batch sizes matter only in `partition`.

* *Lanes.* Shards, in an order fixed by the seed, are laid end to end and cut into `lanes` runs of
  equal length (the first N mod lanes hold one sample more). A shard may straddle a boundary. The
  cut does not depend on the epoch, so a node that keeps reading its lanes keeps its shards.
* *Windows.* Within a lane, each epoch permutes the lane's spans of shards, groups them `window`
  at a time, and permutes the samples of each group.
* *Positions.* Position p is item p // lanes of lane p mod lanes.

Planning an epoch costs one prefix sum over a lane's spans; finding a position costs a binary
search and one window's permutation, however many samples there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from shard_tool.errors import OptionError
from shard_tool.keyed_random import permutation

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEPT_WINDOWS = 4
"""Window permutations kept per lane: the one being read, and some for random access."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A run of the samples laid end to end: spans of shards, the same in every epoch."""

    shards: NDArray[np.int64]
    """int64 [spans]: the shard of each span."""
    starts: NDArray[np.int64]
    """int64 [spans]: row of the span's first sample in its shard."""
    lengths: NDArray[np.int64]
    """int64 [spans]: samples of each span, at least 1."""


class CanonicalOrder:
    """The order of all epochs.

    Args:
        shard_lengths: int64 [shards], samples of each shard in manifest order, each at least 1.
        seed: Determines all permutations.
        lanes: Number of lanes, at least 1.
        window: Spans of shards whose samples are mixed together, at least 1.
        shuffle: False: manifest order within each lane.

    Raises:
        OptionError: No samples, or `lanes` or `window` below 1.
    """

    def __init__(
        self,
        shard_lengths: NDArray[np.int64],
        *,
        seed: int,
        lanes: int = 1,
        window: int = 8,
        shuffle: bool = True,
    ) -> None:
        if lanes < 1 or window < 1:
            raise OptionError("order", f"lanes {lanes} and window {window} must be at least 1")
        if not len(shard_lengths):
            raise OptionError("order", "there are no samples to order")
        self.seed, self.lanes, self.window, self.shuffle = seed, lanes, window, shuffle
        self.shard_lengths = np.asarray(shard_lengths, np.int64)
        self._shards = self._permutation(len(self.shard_lengths), ("shards", seed))
        self._ends = np.cumsum(self.shard_lengths[self._shards])
        self.num_samples = int(self._ends[-1])

    def lane_bounds(self, lane: int) -> tuple[int, int]:
        """Return where a lane starts and stops among the samples laid end to end."""
        base, extra = divmod(self.num_samples, self.lanes)
        return lane * base + min(lane, extra), (lane + 1) * base + min(lane + 1, extra)

    def lane(self, lane: int) -> Lane:
        """Return the spans of one lane, in shard order."""
        start, stop = self.lane_bounds(lane)
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left")) if stop > start else first - 1
        shards = self._shards[first : last + 1]
        ends = self._ends[first : last + 1]
        begins = ends - self.shard_lengths[shards]
        starts = np.maximum(start - begins, 0)
        return Lane(shards, starts, np.minimum(stop - begins, self.shard_lengths[shards]) - starts)

    def epoch(self, epoch: int) -> EpochOrder:
        """Return the order of one epoch."""
        return EpochOrder(self, epoch)

    def _permutation(self, length: int, key: tuple[int | str, ...]) -> NDArray[np.int64]:
        return permutation(length, key) if self.shuffle else np.arange(length, dtype=np.int64)


class EpochOrder:
    """The order of one epoch; plans a lane when it is first asked for."""

    def __init__(self, order: CanonicalOrder, epoch: int) -> None:
        self._order, self.number = order, epoch
        self._lanes: dict[int, _LaneOrder] = {}

    def locate(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return shard and row of the samples at these positions.

        Args:
            positions: int64 [n], each in [0, num_samples).

        Returns:
            (shard, row): int64 [n] each; shard numbers in manifest order, rows in the shard.
        """
        positions = np.asarray(positions, np.int64)
        shards, rows = np.empty_like(positions), np.empty_like(positions)
        lanes, items = positions % self._order.lanes, positions // self._order.lanes
        for lane in set(lanes.tolist()):  # np.unique takes 0.3 ms
            at = np.flatnonzero(lanes == lane)
            shards[at], rows[at] = self._lane(lane).locate(items[at])
        return shards, rows

    def coming_shards(self, position: int, num_windows: int = 1) -> NDArray[np.int64]:
        """Return the shards of `num_windows` windows from that of `position` on, as read."""
        lane, item = position % self._order.lanes, position // self._order.lanes
        return self._lane(lane).coming_shards(item, num_windows)

    @property
    def shards_at_once(self) -> int:
        """Shards that the windows of all lanes mix at a time, at most."""
        return self._order.lanes * self._order.window

    def window_of(self, position: int) -> int:
        """Return the number, in its lane, of the window that holds `position`."""
        lane, item = position % self._order.lanes, position // self._order.lanes
        return self._lane(lane).window_of(item)

    def window_positions(self, position: int) -> range:
        """Return all positions of the window that holds `position`."""
        lanes, lane = self._order.lanes, position % self._order.lanes
        start, stop = self._lane(lane).window_bounds(self.window_of(position))
        return range(start * lanes + lane, stop * lanes + lane, lanes)

    def _lane(self, lane: int) -> _LaneOrder:
        if lane not in self._lanes:
            self._lanes[lane] = _LaneOrder(self._order, self.number, lane)
        return self._lanes[lane]


class _LaneOrder:
    """One lane in one epoch: its spans, permuted, with their prefix sum."""

    def __init__(self, order: CanonicalOrder, epoch: int, lane: int) -> None:
        spans = order.lane(lane)
        turn = order._permutation(len(spans.shards), ("pieces", order.seed, epoch, lane))
        self._shards, self._starts = spans.shards[turn], spans.starts[turn]
        self._offsets = np.concatenate([[0], np.cumsum(spans.lengths[turn])])
        self._window = order.window
        key = (order.seed, epoch, lane)

        @lru_cache(maxsize=_KEPT_WINDOWS)
        def turn_of(window: int, length: int) -> NDArray[np.int64]:
            return order._permutation(length, ("window", *key, window))

        self._turn_of = turn_of

    def locate(self, items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (shard, row) of items of this lane."""
        windows = (np.searchsorted(self._offsets, items, side="right") - 1) // self._window
        mixed = np.empty_like(items)
        for window in set(windows.tolist()):
            at = np.flatnonzero(windows == window)
            start, stop = self.window_bounds(window)
            mixed[at] = start + self._turn_of(window, stop - start)[items[at] - start]
        spans = np.searchsorted(self._offsets, mixed, side="right") - 1
        return self._shards[spans], self._starts[spans] + mixed - self._offsets[spans]

    def coming_shards(self, item: int, num_windows: int) -> NDArray[np.int64]:
        """Return the shards of the item's window and the following ones."""
        window = self.window_of(item)
        return self._shards[window * self._window : (window + num_windows) * self._window]

    def window_bounds(self, window: int) -> tuple[int, int]:
        """Return the first item of a window, and the one after its last."""
        last = min((window + 1) * self._window, len(self._shards))
        return int(self._offsets[window * self._window]), int(self._offsets[last])

    def window_of(self, item: int) -> int:
        """Return the number of the window that holds the item."""
        return int(np.searchsorted(self._offsets, item, side="right") - 1) // self._window
