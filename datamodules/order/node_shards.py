"""Computes which spans of shards a node fetches, and when. Pure arithmetic.

Lanes keep their samples from epoch to epoch, so a node reads the same span of a shard in each: all
of it, unless the shard straddles a boundary between the lanes of two nodes. A node fetches such a
shard whole if it reads more than half of it, else one run of its samples. Training and
`shard-tool plan` use the same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datamodules.order.partition import lanes_of_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from datamodules.order.canonical import CanonicalOrder, EpochOrder
    from datamodules.order.world import World

_WHOLE_ABOVE = 0.5
"""A node that reads a larger share of a shard fetches all of it, which its SHA-256 verifies."""


class ShardSpan(NamedTuple):
    """Samples `start` to `stop` (excluded) of a shard, which a node fetches together."""

    shard: int
    start: int
    stop: int
    is_whole: bool


class NodeShards:
    """The shard spans that one node reads, in every epoch.

    Args:
        order: The canonical order.
        world: Any rank of the node.
    """

    def __init__(self, order: CanonicalOrder, world: World) -> None:
        self.order = order
        self.lanes = lanes_of_node(world.node, world.num_nodes, order.lanes)
        self._cut = self._cut_shards()

    def __iter__(self) -> Iterator[ShardSpan]:
        """Yield every span once, in the order of shards."""
        shards = [self.order.lane(lane).shards for lane in self.lanes]
        for shard in np.unique(np.concatenate(shards)).tolist():
            yield self.of(shard)

    def of(self, shard: int) -> ShardSpan:
        """Return the span that holds all samples the node reads of a shard."""
        length = int(self.order.shard_lengths[shard])
        start, stop = self._cut.get(shard, (0, length))
        if stop - start > _WHOLE_ABOVE * length:
            return ShardSpan(shard, 0, length, is_whole=True)
        return ShardSpan(shard, start, stop, is_whole=False)

    def windows_at(self, epoch: EpochOrder, position: int) -> tuple[int, ...]:
        """Return the window of each of the node's lanes when the epoch is at `position`."""
        return tuple(epoch.window_of(at) for at in self.places(position))

    def at(self, epoch: EpochOrder, first: int, last: int | None = None) -> list[ShardSpan]:
        """Return the spans of the windows read from position `first` to `last`, lane by lane."""
        shards: list[int] = []
        lasts = self.places(first if last is None else last)
        for start, stop in zip(self.places(first), lasts, strict=True):
            num_windows = epoch.window_of(stop) - epoch.window_of(start) + 1
            shards += epoch.coming_shards(start, num_windows).tolist()
        return [self.of(shard) for shard in dict.fromkeys(shards)]

    def after(self, epoch: EpochOrder, position: int) -> list[ShardSpan]:
        """Return the spans of the next windows; a lane's last window is followed by the next epoch.

        They may include a span being read now, if its shard straddles two lanes.
        """
        shards: list[int] = []
        for at in self.places(position):
            coming = epoch.coming_shards(at, 2)[len(epoch.coming_shards(at, 1)) :]
            if not len(coming):
                coming = self.order.epoch(epoch.number + 1).coming_shards(at % self.order.lanes, 1)
            shards += coming.tolist()
        return [self.of(shard) for shard in dict.fromkeys(shards)]

    def places(self, position: int) -> Iterator[int]:
        """Yield, for each non-empty lane of the node, a position in it at or before `position`."""
        lanes, total = self.order.lanes, self.order.num_samples
        for lane in self.lanes:
            start, stop = self.order.lane_bounds(lane)
            if stop > start:
                item = min(min(position, total - 1) // lanes, stop - start - 1)
                yield item * lanes + lane

    def _cut_shards(self) -> dict[int, tuple[int, int]]:
        """Return (start, stop) samples of the shards that a lane boundary may cut.

        Only the first and the last shard of a lane can be cut. If the node reads several runs of
        one shard, everything between them counts as read.
        """
        runs: dict[int, list[tuple[int, int]]] = {}
        for number in self.lanes:
            lane = self.order.lane(number)
            for at in {0, len(lane.shards) - 1} if len(lane.shards) else ():
                start = int(lane.starts[at])
                run = (start, start + int(lane.lengths[at]))
                runs.setdefault(int(lane.shards[at]), []).append(run)
        return {
            shard: (min(start for start, _ in found), max(stop for _, stop in found))
            for shard, found in runs.items()
        }


def span_bytes(
    span: ShardSpan, num_bytes: NDArray[np.int64], num_samples: NDArray[np.int64]
) -> int:
    """Return a span's size in bytes: exact for a whole shard, else by its share of samples."""
    size = int(num_bytes[span.shard])
    if span.is_whole:
        return size
    return size * (span.stop - span.start) // int(num_samples[span.shard])
