"""Forecasts how much a training run downloads, caches and waits, from the manifest alone.

It uses the training code's own order. Bytes and cache sizes are exact if the cache holds all that a
node reads, except for shards cut between two nodes: each part counts by its share of the samples.
Times are a model: every node downloads at its bandwidth and reads at its ranks' speed; it downloads
a window of shards while it reads the one before (as `reading.prefetch` does), and reads the first
window by range while that arrives.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datamodules.order.canonical import CanonicalOrder
from datamodules.order.node_shards import NodeShards, ShardSpan, span_bytes
from datamodules.order.partition import EpochPartition
from datamodules.order.world import World
from shard_tool.errors import OptionError
from shard_tool.keyed_random import philox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datamodules.order.canonical import EpochOrder
    from datamodules.reading.shard_table import ShardTable

_ROUND_TRIPS = 4
"""Requests in a row up to the first batch: manifest, indexes, samples in two waves."""
_LOOKED_AT = 64
"""Global batches that are sampled to measure how well shards are mixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run to forecast.

    Raises:
        OptionError: A number outside its range.
    """

    num_nodes: int = 1
    ranks_per_node: int = 1
    workers_per_rank: int = 0
    batch_size: int = 32
    """Samples of a batch on one rank."""
    epochs: int = 2
    bandwidth_bytes_per_s: float | None = None
    """Bandwidth of each node; None: no times are forecast."""
    latency_s: float = 0.02
    """Seconds of one request."""
    samples_per_s: float | None = None
    """Samples that one rank trains per second without waiting; None: no waits are forecast."""
    lanes: int | None = None
    window: int = 8
    seed: int = 0
    cache_limit: int | None = None
    """Bytes that a node's cache may hold; None: no limit."""

    def __post_init__(self) -> None:
        for name in ("num_nodes", "ranks_per_node", "batch_size", "epochs", "window"):
            if getattr(self, name) < 1:
                raise OptionError(name, f"{getattr(self, name)} is below 1")
        for name in ("workers_per_rank", "latency_s"):
            if getattr(self, name) < 0:
                raise OptionError(name, f"{getattr(self, name)} is below 0")
        for name in ("bandwidth_bytes_per_s", "samples_per_s", "cache_limit", "lanes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise OptionError(name, f"{value} is not above 0")

    @property
    def world_size(self) -> int:
        """Ranks on all nodes."""
        return self.num_nodes * self.ranks_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeForecast:
    """The forecast for one node."""

    node: int
    num_pieces: int
    epoch_bytes: tuple[int, ...]
    """Downloaded in each epoch."""
    all_bytes: int
    """Bytes of all it reads, with indexes: with such a cache it downloads nothing after the first
    epoch."""
    window_bytes: int
    """Most bytes of the current and the next windows: with a smaller cache, some samples are read
    by range."""
    stall_s: tuple[float, ...] | None
    """Seconds of each epoch that its ranks wait for bytes."""
    epoch_s: tuple[float, ...] | None
    """Seconds of each epoch, stalls included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """How close the order is to a shuffle of all samples."""

    shards_per_batch: float
    """Mean number of different shards in a global batch."""
    shards_per_batch_shuffled: float
    """The same number if all samples were shuffled."""
    spread: float
    """Share of the epoch over which the samples of a window's shards are spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The forecast of a run."""

    num_samples: int
    num_shards: int
    num_bytes: int
    lanes: int
    steps: int
    """Steps of each rank in an epoch."""
    nodes: tuple[NodeForecast, ...]
    first_batch_s: float | None
    """Seconds from the first request to the first batch's bytes, without the start of processes."""
    mixing: Mixing


def forecast(table: ShardTable, plan: RunPlan) -> Forecast:
    """Simulate a run without reading a byte of its shards.

    Raises:
        OptionError: Fewer samples than ranks.
    """
    arrays = table.arrays
    lanes = plan.lanes or plan.num_nodes
    order = CanonicalOrder(arrays.num_samples, seed=plan.seed, lanes=lanes, window=plan.window)
    partition = EpochPartition(
        num_samples=order.num_samples, world_size=plan.world_size, batch_size=plan.batch_size
    )
    total = int(arrays.num_bytes.sum())
    first_batch_s = None
    if plan.bandwidth_bytes_per_s:
        at_once = plan.ranks_per_node * max(1, plan.workers_per_rank)  # each makes one batch
        batch_bytes = at_once * plan.batch_size * total / order.num_samples
        first_batch_s = _ROUND_TRIPS * plan.latency_s + batch_bytes / plan.bandwidth_bytes_per_s
    return Forecast(
        num_samples=order.num_samples,
        num_shards=len(arrays.num_samples),
        num_bytes=total,
        lanes=lanes,
        steps=partition.num_batches,
        nodes=tuple(_Node(table, order, plan, node).forecast() for node in range(plan.num_nodes)),
        first_batch_s=first_batch_s,
        mixing=_mixing(order, partition),
    )


class _Epoch(NamedTuple):
    """One epoch of one node."""

    fetched: int
    """Bytes downloaded."""
    most: int
    """Most bytes of the current and the next windows."""
    stall_s: float
    seconds: float


class _Node:
    """Simulates one node, window by window."""

    def __init__(self, table: ShardTable, order: CanonicalOrder, plan: RunPlan, node: int) -> None:
        self._arrays, self._order, self._plan, self._node = table.arrays, order, plan, node
        world = World(
            rank=node,
            world_size=plan.num_nodes,
            node=node,
            num_nodes=plan.num_nodes,
            local_rank=0,
        )
        self._node_shards = NodeShards(order, world)
        self._cached: OrderedDict[ShardSpan, int] = OrderedDict()
        self._held_bytes = 0

    def forecast(self) -> NodeForecast:
        sizes = [self._bytes(span) for span in self._node_shards]
        epochs = [self._epoch(number) for number in range(self._plan.epochs)]
        is_timed = self._plan.samples_per_s and self._plan.bandwidth_bytes_per_s
        return NodeForecast(
            node=self._node,
            num_pieces=len(sizes),
            epoch_bytes=tuple(epoch.fetched for epoch in epochs),
            all_bytes=sum(sizes) + self._index_bytes(self._node_shards),
            window_bytes=max(epoch.most for epoch in epochs),
            stall_s=tuple(epoch.stall_s for epoch in epochs) if is_timed else None,
            epoch_s=tuple(epoch.seconds for epoch in epochs) if is_timed else None,
        )

    def _epoch(self, number: int) -> _Epoch:
        """Simulate one epoch."""
        at_a_time, epoch = len(self._node_shards.lanes), self._order.epoch(number)
        fetched, most, stall, clock, downloaded_at = 0, 0, 0.0, 0.0, 0.0
        begins = list[float]()
        rate = (self._plan.samples_per_s or 0) * self._plan.ranks_per_node
        for number_of_window, (begin, samples, spans) in enumerate(self._windows(epoch)):
            missing = sum(map(self._fetched, spans))
            fetched += missing
            held = {*self._node_shards.at(epoch, begin), *self._node_shards.after(epoch, begin)}
            most = max(most, sum(map(self._bytes, held)) + self._index_bytes(held))
            if not rate or not self._plan.bandwidth_bytes_per_s:
                continue
            if number_of_window >= at_a_time:  # fetched while the one before it is read
                downloaded_at = max(downloaded_at, begins[number_of_window - at_a_time])
            downloaded_at += missing / self._plan.bandwidth_bytes_per_s
            reading = samples / rate
            # The first windows are read while they arrive, each other one once it is there.
            is_first = number_of_window < at_a_time
            late = max(0.0, downloaded_at - clock - (reading if is_first else 0.0))
            begins.append(clock + (0.0 if is_first else late))
            clock += late + reading
            stall += late
        return _Epoch(fetched, most, stall, clock)

    def _windows(self, epoch: EpochOrder) -> list[tuple[int, int, list[ShardSpan]]]:
        """(begin, samples, spans) of the node's windows, in the order they are begun."""
        found = []
        for lane in self._node_shards.lanes:
            position = lane
            while position < self._order.num_samples:
                window = epoch.window_positions(position)
                spans = map(self._node_shards.of, epoch.coming_shards(position, 1).tolist())
                found.append((window[0], len(window), list(dict.fromkeys(spans))))
                position = window[-1] + self._order.lanes
        return sorted(found, key=lambda entry: entry[0])

    def _fetched(self, span: ShardSpan) -> int:
        """Bytes downloaded to read a part of a shard: 0 if it is in the cache."""
        size = self._bytes(span)
        if span in self._cached:
            self._cached.move_to_end(span)
            return 0
        self._cached[span] = size + self._index_bytes([span])
        self._held_bytes += self._cached[span]
        while self._plan.cache_limit is not None and self._held_bytes > self._plan.cache_limit:
            self._held_bytes -= self._cached.popitem(last=False)[1]
        return size

    def _index_bytes(self, spans: Iterable[ShardSpan]) -> int:
        """Bytes of the indexes that the cache holds beside the parts."""
        return sum(8 + 12 * int(self._arrays.num_samples[span.shard]) for span in spans)

    def _bytes(self, span: ShardSpan) -> int:
        return span_bytes(span, self._arrays.num_bytes, self._arrays.num_samples)


def _mixing(order: CanonicalOrder, partition: EpochPartition) -> Mixing:
    epoch, total = order.epoch(0), order.num_samples
    batches = np.arange(partition.num_batches)
    if len(batches) > _LOOKED_AT:
        noise = np.random.Generator(philox(("forecast", order.seed)))
        batches = noise.integers(0, partition.num_batches, _LOOKED_AT)
    lengths, counts = np.unique(order.shard_lengths, return_counts=True)
    distinct, shuffled, spreads = [], [], []
    for batch in batches.tolist():
        start, stop = partition.bounds(batch)
        shards, _ = epoch.locate(np.arange(start, stop))
        distinct.append(len(np.unique(shards)))
        shuffled.append(
            sum(
                count * (1 - _chance_of_none(length, stop - start, total))
                for length, count in zip(lengths.tolist(), counts.tolist(), strict=True)
            )
        )
        window = epoch.window_positions(start)
        spreads.append((window[-1] - window[0] + 1) / total)
    return Mixing(
        shards_per_batch=float(np.mean(distinct)),
        shards_per_batch_shuffled=float(np.mean(shuffled)),
        spread=float(np.mean(spreads)),
    )


def _chance_of_none(length: int, drawn: int, total: int) -> float:
    """Chance that none of a shard's samples is among `drawn` of all samples.

    >>> round(_chance_of_none(1, 3, 4), 9), _chance_of_none(2, 3, 4)
    (0.25, 0.0)
    """
    if length + drawn > total:
        return 0.0
    logs = [total - length, total - drawn, total - length - drawn, total]
    ways = [math.lgamma(number + 1) for number in logs]
    return math.exp(min(0.0, ways[0] + ways[1] - ways[2] - ways[3]))
