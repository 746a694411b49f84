"""What a node fetches, and when: the spans of shards its lanes lie in. Pure arithmetic.

Lanes keep their samples from epoch to epoch, so what a node reads of a shard never changes: all of
it, unless the shard straddles a boundary between the lanes of two nodes. Of such a shard a node
fetches the whole where it reads more than half of it, else one run of samples. Training and
`shard-tool plan` ask the same object.
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
"""Share of a shard's samples above which all of it is fetched: its digest then proves it."""


class ShardSpan(NamedTuple):
    """Samples `start` to `stop` (excluded) of a shard, fetched together."""

    shard: int
    start: int
    stop: int
    is_whole: bool


class NodeShards:
    """The spans one node reads, in every epoch.

    Args:
        order: The canonical order.
        world: Tells the node; which of its ranks makes no difference.
    """

    def __init__(self, order: CanonicalOrder, world: World) -> None:
        self.order = order
        self.lanes = lanes_of_node(world.node, world.num_nodes, order.lanes)
        self._cut = self._cut_shards()

    def __iter__(self) -> Iterator[ShardSpan]:
        """Every span once, in the order of shards."""
        shards = [self.order.lane(lane).shards for lane in self.lanes]
        for shard in np.unique(np.concatenate(shards)).tolist():
            yield self.of(shard)

    def of(self, shard: int) -> ShardSpan:
        """The span that holds all the node reads of a shard."""
        length = int(self.order.shard_lengths[shard])
        start, stop = self._cut.get(shard, (0, length))
        if stop - start > _WHOLE_ABOVE * length:
            return ShardSpan(shard, 0, length, is_whole=True)
        return ShardSpan(shard, start, stop, is_whole=False)

    def windows_at(self, epoch: EpochOrder, position: int) -> tuple[int, ...]:
        """The window each lane of the node is in when the epoch is at `position`."""
        return tuple(epoch.window_of(at) for at in self.places(position))

    def at(self, epoch: EpochOrder, first: int, last: int | None = None) -> list[ShardSpan]:
        """Spans of the windows being read from position `first` to `last`, lane by lane."""
        shards: list[int] = []
        lasts = self.places(first if last is None else last)
        for start, stop in zip(self.places(first), lasts, strict=True):
            num_windows = epoch.window_of(stop) - epoch.window_of(start) + 1
            shards += epoch.coming_shards(start, num_windows).tolist()
        return [self.of(shard) for shard in dict.fromkeys(shards)]

    def after(self, epoch: EpochOrder, position: int) -> list[ShardSpan]:
        """Spans of the windows read next; a lane in its last window goes on with the next epoch.

        Also spans that are being read already, where a shard straddles two lanes.
        """
        shards: list[int] = []
        for at in self.places(position):
            coming = epoch.coming_shards(at, 2)[len(epoch.coming_shards(at, 1)) :]
            if not len(coming):
                coming = self.order.epoch(epoch.number + 1).coming_shards(at % self.order.lanes, 1)
            shards += coming.tolist()
        return [self.of(shard) for shard in dict.fromkeys(shards)]

    def places(self, position: int) -> Iterator[int]:
        """For each lane of the node that has samples, a position in it at or before `position`."""
        lanes, total = self.order.lanes, self.order.num_samples
        for lane in self.lanes:
            start, stop = self.order.lane_bounds(lane)
            if stop > start:
                item = min(min(position, total - 1) // lanes, stop - start - 1)
                yield item * lanes + lane

    def _cut_shards(self) -> dict[int, tuple[int, int]]:
        """Shards of which the node reads less than all, and from which sample to which.

        Only the first and the last shard of a lane can be cut. Where the node reads several runs of
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
    """Bytes of a span: exact for a whole shard, else by its share of the samples."""
    size = int(num_bytes[span.shard])
    if span.is_whole:
        return size
    return size * (span.stop - span.start) // int(num_samples[span.shard])
