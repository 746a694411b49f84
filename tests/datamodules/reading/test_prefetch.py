"""What a prefetcher fetches, and what it leaves alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from datamodules.order.node_shards import ShardSpan
from datamodules.reading.cache import ShardCache
from datamodules.reading.prefetch import Prefetcher, RemoteShards
from datamodules.reading.shard_table import ShardTable
from shard_tool.errors import ShardError, StoreError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.clock import PausesOnly, only_pauses_count
from tests.kit.datasets.stored import stored
from tests.kit.processes.shard_tool_process import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

A, B, C = (ShardSpan(shard, 0, 5, is_whole=True) for shard in range(3))


class Shards:
    """As much of `RemoteShards` as a prefetcher uses."""

    def __init__(self) -> None:
        self.cached: set[ShardSpan] = set()
        self.fetched: list[ShardSpan] = []

    def find(self, span: ShardSpan) -> Path | None:
        return Path() if span in self.cached else None

    def fetch(self, span: ShardSpan, **_: Any) -> Path:
        self.fetched.append(span)
        self.cached.add(span)
        return Path()


def test_an_evicted_span_is_not_fetched_again_before_it_is_needed() -> None:
    """Else a small cache downloads each shard twice: once to be read, once for nothing."""
    shards = Shards()
    prefetcher = Prefetcher(shards, 0.0)  # type: ignore[arg-type]
    prefetcher.follow([A], [B])
    assert eventually(lambda: shards.cached == {A, B})
    shards.cached.discard(A)  # evicted for the next
    prefetcher.follow([B], [C])
    assert eventually(lambda: C in shards.cached)
    assert eventually(lambda: is_waited_for(prefetcher._changed)), "there is still something to do"
    prefetcher.stop()
    assert shards.fetched == [A, B, C]


def is_waited_for(condition: threading.Condition) -> bool:
    return bool(condition._waiters)  # type: ignore[attr-defined]


class SlowTable:
    """A table whose reads wait until they are let go, and may fail."""

    def __init__(self, table: ShardTable) -> None:
        self._table = table
        self.asked: list[str] = []
        self.is_let_go = threading.Event()
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def read_ranges(self, shards: list[int], ranges: list[tuple[str, int, int]]) -> list[bytes]:
        self.asked += [name for name, _, _ in ranges]
        assert self.is_let_go.wait(20)
        if self.failures:
            self.failures -= 1
            raise StoreError("bucket", "is not reached")
        return self._table.read_ranges(shards, ranges)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[SlowTable]:
    folder = Folder(str(stored(tmp_path / "voc", {"train": [3, 4, 5]})))
    table = SlowTable(ShardTable.of([folder], [load_manifest(folder)], [("train",)]))
    yield table
    table.is_let_go.set()


def test_threads_of_a_process_fetch_an_index_once_between_them(
    table: SlowTable, tmp_path: Path
) -> None:
    shards = RemoteShards(table, ShardCache(tmp_path / "cache"))  # type: ignore[arg-type]
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(shards.index, 1)
        assert eventually(lambda: table.asked == ["train-000001.tar.idx"])
        others = [pool.submit(shards.indexes, [0, 1]), pool.submit(shards.indexes, [1, 2])]
        same = pool.submit(shards.index, 1)
        assert eventually(lambda: len(table.asked) == 3)
        table.is_let_go.set()
        lengths = [{s: len(i) for s, i in other.result(20).items()} for other in others]
        assert lengths == [{0: 3, 1: 4}, {1: 4, 2: 5}]
        assert len(first.result(20)) == len(same.result(20)) == 4
    assert sorted(table.asked) == [f"train-{shard:06d}.tar.idx" for shard in range(3)]


def test_threads_that_wait_for_an_index_learn_of_the_failure_too(
    table: SlowTable, tmp_path: Path
) -> None:
    table.failures = 1
    shards = RemoteShards(table, ShardCache(tmp_path / "cache"))  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shards.index, 1)
        assert eventually(lambda: len(table.asked) == 1)
        second = pool.submit(shards.index, 1)
        assert eventually(lambda: is_waited_for(shards._pending[1]._condition))
        table.is_let_go.set()
        for waiting in (first, second):
            with pytest.raises(StoreError, match="bucket: is not reached"):
                waiting.result(20)
        assert len(table.asked) == 1
        assert len(shards.index(1)) == 4


# Wrong bytes ------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PausesOnly:
    return only_pauses_count(monkeypatch)


class SpoiledTable:
    """A table whose bytes come with one of them changed, as long as a test says so."""

    def __init__(self, table: ShardTable, spoil: Callable[[int], int | None]) -> None:
        self._table, self._spoil = table, spoil
        self.num_fetches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def _spoiled(self, content: bytes) -> bytes:
        where = self._spoil(self.num_fetches)
        self.num_fetches += 1
        if where is None:
            return content
        at = where % len(content)
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    def read_ranges(self, shards: list[int], ranges: list[tuple[str, int, int]]) -> list[bytes]:
        return [self._spoiled(found) for found in self._table.read_ranges(shards, ranges)]

    def read_spans(self, spans: list[tuple[int, int, int]]) -> list[bytes]:
        return [self._spoiled(found) for found in self._table.read_spans(spans)]

    def read_parts(self, shard: int, start: int, stop: int) -> Iterator[bytes]:
        yield self._spoiled(b"".join(self._table.read_parts(shard, start, stop)))


WHOLE, CUT = ShardSpan(1, 0, 4, is_whole=True), ShardSpan(1, 1, 3, is_whole=False)
FETCHES: dict[str, Callable[[RemoteShards], object]] = {
    "an index": lambda shards: shards.index(1).to_bytes(),
    "a sample": lambda shards: shards.read_samples([(1, 2)]),
    "a shard": lambda shards: shards.fetch(WHOLE).read_bytes(),
    "a run of samples": lambda shards: shards.fetch(CUT).read_bytes(),
}


def fetched(
    what: str, table: ShardTable, cache: Path, spoil: Callable[[int], int | None]
) -> tuple[object, SpoiledTable]:
    """What came of a fetch from a table that spoils bytes, once it has the index."""
    spoiled = SpoiledTable(table, lambda _: None)
    shards = RemoteShards(spoiled, ShardCache(cache))  # type: ignore[arg-type]
    if what != "an index":
        shards.index(1)
    spoiled.num_fetches, spoiled._spoil = 0, spoil
    try:
        return FETCHES[what](shards), spoiled
    except (ShardError, StoreError) as exc:
        return exc, spoiled


@pytest.mark.parametrize("what", FETCHES)
def test_promise_7_bytes_that_are_wrong_for_seconds_and_then_right_are_fetched(
    table: SlowTable, tmp_path: Path, clock: PausesOnly, what: str
) -> None:
    right, _ = fetched(what, table._table, tmp_path / "right", lambda _: None)
    spoil = lambda number: number if clock.seconds < 5 else None  # noqa: E731
    found, spoiled = fetched(what, table._table, tmp_path / "cache", spoil)
    assert found == right
    assert spoiled.num_fetches == len(clock.pauses) + 1 >= 7


@pytest.mark.parametrize("what", FETCHES)
def test_promise_7_the_same_wrong_bytes_twice_are_a_damaged_object(
    table: SlowTable, tmp_path: Path, clock: PausesOnly, what: str
) -> None:
    error, spoiled = fetched(what, table._table, tmp_path / "cache", lambda _: 7)
    assert isinstance(error, ShardError)
    assert error.problem.endswith("(the same in 2 fetches)")
    assert error.hint.startswith("the object was changed or damaged")
    assert "train-000001.tar" in error.place
    assert spoiled.num_fetches == 2
    assert len(clock.pauses) == 1


@pytest.mark.parametrize("what", FETCHES)
def test_promise_7_wrong_bytes_that_differ_from_each_other_are_the_networks_fault(
    table: SlowTable, tmp_path: Path, clock: PausesOnly, what: str
) -> None:
    error, spoiled = fetched(what, table._table, tmp_path / "cache", lambda number: number)
    assert isinstance(error, StoreError)
    assert error.problem.endswith(f"(fetched {spoiled.num_fetches} times, other bytes each time)")
    assert "the network, a gateway or this machine's memory corrupts" in error.hint
    assert "changed or damaged" not in str(error)
    assert table.timeout_s - 8 <= clock.seconds <= table.timeout_s
