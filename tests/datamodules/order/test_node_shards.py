"""What a node fetches: everything its ranks read, in every epoch, and little besides."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.order.canonical import CanonicalOrder
from datamodules.order.node_shards import NodeShards, ShardSpan, span_bytes
from datamodules.order.partition import EpochPartition, lanes_of_node
from datamodules.order.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

Rows = dict[int, set[int]]
"""Shard to rows of it."""


@dataclass(frozen=True)
class Case:
    """A run whose spans can be counted by hand."""

    lengths: tuple[int, ...]
    lanes: int
    window: int
    num_nodes: int
    ranks_per_node: int
    seed: int
    shuffle: bool

    @property
    def order(self) -> CanonicalOrder:
        return CanonicalOrder(
            np.array(self.lengths, np.int64),
            seed=self.seed,
            lanes=self.lanes,
            window=self.window,
            shuffle=self.shuffle,
        )

    def worlds(self, node: int) -> list[World]:
        """Of the ranks of one node."""
        first, ranks = node * self.ranks_per_node, self.ranks_per_node
        size = self.num_nodes * ranks
        return [
            World(rank=rank, world_size=size, node=node, num_nodes=self.num_nodes)
            for rank in range(first, first + ranks)
        ]

    def spans(self, node: int) -> NodeShards:
        return NodeShards(self.order, self.worlds(node)[-1])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num_nodes, ranks = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=9))
    lengths[0] += max(0, num_nodes * ranks - sum(lengths))  # a sample for every rank
    return Case(
        lengths=tuple(lengths),
        lanes=draw(st.integers(1, 8)),
        window=draw(st.integers(1, 4)),
        num_nodes=num_nodes,
        ranks_per_node=ranks,
        seed=draw(st.integers(0, 5)),
        shuffle=draw(st.booleans()),
    )


def rows_read(case: Case, node: int, epoch: int) -> Rows:
    """What the ranks of a node read in an epoch, position by position."""
    rows: Rows = defaultdict(set)
    order = case.order
    total, plan = order.num_samples, order.epoch(epoch)
    for world in case.worlds(node):
        partition = EpochPartition(num_samples=total, world_size=world.world_size)
        for batch in range(partition.num_batches):
            places = plan.locate(np.array(partition.positions(batch, world.slot)))
            for shard, row in zip(*places, strict=True):
                rows[int(shard)].add(int(row))
    return rows


def rows_of(span: ShardSpan) -> set[int]:
    return set(range(span.start, span.stop))


# What a node holds ----------------------------------------------------------------------------


@pytest.mark.slow
@given(cases(), st.data())
def test_promise_4_a_node_holds_all_rows_its_ranks_read_in_every_epoch(
    case: Case, data: st.DataObject
) -> None:
    node = data.draw(st.integers(0, case.num_nodes - 1))
    held = {span.shard: span for span in case.spans(node)}
    for epoch in range(3):
        for shard, rows in rows_read(case, node, epoch).items():
            assert rows <= rows_of(held[shard])


@pytest.mark.slow
@given(cases(), st.data())
def test_a_span_covers_the_lanes_or_the_whole_shard_above_half_of_it(
    case: Case, data: st.DataObject
) -> None:
    """By brute force over lanes; where each is read by one node, that is what its ranks read."""
    node = data.draw(st.integers(0, case.num_nodes - 1))
    order = case.order
    expected: Rows = defaultdict(set)
    for number in lanes_of_node(node, case.num_nodes, case.lanes):
        lane = order.lane(number)
        for shard, start, length in zip(lane.shards, lane.starts, lane.lengths, strict=True):
            expected[int(shard)] |= set(range(start, start + length))
    spans = list(case.spans(node))
    assert [span.shard for span in spans] == sorted(expected)
    for span in spans:
        length = case.lengths[span.shard]
        run = range(min(expected[span.shard]), max(expected[span.shard]) + 1)
        is_whole = len(run) > length / 2
        bounds = (0, length) if is_whole else (run.start, run.stop)
        assert span == ShardSpan(span.shard, *bounds, is_whole)
        assert case.spans(node).of(span.shard) == span
    if math.gcd(case.num_nodes, case.lanes) == case.num_nodes:
        assert rows_read(case, node, 0) == expected


@given(cases())
def test_each_lane_is_fetched_by_nodes_over_gcd_of_nodes_and_lanes(case: Case) -> None:
    nodes = [set(lanes_of_node(n, case.num_nodes, case.lanes)) for n in range(case.num_nodes)]
    readers = case.num_nodes // math.gcd(case.num_nodes, case.lanes)
    assert [sum(lane in of for of in nodes) for lane in range(case.lanes)] == [readers] * case.lanes


@pytest.mark.slow
@given(cases())
def test_promise_4_nodes_fetch_their_lanes_and_one_shard_at_most_for_each_boundary(
    case: Case,
) -> None:
    """In samples: a sample's bytes are the same wherever it lies."""
    order, lengths = case.order, np.array(case.lengths, np.int64)
    for node in range(case.num_nodes):
        lanes = lanes_of_node(node, case.num_nodes, case.lanes)
        ends = {bound for lane in lanes for bound in order.lane_bounds(lane)}
        boundaries = ends - {0, order.num_samples}
        of_lanes = sum(int(order.lane(lane).lengths.sum()) for lane in lanes)
        spans = list(case.spans(node))
        fetched = sum(span.stop - span.start for span in spans)
        assert of_lanes <= fetched <= of_lanes + len(boundaries) * max(case.lengths)
        cut = {span.shard for span in spans if span.shard in straddling(order, boundaries)}
        assert fetched <= of_lanes + sum(case.lengths[shard] for shard in cut)
        assert fetched == sum(span_bytes(span, lengths, lengths) for span in spans)


