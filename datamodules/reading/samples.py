"""Reads the verified bytes of samples, which it finds through the index of their shard.

Local shards are mapped into memory after their length is compared with the manifest. Remote shards
are mapped once they are in the cache (`prefetch`); until then, or if the cache is full, samples are
read by range. A limited number of maps stays open; the least recently read one is closed first. A
copy or a forked child starts without maps, threads and connections of the original.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import resource
import time
import weakref
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from datamodules.order.node_shards import ShardSpan
from datamodules.profiling.batch_cost import Cost
from datamodules.reading.cache import BusyError, NoSpaceError
from datamodules.reading.prefetch import Prefetcher, RemoteShards
from shard_tool.errors import ObjectMissing, ShardError, ShardToolError
from shard_tool.format.tar import ReadAt, ShardIndex, copy_members, read_at_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from datamodules.order.canonical import EpochOrder
    from datamodules.order.node_shards import NodeShards
    from datamodules.reading.cache import ShardCache
    from datamodules.reading.shard_table import ShardTable

log = logging.getLogger(__name__)

_OPEN_SHARDS = 64
"""Maps that a process keeps unless windows need more; each holds a file descriptor."""


class RawSample(NamedTuple):
    """The bytes of one sample as stored in its shard."""

    url: str
    """The shard's path or URL."""
    key: str
    members: dict[str, memoryview]
    """Extension ('jpg', 'png' or 'webp'; 'json', 'class.png') to content, as views of the map."""

    @property
    def place(self) -> str:
        """Shard and key, for messages."""
        return f"{self.url}: sample {self.key!r}"


class _Windows(NamedTuple):
    """The windows being read, and which of their spans are waited for."""

    number: object = None
    urgent: frozenset[ShardSpan] = frozenset()
    """Spans of the first windows: read by range at once, so that the first batch comes soon."""
    awaited: frozenset[ShardSpan] = frozenset()
    """Spans of the present and the next windows: being fetched, so worth waiting for."""


