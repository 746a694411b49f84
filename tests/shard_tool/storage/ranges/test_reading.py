"""Ranges are the same from every storage, asked for together, within a limit."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest
from fsspec.core import url_to_fs

from shard_tool.errors import ObjectMissing, ShardError
from shard_tool.storage import event_loop
from shard_tool.storage.ranges import Range, read_ranges
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.ranged_object import CONTENT, NAME, PART, Store, read_in_parts, read_part

if TYPE_CHECKING:
    from shard_tool.storage.location import Folder
    from tests.kit.faults.kinds import Request

# The same from everywhere -----------------------------------------------------------------------


def test_a_whole_object_is_read(folder: Folder) -> None:
    assert folder.read(NAME) == CONTENT


def test_ranges_come_in_the_order_they_were_asked_for(folder: Folder) -> None:
    places = [(19_000, 20_000), (0, 1), (7, 7_000), (0, 20_000), (19_999, 20_000), (7, 7_000)]
    found = folder.read_ranges([(NAME, start, stop) for start, stop in places])
    assert found == [CONTENT[start:stop] for start, stop in places]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("start", "stop"), [(0, 20_000), (1, 8_001), (3_999, 4_001), (5, 5)])
def test_parts_make_up_the_requested_range(folder: Folder, start: int, stop: int) -> None:
    parts = list(read_in_parts(folder, start, stop))
    assert b"".join(parts) == CONTENT[start:stop]
    assert all(0 < len(part) <= PART for part in parts)


def test_a_missing_object_is_reported_as_missing(folder: Folder) -> None:
    for read in (
        lambda: folder.read("none.tar"),
        lambda: folder.read_ranges([(NAME, 0, 9), ("none.tar", 0, 9)]),
        lambda: list(folder.read_parts("none.tar", 0, 9, num_bytes=9)),
    ):
        with pytest.raises(ObjectMissing, match=r"none\.tar: there is no such object$"):
            read()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("start", [19_000, 20_000, 30_000])
def test_an_object_that_ends_before_the_range_is_an_error(folder: Folder, start: int) -> None:
    times = r"\((\d+ attempts in 60 s|the same in 2 answers)\)"
    with pytest.raises(ShardError, match=rf"{NAME} bytes {start}-40000: .*{times}"):
        read_part(folder, start, 40_000)


# How it is asked for ----------------------------------------------------------------------------


def most_at_once(requests: list[Request]) -> int:
    """Of how many requests the times overlap."""
    starts = [(request.started_s, 1) for request in requests]
    ends = [(request.ended_s, -1) for request in requests if request.ended_s is not None]
    return max(itertools.accumulate(change for _, change in sorted(starts + ends)))


@pytest.mark.parametrize("in_flight", [1, 3])
def test_requests_run_concurrently_up_to_a_limit(store: Store, in_flight: int) -> None:
    store.proxy.latency_s = 0.02
    fs, path = url_to_fs(store.folder.url, **store.folder.options)
    wanted = [Range(f"{path}/{NAME}", "it", start, start + 100) for start in range(0, 900, 100)]
    assert b"".join(read_ranges(fs, wanted, in_flight=in_flight)) == CONTENT[:900]
    assert len(store.proxy.requests) == len(wanted)
    assert most_at_once(store.proxy.requests) == in_flight


@pytest.mark.slow
def test_a_folder_requests_sixteen_ranges_at_a_time(store: Store) -> None:
    store.proxy.latency_s = 0.1
    wanted = [(NAME, start, start + 100) for start in range(0, 4_000, 100)]
    assert b"".join(store.folder.read_ranges(wanted)) == CONTENT[:4_000]
    assert 8 < most_at_once(store.proxy.requests) <= 16


def test_an_error_leaves_no_requests_behind(store: Store) -> None:
    store.proxy.latency_s = 0.02
    wanted = [("none.tar", 0, 9), *((NAME, start, start + 9) for start in range(500))]
    with pytest.raises(ObjectMissing):
        store.folder.read_ranges(wanted)
    loop = event_loop.loop_of(store.folder._fs_path()[0])
    assert not [task for task in asyncio.all_tasks(loop) if "read_one" in repr(task)]
    assert len(store.proxy.requests) < 50


@pytest.mark.usefixtures("small_parts")
def test_one_part_is_fetched_ahead_and_no_more(store: Store) -> None:
    parts = read_in_parts(store.folder)
    for taken in (1, 2):
        next(parts)
        expected = [(i * PART, i * PART + PART) for i in range(taken + 1)]
        assert eventually(lambda expected=expected: store.ranges_asked == expected)  # type: ignore[misc]
        loop = event_loop.loop_of(store.folder._fs_path()[0])
        running = [task for task in asyncio.all_tasks(loop) if "read_one" in repr(task)]
        assert len(running) <= 1
    del parts  # nobody waits for the part ahead
    assert len(store.proxy.requests) == 3