def straddling(order: CanonicalOrder, boundaries: set[int]) -> set[int]:
    """Shards cut by a boundary: those of the samples on both sides of it."""
    in_line = [int(shard) for lane in range(order.lanes) for shard in spread(order, lane)]
    return {in_line[at] for at in boundaries if in_line[at - 1] == in_line[at]}


def spread(order: CanonicalOrder, lane: int) -> Iterator[int]:
    spans = order.lane(lane)
    for shard, length in zip(spans.shards, spans.lengths, strict=True):
        yield from [int(shard)] * int(length)


def test_spans_are_the_same_for_every_rank_of_a_node() -> None:
    order = CanonicalOrder(np.array([7, 5, 9, 4]), seed=3, lanes=2)
    worlds = [World(rank=rank, world_size=6, node=1, num_nodes=2) for rank in (3, 4, 5)]
    spans = [list(NodeShards(order, world)) for world in worlds]
    assert spans[0] == spans[1] == spans[2] != []


def test_one_node_fetches_every_shard_whole_and_once() -> None:
    order = CanonicalOrder(np.array([7, 5, 9, 4]), seed=3, lanes=6)
    found = list(NodeShards(order, World()))
    assert found == [ShardSpan(i, 0, n, is_whole=True) for i, n in enumerate([7, 5, 9, 4])]


@pytest.mark.parametrize(
    ("lengths", "spans"),
    [
        pytest.param([10, 4], [(0, 0, 10, True)], id="most-of-it"),
        pytest.param([6, 8], [(0, 0, 6, True), (1, 0, 1, False)], id="a-run"),
        pytest.param([4, 6], [(0, 0, 4, True), (1, 0, 1, False)], id="one-of-six"),
        pytest.param([4, 2, 6], [(0, 0, 4, True), (1, 0, 2, True)], id="no-straddling"),
        pytest.param([12], [(0, 0, 6, False)], id="exactly-half-is-cut"),
        pytest.param([13], [(0, 0, 13, True)], id="one-more-than-half-is-whole"),
    ],
)
def test_a_node_that_reads_half_of_a_shard_or_less_fetches_only_that(
    lengths: list[int], spans: list[tuple[int, int, int, bool]]
) -> None:
    order = CanonicalOrder(np.array(lengths), seed=0, lanes=2, shuffle=False)
    world = World(rank=0, world_size=2, node=0, num_nodes=2)
    assert list(NodeShards(order, world)) == [ShardSpan(*span) for span in spans]


def test_bytes_of_a_cut_span_are_its_share_and_of_a_whole_one_exact() -> None:
    sizes, samples = np.array([1000, 1001]), np.array([10, 7])
    assert span_bytes(ShardSpan(0, 2, 5, is_whole=False), sizes, samples) == 300
    assert span_bytes(ShardSpan(1, 0, 7, is_whole=True), sizes, samples) == 1001
    assert span_bytes(ShardSpan(1, 0, 3, is_whole=False), sizes, samples) == 429


# When it is fetched ---------------------------------------------------------------------------


