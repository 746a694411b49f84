"""Verified bytes of samples, found through the index of their shard.

Local shards are mapped into memory, their length compared with the manifest's. Remote ones are
mapped once they are in the cache (see `fetch`); until then, and where the cache has no room,
samples are read by range. A few maps stay open, the least recently read one goes first. Nothing
that belongs to a process crosses to another one: a copy, or a fork, starts with none of it.
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
"""Maps kept by one process, where windows do not need more; each holds a file descriptor."""


class RawSample(NamedTuple):
    """One sample's bytes, as they lie in its shard."""

    url: str
    """The shard's path or URL."""
    key: str
    members: dict[str, memoryview]
    """Extension ('jpg', 'json', 'class.png') to content; views of the map."""

    @property
    def place(self) -> str:
        """Shard and key, for messages."""
        return f"{self.url}: sample {self.key!r}"


class _Windows(NamedTuple):
    """Where reading is, and what that says of each span."""

    number: object = None
    hasty: frozenset[ShardSpan] = frozenset()
    """Spans of the pass's first windows: not waited for, so that the first batch comes soon."""
    awaited: frozenset[ShardSpan] = frozenset()
    """Spans of the windows being read and the next ones: being fetched, so worth waiting for."""


class ShardReader:
    """Reads samples by (shard, row).

    Args:
        table: The shards.
        cache: For remote shards; None where all are local.
        check_crc: Compare every sample of a local shard with its CRC-32 in the index; those of
            remote ones always are. Off because `shard-tool verify` hashes local shards; costs about
            0.02 ms a sample.
    """

    _process: int
    _open: OrderedDict[int, _MappedSpan]
    _remote: RemoteShards | None
    _prefetcher: Prefetcher | None
    _node_shards: NodeShards | None
    _windows: _Windows
    _said: set[type[Exception]]
    _num_kept: int

    def __init__(
        self, table: ShardTable, *, cache: ShardCache | None = None, check_crc: bool = False
    ) -> None:
        self._table, self._cache, self._check_crc = table, cache, check_crc
        self.cost = Cost()
        """Grows with every sample read; whoever makes a batch of them takes it away."""
        self._start_afresh()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_table", "_cache", "_check_crc", "cost")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_afresh()

    def begin_pass(self) -> None:
        """Forget where reading was, and which shards were wrong.

        Samples of the windows read next may be read through.
        """
        self._windows = _Windows()
        if self._prefetcher is not None:
            self._prefetcher.errors.clear()

    def follow(
        self, node_shards: NodeShards, epoch: EpochOrder, first: int, last: int, share: float
    ) -> None:
        """Say which positions are read next, so that what comes after them is fetched already.

        Args:
            node_shards: What this node reads.
            epoch: The order of the present epoch.
            first: First position read next.
            last: Last of them.
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
        hasty = self._windows.hasty if self._windows.number else frozenset(current)
        self._node_shards = node_shards
        self._windows = _Windows(number, hasty, frozenset([*current, *coming]))
        self._close_others({span.shard for span in self._windows.awaited})
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(self._remote_shards(), share)
            weakref.finalize(self, self._prefetcher.stop)  # a thread alone would fetch for ever
        self._prefetcher.follow(current, coming)

    def read(self, places: Sequence[tuple[int, int]]) -> list[RawSample]:
        """The bytes of samples, each given as (shard, row), in order.

        Raises:
            ObjectMissing: A shard is not there.
            ShardError: A shard, its index or a sample is not what the manifest says.
            StoreError: The storage failed, and went on failing.
        """
        self._check_process()
        if self._cache is not None:  # all at once: one by one they would be as many round trips
            new = {shard for shard, _ in places if shard not in self._open}
            self._remote_shards().indexes(shard for shard in new if not self._is_local(shard))
        samples = [self._mapped_sample(shard, row) for shard, row in places]
        if None not in samples:
            return cast("list[RawSample]", samples)
        missing = [place for place, sample in zip(places, samples, strict=True) if sample is None]
        found = iter(self._read_through(missing))
        return [next(found) if sample is None else sample for sample in samples]

    def copies(self, places: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
        """Samples as webdataset has them before decoding, with bytes of their own.

        Local shards go by a short way: a call more costs as much as a header.

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
        """Compare a sample that was just read with its CRC-32.

        Raises:
            ShardError: Its bytes are not what the index says.
        """
        mapped = self._open.get(shard)
        if mapped is None and self._is_local(shard):  # closed meanwhile
            mapped = self._map_local(shard)
        if mapped is not None and not mapped.is_intact(row):
            raise _wrong_crc(mapped.place, row, "copy the shard again")

    def take_cost(self) -> Cost:
        """What was spent since this was last asked."""
        cost, self.cost = self.cost, Cost()
        if self._remote is not None:
            cost.network_bytes = self._remote.take_fetched_bytes()
        return cost

    # Of this process ------------------------------------------------------------------------

    def _start_afresh(self) -> None:
        self._process = os.getpid()
        self._open = OrderedDict()
        self._said = set()
        self._num_kept = _OPEN_SHARDS
        self._remote = self._prefetcher = self._node_shards = None
        self._windows = _Windows()

    def _check_process(self) -> None:
        """A forked child has its parent's maps, but none of its threads and connections."""
        if self._process != os.getpid():
            self._start_afresh()

    def _remote_shards(self) -> RemoteShards:
        assert self._cache is not None  # the dataset makes one where a root is remote
        if self._remote is None:
            self._remote = RemoteShards(self._table, self._cache)
        return self._remote

    # Mapped ---------------------------------------------------------------------------------

    def _opened(self, shard: int, row: int) -> _MappedSpan | None:
        """The shard, if it is local or in the cache, mapped."""
        mapped = self._open.get(shard)
        if mapped is not None and not mapped.first <= row < mapped.last:
            del self._open[shard]  # another span: of other lanes
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
        """The sample, if its shard is local or in the cache."""
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
        """The index of a shard of this machine; made by a walk over it where there is none."""
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
        """The span this node reads of a remote shard, if it is in the cache or worth waiting for.

        None: read through.
        """
        remote = self._remote_shards()
        length = int(self._table.arrays.num_samples[shard])
        span = ShardSpan(shard, 0, length, is_whole=True)
        if self._node_shards is not None:
            span = self._node_shards.of(shard)
        if not span.start <= row < span.stop:  # of another node: random access
            return None
        if self._prefetcher is not None and span in self._prefetcher.errors:
            raise self._prefetcher.errors[span]
        path = remote.find(span)
        if path is None and span in self._windows.awaited - self._windows.hasty:
            path = self._awaited(span)
        if path is None:
            return None
        try:
            found = _mapped(path)
        except FileNotFoundError:  # removed meanwhile to make room
            return None
        place = self._table.place(shard)
        return _MappedSpan(found, remote.index(shard), place=place, span=span)

    def _awaited(self, span: ShardSpan) -> Path | None:
        """The span, fetched here or by whoever is at it; None where there is no room for it."""
        begun = time.perf_counter()
        try:
            wait_s = self._table.folder(span.shard).timeout_s
            return self._remote_shards().fetch(span, keep=self._windows.awaited, wait_s=wait_s)
        except ShardToolError:  # some are OSErrors too, and none is the cache's
            raise
        except (BusyError, NoSpaceError, OSError) as exc:
            self._say_uncached(span, exc)
            self._windows = self._windows._replace(hasty=self._windows.hasty | {span})
            return None
        finally:
            self.cost.fetch_s += time.perf_counter() - begun

    def _say_uncached(self, span: ShardSpan, why: Exception) -> None:
        """Warn that a span is read by range, once for each kind of reason."""
        if type(why) in self._said:
            return
        self._said.add(type(why))
        place, limit = self._table.place(span.shard), self._remote_shards().cache_limit
        reason = {NoSpaceError: f"no room in the cache ({limit} bytes)", BusyError: "still fetched"}
        text = "%s: %s; reading samples by range, uncached"
        log.warning(text, place, reason.get(type(why), f"the cache fails ({why})"))

    def _close_others(self, shards: set[int]) -> None:
        """Unmap remote shards that are read no more: what the cache removed then frees its room."""
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
    """A shard, or a run of its samples, mapped into memory."""

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
        """Whether the sample's bytes have the CRC-32 of the index."""
        return zlib.crc32(self.view[self.starts[row] : self.starts[row + 1]]) == int(
            self._crcs[row]
        )


def _sample_of(content: memoryview, start: int, stop: int, place: str) -> RawSample:
    members: dict[str, Any] = {}
    key = copy_members(content, start, stop, members, place=place)
    return RawSample(place, key, members)


def _most_open() -> int:
    """Half of the file descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


def _mapped(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:  # which cannot be mapped
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _wrong_crc(place: str, row: int, hint: str) -> ShardError:
    return ShardError(place, f"sample {row}: its bytes do not have the CRC-32 of the index", hint)
