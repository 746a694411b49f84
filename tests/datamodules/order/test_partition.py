"""Who reads what: exactly once, in equal steps, the same batches for every topology."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from datamodules.order.canonical import CanonicalOrder
from datamodules.order.partition import EpochPartition, lanes_of_node
from shard_tool.errors import OptionError
from tests.kit.simulate import (
    SimulatedRun,
    Step,
    Topology,
    assert_resumes_everywhere,
    epoch_ids,
    global_ids,
    simulate,
)

LENGTHS = [7, 3, 11, 5, 2, 9, 4, 6, 8, 5]
"""60 samples."""


def order_of(lengths: list[int] = LENGTHS, **kwargs: Any) -> CanonicalOrder:
    return CanonicalOrder(np.array(lengths, np.int64), **({"seed": 0, "window": 3} | kwargs))


@dataclass(frozen=True)
class Case:
    """Anything from which an epoch can be cut."""

    num_samples: int
    start: int
    world_size: int
    batch_size: int
    drop_last: bool

    @property
    def partition(self) -> EpochPartition:
        return EpochPartition(
            num_samples=self.num_samples,
            start=self.start,
            world_size=self.world_size,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    world_size, drop_last = draw(st.integers(1, 9)), draw(st.booleans())
    num_samples = draw(st.integers(1 if drop_last else world_size, 250))
    start = draw(st.integers(0, num_samples if drop_last else num_samples - world_size))
    return Case(num_samples, start, world_size, draw(st.integers(1, 9)), drop_last)


@st.composite
def topologies(draw: st.DrawFn, *, max_ranks: int = 3, min_batch_size: int = 1) -> Topology:
    num_nodes, ranks = draw(st.integers(1, 4)), draw(st.integers(1, max_ranks))
    return Topology(
        world_size=num_nodes * ranks,
        num_nodes=num_nodes,
        batch_size=draw(st.integers(min_batch_size, 5)),
        num_workers=draw(st.integers(0, 3)),
    )


# Exactly once, equal steps --------------------------------------------------------------------


@given(cases())
@example(Case(10, 0, 4, 1, drop_last=False))
@example(Case(7, 0, 4, 1, drop_last=False))
def test_partition_gives_each_position_to_one_rank_in_one_batch(case: Case) -> None:
    partition = case.partition
    read = [
        position
        for batch in range(partition.num_batches)
        for slot in range(case.world_size)
        for position in partition.positions(batch, slot)
    ]
    stop = partition.bounds(partition.num_batches)[0]
    assert sorted(read) == list(range(case.start, stop))
    if case.drop_last:
        assert 0 <= case.num_samples - stop < partition.global_batch_size
    else:
        assert stop == case.num_samples


@given(cases())
@example(Case(10, 0, 4, 1, drop_last=False))
def test_every_rank_has_a_part_of_every_batch(case: Case) -> None:
    partition = case.partition
    for batch in range(partition.num_batches):
        sizes = [len(partition.positions(batch, slot)) for slot in range(case.world_size)]
        assert min(sizes) > 0
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= max(case.batch_size, 2)
        if case.drop_last:
            assert sizes == [case.batch_size] * case.world_size


@given(cases())
def test_batches_are_consecutive_and_differ_by_one_sample_at_most(case: Case) -> None:
    partition = case.partition
    bounds = [partition.bounds(batch) for batch in range(partition.num_batches + 1)]
    assert bounds[0][0] == case.start
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
    assert bounds[-1][0] == bounds[-1][1]  # one past the last is where the last stops
    sizes = [stop - start for start, stop in bounds[:-1]]
    assert sizes == sorted(sizes, reverse=True)
    assert not sizes or sizes[0] - sizes[-1] <= 1


@given(cases())
def test_rank_takes_the_positions_congruent_to_its_slot_in_order(case: Case) -> None:
    partition = case.partition
    for slot in range(case.world_size):
        for batch in range(partition.num_batches):
            start, stop = partition.bounds(batch)
            expected = [p for p in range(start, stop) if p % case.world_size == slot]
            assert list(partition.positions(batch, slot)) == expected


@given(cases())
def test_number_of_batches_follows_the_rule(case: Case) -> None:
    left, world = case.num_samples - case.start, case.world_size
    size = case.batch_size * world
    expected = left // size if case.drop_last else min(math.ceil(left / size), left // world)
    assert case.partition.num_batches == expected


@given(cases())
def test_num_samples_of_a_rank_are_those_of_its_batches(case: Case) -> None:
    partition = case.partition
    for slot in range(case.world_size):
        batches = range(partition.num_batches)
        read = sum(len(partition.positions(batch, slot)) for batch in batches)
        assert partition.num_samples_of(slot) == read


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), topologies(), st.integers(1, 6))
def test_evaluation_counts_every_sample_exactly_once_on_any_number_of_ranks(
    lengths: list[int], topology: Topology, lanes: int
) -> None:
    assume(sum(lengths) >= topology.world_size)
    steps = simulate(order_of(lengths, shuffle=False, lanes=lanes), topology)
    read = [sample_id for step in steps for rank in step.ids for sample_id in rank]
    assert sorted(read) == list(range(sum(lengths)))
    assert all(rank for step in steps for rank in step.ids)
    assert all(len(step.ids) == topology.world_size for step in steps)


def test_drop_last_drops_another_tail_each_epoch() -> None:
    order, everything = order_of(), set(range(60))
    topology = Topology(world_size=2, batch_size=8)
    dropped = [
        everything - set(global_ids(simulate(order, topology, epoch=epoch, drop_last=True)))
        for epoch in range(3)
    ]
    assert [len(tail) for tail in dropped] == [12, 12, 12]
    assert len({frozenset(tail) for tail in dropped}) == 3


# The tail -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_samples", "world_size", "batch_size", "sizes"),
    [
        pytest.param(32, 2, 4, [8, 8, 8, 8], id="full batches"),
        pytest.param(33, 2, 4, [7, 7, 7, 6, 6], id="one sample over: all shrink a little"),
        pytest.param(5, 4, 8, [5], id="less than one batch"),
        pytest.param(10, 4, 1, [5, 5], id="batch size 1 and ranks that do not divide: some two"),
        pytest.param(7, 4, 1, [7], id="batch size 1, almost two each"),
        pytest.param(3, 3, 1, [3], id="as many samples as ranks"),
        pytest.param(1, 1, 100, [1], id="one sample"),
    ],
)
def test_tail_is_spread_over_the_batches(
    num_samples: int, world_size: int, batch_size: int, sizes: list[int]
) -> None:
    partition = Case(num_samples, 0, world_size, batch_size, drop_last=False).partition
    bounds = [partition.bounds(batch) for batch in range(partition.num_batches)]
    assert [stop - start for start, stop in bounds] == sizes


def test_ranks_of_batch_size_one_take_two_where_ranks_do_not_divide_the_samples() -> None:
    partition = Case(10, 0, 4, 1, drop_last=False).partition
    found = [[list(partition.positions(batch, slot)) for slot in range(4)] for batch in range(2)]
    assert found == [[[0, 4], [1], [2], [3]], [[8], [5, 9], [6], [7]]]


@given(cases())
@example(Case(37, 0, 2, 2, drop_last=False))
@example(Case(10, 0, 4, 1, drop_last=False))
def test_tail_rule_repeats_itself_after_every_batch(case: Case) -> None:
    """Why a count of samples is enough to resume."""
    partition = case.partition
    bounds = [partition.bounds(batch) for batch in range(partition.num_batches)]
    for done in range(len(bounds) + 1):
        start = partition.bounds(done)[0]
        again = EpochPartition(
            num_samples=case.num_samples,
            start=start,
            world_size=case.world_size,
            batch_size=case.batch_size,
            drop_last=case.drop_last,
        )
        assert [again.bounds(batch) for batch in range(again.num_batches)] == bounds[done:]


@pytest.mark.parametrize("drop_last", [False, True])
def test_partition_of_nothing_left_has_no_batches(drop_last: bool) -> None:
    partition = Case(60, 60, 7, 4, drop_last).partition
    assert partition.num_batches == 0
    assert partition.bounds(0) == (60, 60)
    assert [partition.num_samples_of(slot) for slot in range(7)] == [0] * 7


def test_partition_with_drop_last_has_no_batches_when_less_than_one_is_left() -> None:
    partition = Case(60, 50, 4, 4, drop_last=True).partition
    assert partition.num_batches == 0
    assert partition.bounds(0) == (50, 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"num_samples": 3, "world_size": 4},
            "epoch: 3 samples are left for 4 ranks, so some would have none; "
            "use at most 3 ranks, or drop_last=True",
            id="fewer samples than ranks",
        ),
        pytest.param(
            {"num_samples": 60, "start": 55, "world_size": 8},
            "epoch: 5 samples are left for 8 ranks, so some would have none; "
            "use at most 5 ranks, or drop_last=True",
            id="fewer samples left than ranks",
        ),
        pytest.param(
            {"num_samples": 3, "batch_size": 0}, "batch_size: 0 is below 1", id="no batch size"
        ),
        pytest.param(
            {"num_samples": 3, "batch_size": -4}, "batch_size: -4 is below 1", id="negative"
        ),
        pytest.param({"num_samples": 3, "world_size": 0}, "world_size: 0 is below 1", id="world"),
        pytest.param(
            {"num_samples": 3, "start": 4}, "start: 4 is not in [0, 3]", id="start beyond the end"
        ),
        pytest.param(
            {"num_samples": 3, "start": -1}, "start: -1 is not in [0, 3]", id="start below zero"
        ),
    ],
)
def test_partition_refuses_what_cannot_be_cut(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        EpochPartition(**options)
    assert str(caught.value) == message


# One order ------------------------------------------------------------------------------------


def factors(number: int) -> list[int]:
    return [factor for factor in range(1, number + 1) if number % factor == 0]


@st.composite
def equal_global_batches(draw: st.DrawFn) -> tuple[list[Topology], bool]:
    """Topologies of one global batch size, and `drop_last`.

    One sample a rank is left out unless `drop_last`: there the tail rule itself lets some ranks
    hold two, so as to leave none empty.
    """
    size, drop_last = draw(st.sampled_from([4, 6, 12, 16, 24])), draw(st.booleans())
    least = 1 if drop_last else 2
    worlds = [world for world in factors(size) if size // world >= least]
    found = []
    for _ in range(3):
        world = draw(st.sampled_from(worlds))
        found.append(
            Topology(
                world_size=world,
                num_nodes=draw(st.sampled_from(factors(world))),
                batch_size=size // world,
                num_workers=draw(st.integers(0, 4)),
            )
        )
    return found, drop_last


def global_batches(steps: list[Step]) -> list[tuple[int, int, list[int]]]:
    return [(step.start, step.stop, step.global_ids) for step in steps]


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=4, max_size=16),
    equal_global_batches(),
    st.integers(1, 6),
    st.integers(0, 3),
    st.data(),
)
def test_global_batches_are_the_same_for_every_world_workers_and_nodes(
    lengths: list[int],
    found: tuple[list[Topology], bool],
    lanes: int,
    epoch: int,
    data: st.DataObject,
) -> None:
    runs, drop_last = found
    ranks = max(topology.world_size for topology in runs)
    assume(sum(lengths) >= ranks)
    start = data.draw(st.integers(0, sum(lengths) - ranks))
    order = order_of(lengths, lanes=lanes)
    first, *others = [
        global_batches(simulate(order, run, epoch=epoch, start=start, drop_last=drop_last))
        for run in runs
    ]
    assert all(other == first for other in others)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=4, max_size=16), topologies(), st.integers(1, 6))
def test_sequence_is_the_canonical_order_on_any_topology_and_at_any_batch_size(
    lengths: list[int], topology: Topology, lanes: int
) -> None:
    assume(sum(lengths) >= topology.world_size)
    order = order_of(lengths, lanes=lanes)
    canonical = epoch_ids(order)
    assert global_ids(simulate(order, topology)) == canonical
    dropped = global_ids(simulate(order, topology, drop_last=True))
    assert dropped == canonical[: len(dropped)]
    size = topology.batch_size * topology.world_size
    assert len(dropped) == len(canonical) // size * size


@settings(max_examples=40)
@given(st.integers(0, 7), topologies())
def test_worker_count_never_changes_what_a_rank_sees(workers: int, topology: Topology) -> None:
    alone, helped = replace(topology, num_workers=0), replace(topology, num_workers=workers)
    assert simulate(order_of(), helped) == simulate(order_of(), alone)


# Nodes and lanes ------------------------------------------------------------------------------


def readers_of_lanes(order: CanonicalOrder, topology: Topology, start: int) -> list[set[int]]:
    """For each lane, the nodes that read a sample of it, from the positions actually read."""
    readers: list[set[int]] = [set() for _ in range(order.lanes)]
    nodes = [world.node for world in topology.worlds]
    for step in simulate(order, topology, start=start):
        for node, positions in zip(nodes, step.positions, strict=True):
            for position in positions:
                readers[position % order.lanes].add(node)
    return readers


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 12), st.integers(1, 4), st.data())
def test_each_lane_is_read_by_nodes_over_gcd_of_nodes_and_lanes_nodes(
    num_nodes: int, ranks_per_node: int, lanes: int, batch_size: int, data: st.DataObject
) -> None:
    order = order_of([40, 30, 20, 10], lanes=lanes)
    topology = Topology(
        world_size=num_nodes * ranks_per_node, num_nodes=num_nodes, batch_size=batch_size
    )
    start = data.draw(st.integers(0, order.num_samples - math.lcm(num_nodes, lanes) - 18))
    readers = readers_of_lanes(order, topology, start)
    times = num_nodes // math.gcd(num_nodes, lanes)
    assert [len(nodes) for nodes in readers] == [times] * lanes
    for node in range(num_nodes):
        read = [lane for lane in range(lanes) if node in readers[lane]]
        assert read == list(lanes_of_node(node, num_nodes, lanes))


def test_nodes_that_divide_the_lanes_share_no_lane_and_hence_fetch_no_shard_of_a_lane_twice() -> (
    None
):
    topology = Topology(world_size=6, num_nodes=3, batch_size=2)
    assert readers_of_lanes(order_of(lanes=6), topology, 0) == [{0}, {1}, {2}, {0}, {1}, {2}]


# Resuming -------------------------------------------------------------------------------------


@settings(max_examples=25)  # each tries every position
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=8),
    topologies(max_ranks=2),
    st.integers(1, 4),
    st.booleans(),
)
def test_restoring_at_every_position_gives_the_same_tail(
    lengths: list[int], topology: Topology, lanes: int, drop_last: bool
) -> None:
    order = order_of(lengths, lanes=lanes)
    canonical = epoch_ids(order, 2)
    size = topology.world_size * topology.batch_size
    for start in range(len(canonical) + 1):
        left = len(canonical) - start
        if not drop_last and 0 < left < topology.world_size:
            with pytest.raises(OptionError, match=f"{left} samples are left for"):
                simulate(order, topology, epoch=2, start=start)
            continue
        tail = global_ids(simulate(order, topology, epoch=2, start=start, drop_last=drop_last))
        dropped = left % size if drop_last else 0
        assert tail == canonical[start : len(canonical) - dropped]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    "topology",
    [
        pytest.param(Topology(batch_size=7), id="one process"),
        pytest.param(Topology(world_size=4, num_nodes=2, batch_size=3, num_workers=2), id="2x2"),
        pytest.param(Topology(world_size=9, batch_size=1, num_workers=3), id="one sample a rank"),
        pytest.param(Topology(world_size=6, num_nodes=3, batch_size=10), id="one batch an epoch"),
    ],
)
def test_run_resumes_after_every_step_with_the_same_steps(
    topology: Topology, drop_last: bool
) -> None:
    assert_resumes_everywhere(lambda: SimulatedRun(LENGTHS, topology, drop_last=drop_last))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            Topology(world_size=2, batch_size=3), Topology(batch_size=6), id="one process after two"
        ),
        pytest.param(
            Topology(batch_size=6, num_workers=3),
            Topology(world_size=6, num_nodes=3, batch_size=1),
            id="six processes on three nodes after one",
        ),
        pytest.param(
            Topology(world_size=4, num_nodes=4, batch_size=2),
            Topology(world_size=3, num_nodes=1, batch_size=5),
            id="another global batch size",
        ),
    ],
)
def test_run_resumes_after_every_step_on_another_topology_with_the_same_samples(
    before: Topology, after: Topology
) -> None:
    """The lanes of the first run travel in the cursor, whatever nodes the next one has."""
    assert_resumes_everywhere(
        lambda: SimulatedRun(LENGTHS, before),
        elsewhere=lambda: SimulatedRun(LENGTHS, after),
        parts=lambda step: step.global_ids,
    )


@settings(max_examples=40)
@given(st.lists(st.tuples(topologies(), st.integers(0, 4)), min_size=1, max_size=6))
def test_run_that_changes_topology_again_and_again_trains_every_sample_exactly_once(
    legs: list[tuple[Topology, int]],
) -> None:
    trained: list[int] = []
    state, lanes = None, 4
    for topology, num_steps in [*legs, (Topology(batch_size=4), 10**6)]:
        run = SimulatedRun(LENGTHS, topology, lanes=lanes)
        if state is not None:
            run.load_state_dict(state)
        if 60 - run.cursor.samples < topology.world_size:
            continue  # an error of its own; the last leg goes on alone
        for step in itertools.islice(run, num_steps):
            trained += step.global_ids
        state = run.state_dict()
        if run.cursor.epoch:
            break
    assert trained == epoch_ids(order_of(lanes=lanes, window=8))


def test_run_goes_on_with_the_next_epoch_after_the_last_step() -> None:
    run = SimulatedRun(LENGTHS, Topology(world_size=2, batch_size=5))
    epochs = [global_ids(run) for _ in range(3)]
    assert epochs == [epoch_ids(order_of(window=8), epoch) for epoch in range(3)]
    assert (run.cursor.epoch, run.cursor.samples) == (3, 0)