def positions_of_node(case: Case, node: int) -> list[int]:
    """Positions of the lanes a node reads, all ranks together."""
    lanes = set(lanes_of_node(node, case.num_nodes, case.lanes))
    return [p for p in range(case.order.num_samples) if p % case.lanes in lanes]


@pytest.mark.slow
@given(cases(), st.data())
def test_what_is_read_at_a_position_is_among_the_spans_at_it(
    case: Case, data: st.DataObject
) -> None:
    node, epoch = data.draw(st.integers(0, case.num_nodes - 1)), data.draw(st.integers(0, 3))
    spans, plan = case.spans(node), case.order.epoch(epoch)
    for position in positions_of_node(case, node):
        shard, row = (int(found[0]) for found in plan.locate(np.array([position])))
        at = {span.shard: span for span in spans.at(plan, position)}
        assert row in rows_of(at[shard])
        assert at[shard] == spans.of(shard)


@given(cases(), st.data())
def test_what_is_read_next_is_among_the_spans_at_a_position_or_after_it(
    case: Case, data: st.DataObject
) -> None:
    """Until every lane has come to the window after its present one; also in the next epoch."""
    node, epoch = data.draw(st.integers(0, case.num_nodes - 1)), data.draw(st.integers(0, 3))
    spans, order = case.spans(node), case.order
    now, then = order.epoch(epoch), order.epoch(epoch + 1)
    position = data.draw(st.sampled_from(positions_of_node(case, node)))
    known = {span.shard for span in spans.at(now, position)}
    known |= {span.shard for span in spans.after(now, position)}
    for lane in lanes_of_node(node, case.num_nodes, case.lanes):
        of_lane = range(lane, order.num_samples, order.lanes)
        left = [p for p in of_lane if p > position]
        if not of_lane:
            continue
        reached = max((p for p in of_lane if p <= position), default=of_lane[0])
        window = now.window_of(reached)
        near = [p for p in left if now.window_of(p) <= window + 1]
        shards = set(now.locate(np.array(near, np.int64))[0].tolist())
        if window == now.window_of(of_lane[-1]):
            first = [p for p in of_lane if then.window_of(p) == 0]
            shards |= set(then.locate(np.array(first))[0].tolist())
        assert shards <= known


@pytest.mark.slow
@given(cases(), st.data())
def test_windows_change_exactly_when_a_lane_of_the_node_begins_a_new_one(
    case: Case, data: st.DataObject
) -> None:
    """All lanes of an item are looked at with its first position, which may be another node's."""
    node, epoch = data.draw(st.integers(0, case.num_nodes - 1)), data.draw(st.integers(0, 3))
    spans, plan = case.spans(node), case.order.epoch(epoch)
    total, lanes = case.order.num_samples, case.lanes
    for position in range(1, total):
        begun = [
            at
            for lane in lanes_of_node(node, case.num_nodes, lanes)
            if position % lanes == 0
            and lanes <= (at := position + lane) < total
            and plan.window_of(at) != plan.window_of(at - lanes)
        ]
        before, here = spans.windows_at(plan, position - 1), spans.windows_at(plan, position)
        assert (before != here) == bool(begun)


# Windows of the order -------------------------------------------------------------------------


@pytest.mark.slow
@given(cases(), st.integers(0, 3))
def test_windows_are_runs_of_a_lane_that_hold_whole_spans(case: Case, epoch: int) -> None:
    """`window_positions` and `window_of` agree with `locate`: that many spans, all their rows."""
    order = case.order
    plan = order.epoch(epoch)
    for lane in range(case.lanes):
        of_lane = list(range(lane, order.num_samples, case.lanes))
        windows: dict[int, list[int]] = defaultdict(list)
        for position in of_lane:
            windows[plan.window_of(position)].append(position)
        assert list(windows) == list(range(len(windows)))
        spans = order.lane(lane)
        bounds = zip(spans.shards.tolist(), spans.starts, spans.lengths, strict=True)
        rows_of_shard = {shard: set(range(start, start + n)) for shard, start, n in bounds}
        for number, positions in windows.items():
            for position in positions:
                assert list(plan.window_positions(position)) == positions
            shards, rows = plan.locate(np.array(positions))
            found: Rows = defaultdict(set)
            for shard, row in zip(shards.tolist(), rows.tolist(), strict=True):
                found[shard].add(row)
            assert found == {shard: rows_of_shard[shard] for shard in found}
            is_last = number == len(windows) - 1
            assert len(found) == case.window or (is_last and len(found) < case.window)
            assert set(plan.coming_shards(positions[0]).tolist()) == set(found)
