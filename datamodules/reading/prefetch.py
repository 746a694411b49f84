"""Fetches remote shards into the cache before they are needed, and single samples until then.

All fetched bytes are verified: an index and a whole shard by the SHA-256 in the manifest, a part of
a shard and a single sample by the CRC-32 of each sample in the index. Wrong bytes are fetched again
(`wrong_bytes`); if they stay wrong, an error names the shard.

One thread per process fetches the spans that will be read next. Processes of a node share the work:
each starts at another span and skips what another is fetching.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import zlib
from collections import OrderedDict
from concurrent.futures import Future
from typing import IO, TYPE_CHECKING

from datamodules.reading.cache import BusyError, NoSpaceError
from shard_tool.errors import ShardError, ShardToolError
from shard_tool.format.tar import INDEX_SUFFIX, ShardIndex
from shard_tool.storage.ranges import ObjectReplacedError
from shard_tool.storage.wrong_bytes import WrongBytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from datamodules.order.node_shards import ShardSpan
    from datamodules.reading.cache import ShardCache
    from datamodules.reading.shard_table import ShardTable

log = logging.getLogger(__name__)

_INDEXES_KEPT = 512
_LOOK_AGAIN_S = 0.1
_AFTER_ERROR_S = 2.0
_LEFT_OVER_KEPT = 1024
_HINT = "the object was changed or damaged: put it there again (`shard-tool verify` finds all such)"


class RemoteShards:
    """Fetches and verifies the remote shards of a table, for one process.

    Args:
        table: The shards.
        cache: Keeps fetched spans.
    """

    def __init__(self, table: ShardTable, cache: ShardCache) -> None:
        self._table, self._cache = table, cache
        self._indexes: OrderedDict[int, ShardIndex] = OrderedDict()
        self._lock = threading.Lock()
        self._pending: dict[int, Future[None]] = {}
        """Shards whose indexes some thread of this process is fetching."""
        self._fetched_bytes = 0

    def index(self, shard: int) -> ShardIndex:
        """Return the verified index of a shard."""
        return self.indexes([shard])[shard]

    def indexes(self, shards: Iterable[int]) -> dict[int, ShardIndex]:
        """Return the verified indexes of these shards; fetches missing ones together.

        Raises:
            ShardError: One is not what the manifest says.
            StoreError: Storage failed until the time was up, or the network corrupts it.
        """
        wanted = dict.fromkeys(shards)
        found: dict[int, ShardIndex] = {}
        wrong = self._wrong_bytes()
        while True:
            known = {shard: self._known_index(shard) for shard in wanted if shard not in found}
            found |= {shard: index for shard, index in known.items() if index}
            missing = [shard for shard in wanted if shard not in found]
            if not missing:
                return {shard: found[shard] for shard in wanted}
            mine, others = self._divide(missing)
            if mine:
                fetched = self._fetched_for_all(mine, wrong)
                found |= fetched
                if len(fetched) < len(mine):
                    wrong.wait()
            for other in others:
                _outcome(other)

    def num_bytes(self, span: ShardSpan) -> int:
        """Return the size of a span in bytes."""
        if span.is_whole:
            return int(self._table.arrays.num_bytes[span.shard])
        starts = self.index(span.shard).starts
        return int(starts[span.stop] - starts[span.start])

    def find(self, span: ShardSpan) -> Path | None:
        """Return the span's file in the cache, if any; its samples are still to be verified."""
        return self._cache.find(self.cached_name(span), self.num_bytes(span))

    @property
    def cache_limit(self) -> int:
        """The most bytes the cache may hold."""
        return self._cache.limit_bytes

    def discard(self, span: ShardSpan) -> None:
        """Remove a cached span whose bytes turned out to be wrong."""
        self._cache.discard(self.cached_name(span))

    def fetch(
        self,
        span: ShardSpan,
        *,
        keep: Iterable[ShardSpan] = (),
        wait_s: float = 0,
        may_evict: bool = True,
    ) -> Path:
        """Return the span's file in the cache; fetches and verifies a missing one.

        Raises:
            BusyError: Another process is fetching it, and still is after `wait_s`.
            NoSpaceError: The cache cannot hold it beside `keep`.
            ShardError: The object is not what the manifest describes.
            StoreError: Storage failed until the time was up.
        """
        size = self.num_bytes(span)
        keep_names = {self.cached_name(other) for other in keep}

        def write(file: IO[bytes]) -> None:
            self._download(span, size, file)

        name = self.cached_name(span)
        return self._cache.fill(
            name, size, write, keep=keep_names, wait_s=wait_s, may_evict=may_evict
        )[0]

    def read_samples(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read samples given as (shard, row) by range, several at a time, and verify each.

        Raises:
            ShardError: A sample does not have the CRC-32 of the index.
            StoreError: Storage failed until the time was up, or the network corrupts it.
        """
        indexes = self.indexes(shard for shard, _ in places)
        contents = [b""] * len(places)
        missing, wrong = list(range(len(places))), self._wrong_bytes()
        while True:
            spans = []
            for at in missing:
                shard, row = places[at]
                start, stop = indexes[shard].starts[row : row + 2].tolist()
                spans.append((shard, start, stop))
            found = zip(missing, self._table.read_spans(spans), strict=True)
            missing = []
            for at, content in found:
                (shard, row), crc = places[at], zlib.crc32(content)
                if crc == int(indexes[shard].crcs[row]):
                    contents[at] = content
                else:
                    missing.append(at)
                    wrong.note(self._wrong_crc(shard, row), (at, crc))
            if not missing:
                return contents
            wrong.wait()

    def take_fetched_bytes(self) -> int:
        """Return the bytes fetched into the cache since the last call, with repetitions."""
        with self._lock:
            taken, self._fetched_bytes = self._fetched_bytes, 0
        return taken

    def cached_name(self, span: ShardSpan) -> str:
        """Return the span's name in the cache."""
        digest: str = self._table.arrays.sha256[span.shard].tobytes().hex()
        return f"{digest}.tar" if span.is_whole else f"{digest}.{span.start}-{span.stop}.tar"

    def _download(self, span: ShardSpan, size: int, file: IO[bytes]) -> None:
        """Write a span and verify it; starts again if it is wrong."""
        wrong, place = self._wrong_bytes(), self._table.place(span.shard)
        while True:
            file.seek(0)
            try:
                if (found := self._download_once(span, size, file)) is None:
                    return
                error, digest = found
                wrong.note(error, digest)
            except ObjectReplacedError as exc:
                error = ShardError(place, exc.problem, _HINT)
                wrong.note(error, None)
            log.warning("%s: %s; fetching it again", place, error.problem)
            wrong.wait()

    def _download_once(
        self, span: ShardSpan, size: int, file: IO[bytes]
    ) -> tuple[ShardError, bytes] | None:
        """Write a span; returns None, or what is wrong with it and the SHA-256 it has."""
        start = 0 if span.is_whole else int(self.index(span.shard).starts[span.start])
        digest = hashlib.sha256()
        for part in self._table.read_parts(span.shard, start, start + size):
            digest.update(part)
            file.write(part)
            with self._lock:
                self._fetched_bytes += len(part)
        if span.is_whole:
            expected = self._table.arrays.sha256[span.shard].tobytes()
            if digest.digest() == expected:
                return None
            problem = f"sha256 {digest.hexdigest()}, the manifest says {expected.hex()}"
            return ShardError(self._table.place(span.shard), problem, _HINT), digest.digest()
        file.seek(0)
        index = self.index(span.shard)
        for row in range(span.start, span.stop):
            content = file.read(int(index.starts[row + 1] - index.starts[row]))
            if zlib.crc32(content) != index.crcs[row]:
                return self._wrong_crc(span.shard, row), digest.digest()
        return None

    def _wrong_crc(self, shard: int, row: int) -> ShardError:
        problem = f"sample {row}: its bytes do not have the CRC-32 of the index"
        return ShardError(self._table.place(shard), problem, _HINT)

    def _wrong_bytes(self) -> WrongBytes:
        return WrongBytes(self._table.timeout_s)

    def _divide(self, missing: list[int]) -> tuple[list[int], set[Future[None]]]:
        """Return the indexes that this thread must fetch, and other threads' pending fetches."""
        with self._lock:
            others = {f for shard in missing if (f := self._pending.get(shard))}
            known = self._pending.keys() | self._indexes.keys()
            mine = [shard for shard in missing if shard not in known]
            self._pending |= dict.fromkeys(mine, Future[None]())
        return mine, others

    def _fetched_for_all(self, mine: list[int], wrong: WrongBytes) -> dict[int, ShardIndex]:
        """Fetch this thread's indexes; waiting threads get them as well, or the error."""
        error: BaseException | None = None
        try:
            return self._fetched_indexes(mine, wrong)
        except BaseException as exc:
            error = exc
            raise
        finally:
            with self._lock:
                (future,) = {self._pending.pop(shard) for shard in mine}
            future.set_exception(error) if error else future.set_result(None)

    def _fetched_indexes(self, shards: list[int], wrong: WrongBytes) -> dict[int, ShardIndex]:
        """Fetch indexes together; wrong ones are noted and left out."""
        sizes = [8 + 12 * int(self._table.arrays.num_samples[shard]) for shard in shards]
        names = [self._table.index_name(shard) for shard in shards]
        ranges = [(name, 0, size) for name, size in zip(names, sizes, strict=True)]
        found = {}
        for shard, content in zip(shards, self._table.read_ranges(shards, ranges), strict=True):
            if index := self._verified_index(shard, content):
                self._cache_index(shard, content)
                found[shard] = index
            else:
                problem = "is not the index the manifest describes"
                error = ShardError(self._table.index_place(shard), problem, _HINT)
                wrong.note(error, (shard, hashlib.sha256(content).digest()))
        return found

    def _index_name(self, shard: int) -> str:
        digest: bytes = self._table.arrays.index_sha256[shard].tobytes()
        return digest.hex() + INDEX_SUFFIX

    def _known_index(self, shard: int) -> ShardIndex | None:
        """Return an index from this process's memory or the cache."""
        with self._lock:
            if shard in self._indexes:
                self._indexes.move_to_end(shard)
                return self._indexes[shard]
        name, size = self._index_name(shard), 8 + 12 * int(self._table.arrays.num_samples[shard])
        path = self._cache.find(name, size)
        try:
            if path is None or (index := self._verified_index(shard, path.read_bytes())):
                return index if path is not None else None
        except FileNotFoundError:  # evicted meanwhile
            return None
        self._cache.discard(name)
        return None

    def _verified_index(self, shard: int, content: bytes) -> ShardIndex | None:
        """Parse and keep an index, if it is the one in the manifest."""
        if hashlib.sha256(content).digest() != self._table.arrays.index_sha256[shard].tobytes():
            return None
        place = self._table.index_place(shard)
        size = int(self._table.arrays.num_bytes[shard])
        index = ShardIndex.from_bytes(content, place=place, shard_bytes=size)
        with self._lock:
            self._indexes[shard] = index
            if len(self._indexes) > _INDEXES_KEPT:
                self._indexes.popitem(last=False)
        return index

    def _cache_index(self, shard: int, content: bytes) -> None:
        def write(file: IO[bytes]) -> None:
            file.write(content)

        try:
            self._cache.fill(self._index_name(shard), len(content), write, may_evict=False)
        except (BusyError, NoSpaceError, OSError) as exc:
            log.debug("%s: its index is not cached: %s", self._table.place(shard), exc)


def _outcome(future: Future[None]) -> None:
    """Wait for another thread's fetch; raises a copy of its error."""
    error = future.exception()
    if isinstance(error, ShardToolError):
        raise type(error)(*error.args) from error
    # After any other error this thread tries itself.


class Prefetcher:
    """Fetches the spans that will be read next, in a thread.

    Args:
        shards: Fetches one span.
        share: In [0, 1): where in a window this process starts. Processes of a node start at
            different places.
    """

    def __init__(self, shards: RemoteShards, share: float) -> None:
        self._shards, self._share = shards, share
        self._windows: tuple[list[ShardSpan], ...] = ()
        self._changed = threading.Condition()
        self._turn = 0
        self._process = os.getpid()
        self.errors: dict[ShardSpan, ShardError] = {}
        """Errors of spans whose bytes were wrong: they are not fetched before they are needed."""
        self._warned: set[ShardSpan] = set()
        self._left_over: dict[ShardSpan, None] = {}
        self._seen: set[ShardSpan] = set()
        """Spans of the present windows that have been in the cache."""
        self._thread: threading.Thread | None = None

    def follow(self, *windows: Sequence[ShardSpan]) -> None:
        """Fetch the spans of these windows from now on, one window after the other.

        After them come spans left over from earlier windows, which were read by range before they
        were fetched; the next epoch needs them. They are fetched into free space only, and not if
        they were evicted since.
        """
        with self._changed:
            coming = {span for window in windows for span in window}
            for span in (span for window in self._windows for span in window):
                if span not in coming and span not in self._seen:
                    self._left_over[span] = None
            self._seen &= coming
            while len(self._left_over) > _LEFT_OVER_KEPT:
                del self._left_over[next(iter(self._left_over))]
            self._windows = tuple(self._rotated(window) for window in windows)
            self._turn += 1
            self._changed.notify()
        if self._thread is None:
            # A daemon: its process may end during a download, which leaves the cache valid.
            self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread after its present download."""
        if self._process == os.getpid():  # a forked child has no thread, and its lock may be held
            with self._changed:
                self._windows, self._turn = (), -1
                self._changed.notify()

    def _rotated(self, window: Sequence[ShardSpan]) -> list[ShardSpan]:
        start = int(self._share * len(window))
        return [*window[start:], *window[:start]]

    def _run(self) -> None:
        while (turn := self._turn) >= 0:
            pause_s = self._work(turn)
            with self._changed:
                if self._turn == turn:
                    self._changed.wait(pause_s)

    def _work(self, turn: int) -> float | None:
        """Fetch the spans once over; returns seconds until the next time, None: when told.

        Stops early when the windows have changed.
        """
        keep: list[ShardSpan] = []
        pauses = set[float]()
        for window in self._windows:
            keep += window  # never evict what is read sooner for what is read later
            for span in window:
                if self._turn != turn:
                    return 0
                pauses.add(self._fetch(span, keep))
        for span in list(self._left_over):
            if self._turn != turn:
                return 0
            self._fetch(span, None)
            with self._changed:
                self._left_over.pop(span, None)
        return min(pauses - {0.0}, default=None)

    def _fetch(self, span: ShardSpan, keep: list[ShardSpan] | None) -> float:
        """Fetch a span unless it is cached; returns seconds until a retry, 0: none is needed.

        `keep` None: into free space only.
        """
        if span in self.errors:
            return 0
        try:
            if self._shards.find(span) is None:
                self._shards.fetch(span, keep=keep or (), may_evict=keep is not None)
            with self._changed:
                self._seen.add(span)
        except BusyError:
            return _LOOK_AGAIN_S
        except NoSpaceError:
            return 0
        except ShardError as exc:
            self.errors[span] = exc
        except (ShardToolError, OSError) as exc:
            if span not in self._warned:
                self._warned.add(span)
                log.warning("prefetch: %s; trying again until it is needed", exc)
            return _AFTER_ERROR_S
        except Exception:  # the thread must live; reading the span raises the error as well
            if span not in self._warned:
                self._warned.add(span)
                log.exception("prefetch")
            return _AFTER_ERROR_S
        return 0
