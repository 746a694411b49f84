"""Pauses double, are random, and count towards the time limit, as attempts do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import ShardError, StoreError
from shard_tool.storage.ranges import PART_BYTES, Range, read_ranges
from tests.kit.servers.ranged_object import CONTENT, LONGEST_PAUSE_S

if TYPE_CHECKING:
    from tests.kit.clock import PausesOnly


class Flaky:
    """Fails so many times."""

    protocol = "flaky"

    def __init__(self, num_failures: float) -> None:
        self.num_failures = num_failures
        self.num_calls = 0

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.num_calls += 1
        if self.num_calls <= self.num_failures:
            raise OSError("not just now")
        return CONTENT[start:end]


def pauses_of(num_failures: int, clock: PausesOnly) -> list[float]:
    clock.pauses = []
    read_ranges(Flaky(num_failures), [Range("it", "it", 0, 9)])
    return clock.pauses


def test_pauses_double_up_to_a_limit_and_are_random(clock: PausesOnly) -> None:
    first, second = pauses_of(12, clock), pauses_of(12, clock)
    longest = [min(0.1 * 2**i, LONGEST_PAUSE_S) for i in range(12)]
    for pauses in (first, second):
        assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert first != second


def test_pauses_count_towards_the_time_limit(clock: PausesOnly) -> None:
    problem = (
        r"it bytes 0-9: not read after (\d+) attempts in 0.5 s \(last: OSError: not just now\)"
    )

    fs = Flaky(1e9)
    with pytest.raises(StoreError, match=problem) as caught:
        read_ranges(fs, [Range("it", "it", 0, 9)], timeout_s=0.5)
    assert f"after {fs.num_calls} attempts" in str(caught.value)
    assert 0.1 < clock.seconds <= 0.5


def test_attempts_count_towards_the_time_limit(clock: PausesOnly) -> None:
    class Slow(Flaky):
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            clock.seconds += 3
            return super().cat_file(path, start, end)

    with pytest.raises(StoreError, match=r"not read after 4 attempts in 10 s"):
        read_ranges(Slow(1e9), [Range("it", "it", 0, 9)], timeout_s=10)


class Gateway:
    """Answers with a page, with the bytes or, after some seconds, not at all: by its script."""

    protocol = "gateway"

    def __init__(self, clock: PausesOnly, *script: str) -> None:
        self.clock, self.script = clock, list(script)

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        answer = self.script.pop(0) if self.script else "silence"
        if answer == "silence":
            self.clock.seconds += 20
            raise TimeoutError
        return b"<html>" if answer == "page" else bytes(end - start)


def test_a_page_and_then_silence_is_not_the_object_s_fault(clock: PausesOnly) -> None:
    problem = r"not read after 4 attempts in 60 s \(last: answered with 6 bytes"
    with pytest.raises(StoreError, match=problem):
        read_ranges(Gateway(clock, "page"), [Range("it", "it", 0, 9)], timeout_s=60)


def test_pages_until_the_time_is_up_are_wrong_answers(
    clock: PausesOnly,
) -> None:
    pages = Gateway(clock, "page", "page")
    problem = r"answered with 6 bytes, asked for 9 \(3 attempts in 19 s\)"
    with pytest.raises(ShardError, match=problem):
        read_ranges(pages, [Range("it", "it", 0, 9)], timeout_s=19)


def test_a_part_that_arrived_makes_the_failures_before_it_forgotten(clock: PausesOnly) -> None:
    two_parts = [Range("it", "it", 0, PART_BYTES + 9)]
    with pytest.raises(StoreError, match=r"\(last: TimeoutError\)"):
        read_ranges(Gateway(clock, "page", "bytes"), two_parts, timeout_s=60)


def test_many_failed_attempts_are_logged(
    clock: PausesOnly, caplog: pytest.LogCaptureFixture
) -> None:
    pauses_of(3, clock)
    assert not caplog.records
    pauses_of(9, clock)
    (record,) = caplog.records
    assert "it bytes 0-9: OSError: not just now; retrying for up to" in record.getMessage()


def test_a_bug_is_not_retried() -> None:
    class Broken:
        protocol = "broken"

        def cat_file(self, path: str, start: int, end: int) -> bytes:
            raise TypeError("a wrong argument")

    with pytest.raises(TypeError):
        read_ranges(Broken(), [Range("it", "it", 0, 9)])
