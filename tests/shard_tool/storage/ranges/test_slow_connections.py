"""A slow connection gets smaller requests, and an error when it brings next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import StoreError
from shard_tool.storage import ranges
from shard_tool.storage.ranges import Range, read_parts, read_ranges
from tests.kit.servers.ranged_object import CONTENT, NAME, Store

if TYPE_CHECKING:
    from tests.kit.clock import PausesOnly


class SlowLink:
    """So many bytes a second; nothing comes before all of an answer does.

    An answer may take one second of the clock, as with a time limit of four.
    """

    protocol = "slow"

    def __init__(self, content: bytes, bytes_per_s: float, clock: PausesOnly) -> None:
        self.content, self.bytes_per_s, self.clock = content, bytes_per_s, clock
        self.asked: list[int] = []

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.asked.append(end - start)
        seconds = (end - start) / self.bytes_per_s
        self.clock.seconds += min(seconds, 1)
        if seconds > 1:
            raise TimeoutError
        return self.content[start:end]


def test_a_range_too_long_for_a_slow_connection_comes_in_chunks(clock: PausesOnly) -> None:
    """In the second of an answer 4 of the 8 MiB come; nothing would ever be there."""
    content = CONTENT * (ranges.PART_BYTES // len(CONTENT) + 1)
    link = SlowLink(content, 4 << 20, clock)
    wanted = Range("it", "it", 3, 3 + ranges.PART_BYTES)
    assert read_ranges(link, [wanted], timeout_s=4) == [content[wanted.start : wanted.stop]]
    assert link.asked[0] == ranges.PART_BYTES
    assert 4 <= len(link.asked) <= 16
    link.asked.clear()  # what was learnt holds for what is read next
    assert b"".join(read_parts(link, wanted, timeout_s=4)) == content[wanted.start : wanted.stop]
    assert max(link.asked) < ranges.PART_BYTES / 2
    link.bytes_per_s = 1 << 30
    read_ranges(link, [wanted], timeout_s=4)
    link.asked.clear()  # and is forgotten when the link is fast again
    read_ranges(link, [wanted], timeout_s=4)
    assert link.asked == [ranges.PART_BYTES]


def test_a_server_without_range_is_asked_for_the_whole_object_after_a_stall(
    clock: PausesOnly,
) -> None:
    class Whole(SlowLink):
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            self.asked.append(end - start)
            if len(self.asked) == 1:
                raise TimeoutError
            return self.content

    content = CONTENT * 20
    link = Whole(content, 0, clock)
    assert read_ranges(link, [Range("it", "it", 0, len(content))], timeout_s=6) == [content]
    assert link.asked == [len(content), ranges._SMALLEST_ASK, len(content)]


def test_an_object_replaced_between_two_chunks_of_a_range_is_read_again(on_s3: Store) -> None:
    whole = CONTENT * 20
    on_s3.put(whole)
    fs = on_s3.folder._fs_path()[0]
    ranges._paces[fs] = ranges._Pace(ask_bytes=ranges._SMALLEST_ASK)
    replaced = []

    async def replacing(*args: Any) -> bytes:
        content = await asked(*args)
        if not replaced:
            replaced.append(on_s3.put(whole[::-1]))
        return content

    asked = ranges._ask_s3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "_ask_s3", replacing)
        wanted = [(NAME, 0, len(whole))]
        found = on_s3.folder.read_ranges(wanted)
    on_s3.put(CONTENT)
    assert replaced
    assert found == [whole[::-1]]


def test_a_connection_that_brings_next_to_nothing_is_an_error(clock: PausesOnly) -> None:
    link = SlowLink(CONTENT * 10, 10_000, clock)
    with pytest.raises(StoreError, match=r"not read after \d+ attempts in 2.5 s"):
        read_ranges(link, [Range("it", "it", 0, 150_000)], timeout_s=2.5)
    smallest = ranges._SMALLEST_ASK
    assert link.asked == [150_000, smallest, smallest]  # a second each, and pauses between
