"""Plans and duplicates, compared with slow and obvious references."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_tool.convert.duplicates import _of_shared_size
from shard_tool.convert.plan import ConversionPlan, plan_splits
from shard_tool.convert.rules import Choices, Rules
from shard_tool.convert.survey import survey
from shard_tool.format.tar import BLOCK
from shard_tool.sources.classes import ClassTable
from shard_tool.sources.files import spool as spool_module
from shard_tool.sources.files.archive import FileSpan, SourceFiles
from shard_tool.sources.files.spool import Spool
from shard_tool.sources.report import Report
from shard_tool.sources.source import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Masks:
    """A source of pictures of some sizes with masks of 100 bytes; none of them exists."""

    files = SourceFiles("/nowhere", "", is_archive=False)
    is_listed = True

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self.report = Report()

    def parser(self, content: bytes, place: str) -> Any:
        """Never called: masks are all that there is."""

    def records(self, task: str, split: str) -> Iterator[Record]:
        for number, size in enumerate(self._sizes):
            key = f"{number:06d}"
            yield Record(
                key=key,
                id=key,
                source=0,
                image=FileSpan(f"JPEGImages/{key}.jpg", 0, size),
                annotation=None,
                class_mask=FileSpan(f"SegmentationClass/{key}.png", 0, 100),
                expected_image=f"JPEGImages/{key}.jpg",
                expected_annotation=None,
            )


def plan_of(sizes: Sequence[int], shard_bytes: int, seed: int = 0) -> ConversionPlan:
    """A plan for pictures of these sizes, none of which exists."""
    source: Any = Masks(sizes)
    spool = Spool()
    columns, surveyed = survey(
        [source], ["train"], task="segmentation", unlabelled="auto", spool=spool, workers=1
    )
    rules = Rules(
        task="segmentation",
        classes=ClassTable(("cat",)),
        choices=Choices(),
        conventions=("corners",),
        colors=(),
        formats=("voc",),
        years=("unknown",),
        are_voc=(False,),
        skips=False,
        reencoding=None,
    )
    splits, _ = plan_splits(
        [source],
        ["train"],
        columns,
        spool,
        rules=rules,
        report=surveyed.report,
        shard_bytes=shard_bytes,
        seed=seed,
    )
    return ConversionPlan((source,), rules, splits, surveyed, spool)


def records_of(plan: ConversionPlan) -> list[list[Record]]:
    """The records of each shard, in order."""
    tasks = [plan.shard_task(number) for number in range(plan.num_shards)]
    return [[read.record for read in task.reads()] for task in tasks]


@pytest.mark.slow
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), st.integers(1, 12_000))
def test_shards_are_cut_before_the_record_that_would_pass_their_size(
    sizes: list[int], shard_bytes: int
) -> None:
    plan = plan_of(sizes, shard_bytes)
    shards = records_of(plan)
    order = [record for records in shards for record in records]
    assert sorted(record.key for record in order) == [f"{i:06d}" for i in range(len(sizes))]
    expected, filled = [0], 0  # records of each shard
    for record in order:
        size = sum(BLOCK + -(-span.size // BLOCK) * BLOCK for span in record.pictures)
        if expected[-1] and filled + size > shard_bytes:
            expected.append(0)
            filled = 0
        expected[-1] += 1
        filled += size
    assert [len(records) for records in shards] == expected


@given(st.integers(0, 3), st.integers(0, 3))
def test_order_depends_on_the_seed_and_on_no_shard_size(seed: int, other: int) -> None:
    def keys(seed: int, shard_bytes: int) -> list[str]:
        plan = plan_of([700] * 30, shard_bytes, seed)
        return [record.key for records in records_of(plan) for record in records]

    assert keys(seed, 1) == keys(seed, 10_000) == keys(seed, 1 << 30)
    assert (keys(seed, 5000) == keys(other, 5000)) == (seed == other)


def test_order_in_shards_is_pinned() -> None:
    """Promise 1 over releases: a change of this order changes everybody's bytes."""
    (records,) = records_of(plan_of([700] * 8, 1 << 30))
    assert [record.key for record in records] == PINNED


PINNED = ["000007", "000006", "000001", "000002", "000005", "000000", "000004", "000003"]


_SPOOLED_BYTES = 1 << 20


@pytest.mark.slow
def test_plan_of_a_hundred_thousand_records_takes_few_bytes_a_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the survey on only arrays grow with the records: about 40 bytes each, 130 at the peak.

    The records themselves lie in the spool, which keeps no more than a constant in memory.
    """
    monkeypatch.setattr(spool_module, "_IN_MEMORY_BYTES", _SPOOLED_BYTES)
    num = 100_000
    tracemalloc.start()
    plan = plan_of([20_000] * num, 64 << 20)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.num_records == num
    assert held < 60 * num + _SPOOLED_BYTES
    assert peak < 160 * num + _SPOOLED_BYTES
    assert all(isinstance(column, np.ndarray) for column in plan.splits[0].columns)


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
