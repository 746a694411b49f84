"""Plans and duplicates, compared with slow and obvious references."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_tool.convert.duplicates import _of_shared_size
from shard_tool.convert.plan import ConversionPlan, plan_conversion
from shard_tool.format.tar import BLOCK
from shard_tool.sources.archive import SourceFiles
from shard_tool.sources.voc.devkit import Devkit
from shard_tool.sources.voc.file_table import FileTableBuilder


def plan_of(sizes: list[int], shard_bytes: int, seed: int = 0) -> ConversionPlan:
    """A plan for pictures of these sizes, none of which exists."""
    builder = FileTableBuilder()
    for number, size in enumerate(sizes):
        builder.add("VOC2012", "JPEGImages", b"%06d" % number, 0, size)
        builder.add("VOC2012", "Annotations", b"%06d" % number, 0, 100)
    ids = b"".join(b"%06d\n" % number for number in range(len(sizes)))
    builder.add("VOC2012", "ImageSets/Main", b"train", 0, len(ids))

    class Listed(Devkit):
        def read(self, span: object) -> bytes:
            return ids

    source = SourceFiles("/nowhere", "VOC2012", is_archive=False)
    devkit = Listed(source, builder.by_inner()["VOC2012"])
    return plan_conversion(
        [devkit], task="detection", splits=["train"], shard_bytes=shard_bytes, seed=seed
    )


@pytest.mark.slow
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), st.integers(1, 12_000))
def test_shards_are_cut_before_the_record_that_would_pass_their_size(
    sizes: list[int], shard_bytes: int
) -> None:
    plan = plan_of(sizes, shard_bytes)
    tasks = [plan.shard_task(number) for number in range(plan.num_shards)]
    order = [record for task in tasks for record in task.records]
    assert sorted(record.key for record in order) == [f"{i:06d}" for i in range(len(sizes))]
    expected, filled = [0], 0  # records of each shard
    for record in order:
        size = sum(BLOCK + -(-span.size // BLOCK) * BLOCK for span in record.spans)
        if expected[-1] and filled + size > shard_bytes:
            expected.append(0)
            filled = 0
        expected[-1] += 1
        filled += size
    assert [len(task.records) for task in tasks] == expected


@given(st.integers(0, 3), st.integers(0, 3))
def test_order_depends_on_the_seed_and_on_no_shard_size(seed: int, other: int) -> None:
    def keys(seed: int, shard_bytes: int) -> list[str]:
        plan = plan_of([700] * 30, shard_bytes, seed)
        return [r.key for n in range(plan.num_shards) for r in plan.shard_task(n).records]

    assert keys(seed, 1) == keys(seed, 10_000) == keys(seed, 1 << 30)
    assert (keys(seed, 5000) == keys(other, 5000)) == (seed == other)


def test_order_in_shards_is_pinned() -> None:
    """Promise 1 over releases: a change of this order changes everybody's bytes."""
    keys = [record.key for record in plan_of([700] * 8, 1 << 30).shard_task(0).records]
    assert keys == PINNED


PINNED = ["000007", "000006", "000001", "000002", "000005", "000000", "000004", "000003"]


@pytest.mark.slow
def test_plan_of_a_hundred_thousand_records_takes_few_bytes_a_record() -> None:
    """Only arrays grow with the records: about 100 bytes each, temporary ones included."""
    num = 100_000
    tracemalloc.start()
    plan = plan_of([20_000] * num, 64 << 20)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.num_records == num
    assert held < 120 * num
    assert peak < 300 * num
    assert isinstance(plan.splits[0].keys, np.ndarray)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 3)), max_size=30),
)
def test_candidates_for_duplicates_are_pictures_whose_size_two_sources_have(
    pictures: list[tuple[int, int]],
) -> None:
    sources = np.array([source for source, _ in pictures], np.int16)
    sizes = np.array([size for _, size in pictures], np.int64)
    expected = [
        row
        for row, (source, size) in enumerate(pictures)
        if size >= 0 and any(s != source and other == size for s, other in pictures)
    ]
    assert _of_shared_size(sizes, sources).tolist() == expected
