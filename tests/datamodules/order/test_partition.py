"""EpochPartition gives every rank equal steps and reads each position once."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datamodules.order.partition import EpochPartition
from shard_tool.errors import OptionError


@dataclass(frozen=True)
class Case:
    """Arguments of an `EpochPartition`."""

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


@pytest.mark.slow
@given(cases())
@example(Case(37, 0, 2, 2, drop_last=False))
@example(Case(10, 0, 4, 1, drop_last=False))
def test_tail_rule_repeats_itself_after_every_batch(case: Case) -> None:
    """This is why a count of samples is enough to resume."""
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
def test_partition_refuses_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        EpochPartition(**options)
    assert str(caught.value) == message
