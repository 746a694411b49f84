"""Files of a remote archive: compared with what the scan saw, and read again where they differ."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import SourceError, StoreError
from shard_tool.sources.files.archive import FileSpan, SourceFiles
from shard_tool.storage.location import StoredObject
from tests.kit.clock import PausesOnly, only_pauses_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FILES = [b"the first file", b"the second one"]
SPANS = [
    FileSpan(f"VOC2007/{n}.jpg", 100 * n, len(FILES[n]), zlib.crc32(FILES[n])) for n in range(2)
]
ARCHIVE = SourceFiles("memory://archive.tar", "VOC2007", is_archive=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PausesOnly:
    return only_pauses_count(monkeypatch)


def answers(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[int], bytes | None]
) -> list[Sequence[tuple[int, int]]]:
    """Readings of the archive; what they give in place of the second file is told by number."""
    asked: list[Sequence[tuple[int, int]]] = []

    def read_ranges(_: StoredObject, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        asked.append(wanted)
        other = spoil(len(asked) - 1)
        return [FILES[start // 100] if start < 100 else other or FILES[1] for start, _ in wanted]

    monkeypatch.setattr(StoredObject, "read_ranges", read_ranges)
    return asked


def read() -> list[bytes]:
    with ARCHIVE.opened() as read:
        return read(SPANS)


def test_a_file_that_is_wrong_for_seconds_is_read_again_alone(
    monkeypatch: pytest.MonkeyPatch, clock: PausesOnly
) -> None:
    asked = answers(monkeypatch, lambda number: b"%d" % number if clock.seconds < 5 else None)
    assert read() == FILES
    assert len(asked[0]) == 2
    assert all(len(wanted) == 1 for wanted in asked[1:])
    assert len(asked) == len(clock.pauses) + 1 >= 7


@pytest.mark.usefixtures("clock")
def test_a_file_that_is_wrong_in_the_same_way_twice_was_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = answers(monkeypatch, lambda _: b"another file")
    problem = r"VOC2007/1\.jpg: its bytes are not those of the scan \(the same in 2 fetches\)"
    with pytest.raises(SourceError, match=problem):
        read()
    assert len(asked) == 2


@pytest.mark.usefixtures("clock")
def test_a_file_that_is_wrong_in_another_way_each_time_is_the_networks_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers(monkeypatch, lambda number: b"%d" % number)
    with pytest.raises(StoreError, match=r"other bytes each time\); the network"):
        read()