class ShardReader:
    """Reads samples by (shard, row).

    Args:
        table: The shards.
        cache: For remote shards; None if all are local.
        check_crc: Compare every sample of a local shard with its CRC-32 in the index, at about
            0.02 ms a sample. Off by default, since `shard-tool verify` hashes local shards.
            Samples of remote shards are always compared.
    """

    _process: int
    _open: OrderedDict[int, _MappedSpan]
    _remote: RemoteShards | None
    _prefetcher: Prefetcher | None
    _node_shards: NodeShards | None
    _windows: _Windows
    _warned: set[type[Exception]]
    _num_kept: int

    def __init__(
        self, table: ShardTable, *, cache: ShardCache | None = None, check_crc: bool = False
    ) -> None:
        self._table, self._cache, self._check_crc = table, cache, check_crc
        self.cost = Cost()
        """Grows with every sample read; `take_cost` resets it for each batch."""
        self._start_afresh()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_table", "_cache", "_check_crc", "cost")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_afresh()

    def begin_pass(self) -> None:
        """Start a pass: forget the present windows and the shards that were wrong.

        Samples of the next windows may be read by range.
        """
        self._windows = _Windows()
        if self._prefetcher is not None:
            self._prefetcher.errors.clear()

    def follow(
        self, node_shards: NodeShards, epoch: EpochOrder, first: int, last: int, share: float
    ) -> None:
        """Tell which positions are read next, so that what follows them is fetched meanwhile.

        Args:
            node_shards: What this node reads.
            epoch: The order of the present epoch.
            first: The first position read next.
            last: The last one.
            share: In [0, 1): where in a window this process starts to fetch.
        """
        # Lanes change windows at different times, hence twice.
        self._num_kept = max(_OPEN_SHARDS, min(2 * epoch.shards_at_once, _most_open()))
        if self._cache is None:
            return
        self._check_process()
        number = (
            epoch.number,
            node_shards.windows_at(epoch, first),
            node_shards.windows_at(epoch, last),
        )
        if number == self._windows.number:
            return
        now = node_shards.at(epoch, first, last)
        current = self._remote_ones(now)
        coming = self._remote_ones(p for p in node_shards.after(epoch, last) if p not in now)
        urgent = self._windows.urgent if self._windows.number else frozenset(current)
        self._node_shards = node_shards
        self._windows = _Windows(number, urgent, frozenset([*current, *coming]))
        self._close_others({span.shard for span in self._windows.awaited})
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(self._remote_shards(), share)
            weakref.finalize(self, self._prefetcher.stop)  # else its thread would fetch for ever
        self._prefetcher.follow(current, coming)

    def read(self, places: Sequence[tuple[int, int]]) -> list[RawSample]:
        """Read samples given as (shard, row), in order.

        Raises:
            ObjectMissing: A shard is missing.
            ShardError: A shard, its index or a sample is not what the manifest says.
            StoreError: Storage failed until the time was up.
        """
        self._check_process()
        if self._cache is not None:  # together: one by one each costs a round trip
            new = {shard for shard, _ in places if shard not in self._open}
            self._remote_shards().indexes(shard for shard in new if not self._is_local(shard))
        samples = [self._mapped_sample(shard, row) for shard, row in places]
        if None not in samples:
            return cast("list[RawSample]", samples)
        missing = [place for place, sample in zip(places, samples, strict=True) if sample is None]
        found = iter(self._read_through(missing))
        return [next(found) if sample is None else sample for sample in samples]

    def copies(self, places: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
        """Read samples as webdataset's undecoded dicts, whose bytes are copies.

        Local shards take a short path, because one more call costs as much as a header.

        Raises:
            As `read` does.
        """
        if self._cache is not None or self._check_crc:
            for raw in self.read(places):
                members = {name: bytes(content) for name, content in raw.members.items()}
                yield {"__key__": raw.key, "__url__": raw.url, **members}
            return
        self._check_process()
        find = self._open.get
        for shard, row in places:
            mapped = find(shard) or self._opened(shard, row)
            assert mapped is not None  # it is local
            start, stop = mapped.starts[row : row + 2]
            self.cost.disk_bytes += stop - start
            sample: dict[str, Any] = {"__key__": "", "__url__": mapped.place}
            key = copy_members(mapped.map, start, stop, sample, place=mapped.place)
            sample["__key__"] = key
            yield sample

    def check(self, shard: int, row: int) -> None:
        """Compare a sample that was just read with its CRC-32 in the index.

        Raises:
            ShardError: Its bytes are not what the index says.
        """
        mapped = self._open.get(shard)
        if mapped is None and self._is_local(shard):  # closed meanwhile
            mapped = self._map_local(shard)
        if mapped is not None and not mapped.is_intact(row):
            raise _wrong_crc(mapped.place, row, "copy the shard again")

    def take_cost(self) -> Cost:
        """Return and reset the cost of reading."""
        cost, self.cost = self.cost, Cost()
        if self._remote is not None:
            cost.network_bytes = self._remote.take_fetched_bytes()
        return cost

    # Of this process ------------------------------------------------------------------------

    def _start_afresh(self) -> None:
        self._process = os.getpid()
        self._open = OrderedDict()
        self._warned = set()
        self._num_kept = _OPEN_SHARDS
        self._remote = self._prefetcher = self._node_shards = None
        self._windows = _Windows()

    def _check_process(self) -> None:
        """Start afresh in a forked child, which lacks its parent's threads and connections."""
        if self._process != os.getpid():
            self._start_afresh()

    def _remote_shards(self) -> RemoteShards:
        assert self._cache is not None  # the dataset makes one where a root is remote
        if self._remote is None:
            self._remote = RemoteShards(self._table, self._cache)
        return self._remote

    # Mapped ---------------------------------------------------------------------------------

    def _opened(self, shard: int, row: int) -> _MappedSpan | None:
        """Return the mapped shard; None if it is neither local nor cached."""
        mapped = self._open.get(shard)
        if mapped is not None and not mapped.first <= row < mapped.last:
            del self._open[shard]  # another span, of other lanes
            mapped = None
        if mapped is not None:
            self._open.move_to_end(shard)
            return mapped
        is_local = self._is_local(shard)
        mapped = self._map_local(shard) if is_local else self._map_cached(shard, row)
        if mapped is not None:
            self._open[shard] = mapped
            if len(self._open) > self._num_kept:
                self._open.popitem(last=False)  # unmapped when its last view is gone
        return mapped

    def _mapped_sample(self, shard: int, row: int) -> RawSample | None:
        """Return the sample; None if its shard is neither local nor cached."""
        mapped = self._opened(shard, row)
        if mapped is None:
            return None
        start, stop = mapped.starts[row : row + 2]
        if mapped.span is None:
            self.cost.disk_bytes += stop - start
            if self._check_crc and not mapped.is_intact(row):
                raise _wrong_crc(mapped.place, row, "copy the shard again")
        elif mapped.is_intact(row):
            self.cost.cache_bytes += stop - start
        else:
            self._remote_shards().discard(mapped.span)
            del self._open[shard]
            return None
        return _sample_of(mapped.view, start, stop, mapped.place)

    def _map_local(self, shard: int) -> _MappedSpan:
        arrays, path = self._table.arrays, self._table.local_path(shard)
        size = int(arrays.num_bytes[shard])
        hint = "copy it again, or find all such shards with `shard-tool verify`"
        try:
            found = _mapped(path)
        except FileNotFoundError as exc:
            raise ObjectMissing(str(path), "the shard is missing", hint) from exc
        if len(found) != size:
            problem = f"{len(found)} bytes, the manifest says {size}"
            raise ShardError(str(path), problem, hint)
        index = self._index_of_local(shard, read_at_of(memoryview(found)))
        if len(index) != arrays.num_samples[shard]:
            problem = f"{len(index)} samples, the manifest says {arrays.num_samples[shard]}"
            raise ShardError(str(path), problem)
        return _MappedSpan(found, index, place=str(path))

    def _index_of_local(self, shard: int, read_at: ReadAt) -> ShardIndex:
        """Read the index of a local shard, or make it from the shard if there is none."""
        arrays, place = self._table.arrays, self._table.index_place(shard)
        size = int(arrays.num_bytes[shard])
        try:
            content = self._table.read_index(shard)
        except ObjectMissing:
            return ShardIndex.from_shard(read_at, size, place=place)
        if hashlib.sha256(content).digest() != arrays.index_sha256[shard].tobytes():
            hint = "copy it again, or delete it: it is then made from the shard"
            raise ShardError(place, "is not the index the manifest describes", hint)
        return ShardIndex.from_bytes(content, place=place, shard_bytes=size)

    def _map_cached(self, shard: int, row: int) -> _MappedSpan | None:
        """Map the span that this node reads of a remote shard; waits for it if that is worth it.

        None: read the sample by range.
        """
        remote = self._remote_shards()
        length = int(self._table.arrays.num_samples[shard])
        span = ShardSpan(shard, 0, length, is_whole=True)
        if self._node_shards is not None:
            span = self._node_shards.of(shard)
        if not span.start <= row < span.stop:  # another node's: random access
            return None
        if self._prefetcher is not None:
            self._prefetcher.errors.pop(span, None)  # a gateway may have failed then, and not now
        path = remote.find(span)
        if path is None and span in self._windows.awaited - self._windows.urgent:
            path = self._awaited(span)
        if path is None:
            return None
        try:
            found = _mapped(path)
        except FileNotFoundError:  # evicted meanwhile
            return None
        place = self._table.place(shard)
        return _MappedSpan(found, remote.index(shard), place=place, span=span)

    def _awaited(self, span: ShardSpan) -> Path | None:
        """Fetch the span, or wait for the process that does; None if the cache is full."""
        begun = time.perf_counter()
        try:
            wait_s = self._table.folder(span.shard).timeout_s
            return self._remote_shards().fetch(span, keep=self._windows.awaited, wait_s=wait_s)
        except ShardToolError:  # some are OSErrors too, and none is the cache's
            raise
        except (BusyError, NoSpaceError, OSError) as exc:
            self._warn_uncached(span, exc)
            self._windows = self._windows._replace(urgent=self._windows.urgent | {span})
            return None
        finally:
            self.cost.fetch_s += time.perf_counter() - begun

    def _warn_uncached(self, span: ShardSpan, why: Exception) -> None:
        """Log that a span is read by range, once for each kind of reason."""
        if type(why) in self._warned:
            return
        self._warned.add(type(why))
        place, limit = self._table.place(span.shard), self._remote_shards().cache_limit
        reason = {
            NoSpaceError: f"no space in the cache ({limit} bytes)",
            BusyError: "still fetched",
        }
        text = "%s: %s; reading samples by range, uncached"
        log.warning(text, place, reason.get(type(why), f"the cache fails ({why})"))

    def _close_others(self, shards: set[int]) -> None:
        """Unmap remote shards that are read no more, so that evicted ones free their space."""
        for shard in list(self._open):
            if self._open[shard].span is not None and shard not in shards:
                del self._open[shard]

    def _is_local(self, shard: int) -> bool:
        return self._cache is None or self._table.is_local(shard)

    def _remote_ones(self, spans: Iterable[ShardSpan]) -> list[ShardSpan]:
        return [span for span in spans if not self._is_local(span.shard)]

    # Read through ---------------------------------------------------------------------------

    def _read_through(self, places: Sequence[tuple[int, int]]) -> list[RawSample]:
        begun = time.perf_counter()
        contents = self._remote_shards().read_samples(places)
        self.cost.fetch_s += time.perf_counter() - begun
        self.cost.read_through_bytes += sum(map(len, contents))
        return [
            _sample_of(memoryview(content), 0, len(content), self._table.place(shard))
            for (shard, _), content in zip(places, contents, strict=True)
        ]


class _MappedSpan:
    """A span of a shard, mapped into memory."""

    def __init__(
        self,
        content: mmap.mmap | bytes,
        index: ShardIndex,
        *,
        place: str,
        span: ShardSpan | None = None,
    ) -> None:
        self.place, self.span = place, span
        self.map, self.view, self._crcs = content, memoryview(content), index.crcs
        self.first, self.last = (span.start, span.stop) if span else (0, len(index))
        base = int(index.starts[span.start]) if span else 0
        self.starts = (index.starts.astype(np.int64) - base).tolist()

    def is_intact(self, row: int) -> bool:
        """Tell whether the sample's bytes have the CRC-32 of the index."""
        return zlib.crc32(self.view[self.starts[row] : self.starts[row + 1]]) == int(
            self._crcs[row]
        )


def _sample_of(content: memoryview, start: int, stop: int, place: str) -> RawSample:
    members: dict[str, Any] = {}
    key = copy_members(content, start, stop, members, place=place)
    return RawSample(place, key, members)


def _most_open() -> int:
    """Return half of the file descriptors this process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


def _mapped(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:  # which cannot be mapped
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _wrong_crc(place: str, row: int, hint: str) -> ShardError:
    return ShardError(place, f"sample {row}: its bytes do not have the CRC-32 of the index", hint)
