"""Simulated runs read the same samples, each once, on every topology and after every resume."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datamodules.order.canonical import CanonicalOrder
from datamodules.order.partition import lanes_of_node
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


@st.composite
def topologies(draw: st.DrawFn, *, max_ranks: int = 3, min_batch_size: int = 1) -> Topology:
    num_nodes, ranks = draw(st.integers(1, 4)), draw(st.integers(1, max_ranks))
    return Topology(
        world_size=num_nodes * ranks,
        num_nodes=num_nodes,
        batch_size=draw(st.integers(min_batch_size, 5)),
        num_workers=draw(st.integers(0, 3)),
    )


# Exactly once ---------------------------------------------------------------------------------


@pytest.mark.slow
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


# One order ------------------------------------------------------------------------------------


def factors(number: int) -> list[int]:
    return [factor for factor in range(1, number + 1) if number % factor == 0]


@st.composite
def equal_global_batches(draw: st.DrawFn) -> tuple[list[Topology], bool]:
    """Three topologies with one global batch size, and `drop_last`.

    Without `drop_last` every rank has two samples or more: with one, the tail rule gives some
    ranks two samples, so that no rank is empty.
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 12), st.integers(1, 4), st.data())
def test_each_lane_is_read_by_as_few_nodes_as_the_gcd_allows(
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


@pytest.mark.slow
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
    """The cursor carries the lanes of the first run, whatever nodes the next run has."""
    assert_resumes_everywhere(
        lambda: SimulatedRun(LENGTHS, before),
        elsewhere=lambda: SimulatedRun(LENGTHS, after),
        parts=lambda step: step.global_ids,
    )


@pytest.mark.slow
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
            continue  # refused, as another test shows; the last leg has one rank
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
