"""A small dataset in a bucket behind a fault proxy, and what becomes of runs over it."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from datamodules import ShardDataset
from shard_tool.errors import ShardToolError
from tests.kit.datasets.stored import hashes_read
from tests.kit.faults.kinds import OF_BODIES
from tests.kit.faults.table import SAME
from tests.kit.servers.fault_proxy import Fault, FaultProxy
from tests.kit.servers.s3 import S3, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from shard_tool.storage.backoff import Clock
    from tests.kit.faults.kinds import Kind, Request

LENGTHS = (3, 3, 3)
"""Samples of each shard."""
SHARDS = tuple(f"train-{number:06d}.tar" for number in range(len(LENGTHS)))
WAYS = ("prefetch", "read-through")
"""How bytes are read: whole shards into the cache; single samples, if it has no space."""


@dataclass
class Outcome:
    """What became of a run."""

    samples: list[tuple[str, str]]
    error: ShardToolError | None
    seconds: float

    @property
    def name(self) -> str:
        return SAME if self.error is None else type(self.error).__name__

    @property
    def attempts(self) -> int:
        """What the error says how often it was tried; 1 where it was not tried again."""
        said = re.search(r"(\d+) (attempts|times|fetches|answers)\b", str(self.error))
        return int(said[1]) if said else 1


@dataclass
class FaultyWorld:
    """The dataset on a disk and, in several copies, in a bucket behind a proxy."""

    local: Path
    urls: list[str]
    s3: S3
    proxy: FaultProxy
    samples: list[tuple[str, str]]
    """(key, hash of all bytes) of its samples in the canonical order."""
    sizes: dict[str, int]

    @property
    def shards_in_order(self) -> list[str]:
        """The shards as they are read, one after the other."""
        numbers = dict.fromkeys(int(key.split("-")[2]) for key, _ in self.samples)
        return [SHARDS[number] for number in numbers]

    def dataset(
        self,
        cache: Path,
        way: str = "prefetch",
        *,
        copy: int = 0,
        limit_s: float = 8,
        opening_s: float = 30,
    ) -> ShardDataset:
        """One that is open: the limit is for shards, and for opening where `opening_s` says so.

        A slow machine's first connection takes a second.
        """
        data = ShardDataset(
            self.urls[copy],
            decode=False,
            window=1,
            cache_dir=str(cache),
            cache_limit=1 if way == "read-through" else None,
            storage_options=self.s3.through(self.proxy).storage_options,
            fetch_timeout_s=opening_s,
        )
        for folder in data._table.folders:
            object.__setattr__(folder, "timeout_s", limit_s)
        return data

    def goes(self, way: str, request: Request, *, copy: int = 0) -> str | None:
        """The shard a request asks for in this way, of this copy."""
        url, _, name = f"s3:/{request.path}".rpartition("/")
        if url != self.urls[copy] or name not in SHARDS:
            return None
        is_whole = request.range == (0, self.sizes[name])
        return name if is_whole == (way == "prefetch") else None

    def inject(
        self, kind: Kind, way: str, *, at: float = 0.5, times: int = 1, copy: int = 0
    ) -> None:
        """Put a fault in this way of every shard of a copy."""
        for shard in SHARDS:
            where = partial(self._is_for, shard, way, copy)
            self.proxy.inject(Fault(kind, times=times, at=at, where=where))

    def inject_for(
        self, kind: Kind, seconds: float, clock: Clock, *, way: str = "", name: str = ""
    ) -> None:
        """Put a fault in the first copy, for seconds since it is first asked for what it hits.

        Args:
            kind: Of the fault.
            seconds: By the clock.
            clock: The one that retries go by.
            way: Hits every shard in this way.
            name: Hits one object, whatever the way.
        """
        for shard in () if name else SHARDS:
            where = _Meanwhile(partial(self._is_for, shard, way, 0), seconds, clock)
            self.proxy.inject(Fault(kind, times=None, where=where))
        if name:
            where = _Meanwhile(partial(_is_of, f"{self.urls[0]}/{name}"), seconds, clock)
            self.proxy.inject(Fault(kind, times=None, path=name, where=where))

    def inject_at(
        self, kind: Kind, name: str, *, at: float = 0.5, times: int | None = None, copy: int = 0
    ) -> str:
        """Put a fault in all ways of one object; gives what errors call it."""
        url = f"{self.urls[copy]}/{name}"
        where = partial(_is_of, url)
        self.proxy.inject(Fault(kind, times=times, at=at, path=name, where=where))
        return url

    @contextmanager
    def replaced(
        self, way: str, *shards: str, copy: int = 0, until: int | None = None
    ) -> Iterator[Counter[str]]:
        """Replace shards by others as long when they are first asked for in this way.

        With `until` they are put back when they are asked for once more after so many times. Gives
        how often each was asked for.
        """
        lock, asked = threading.Lock(), Counter[str]()

        def meddle(request: Request) -> None:
            if (name := self.goes(way, request, copy=copy)) not in shards:
                return
            content, url = (self.local / name).read_bytes(), f"{self.urls[copy]}/{name}"
            with lock:
                asked[name] += 1
                if asked[name] == 1:
                    put(self.s3, url, content[::-1])
                elif until is not None and asked[name] == until + 1:
                    put(self.s3, url, content)

        self.proxy.on_request = meddle
        try:
            yield asked
        finally:
            self.proxy.on_request = None
            for name in asked:
                put(self.s3, f"{self.urls[copy]}/{name}", (self.local / name).read_bytes())

    def _is_for(self, shard: str, way: str, copy: int, request: Request) -> bool:
        return self.goes(way, request, copy=copy) == shard


@dataclass
class _Meanwhile:
    """Says yes to requests for seconds since the first of them."""

    where: Callable[[Request], bool]
    seconds: float
    clock: Clock
    begun_s: float | None = None

    def __call__(self, request: Request) -> bool:
        if not self.where(request):
            return False
        if self.begun_s is None:
            self.begun_s = self.clock.now_s()
        return self.clock.now_s() < self.begun_s + self.seconds


def _is_of(url: str, request: Request) -> bool:
    return f"s3:/{request.path}" == url


def places(kind: str) -> tuple[float, ...]:
    """Where to put a fault: at the first, the middle and the last byte; or just anywhere."""
    return (0.0, 0.5, 1.0) if kind in OF_BODIES else (0.5,)


def run(make: Callable[[], ShardDataset]) -> Outcome:
    """Open a dataset and read an epoch of it."""
    samples: list[tuple[str, str]] = []
    begun, error = time.perf_counter(), None
    try:
        for sample in make():
            samples += hashes_read([sample])
    except ShardToolError as exc:
        seconds = time.perf_counter() - begun
        error = exc.with_traceback(None)  # which would keep the dataset, and so its thread, alive
        error.__cause__ = error.__context__ = None
        return Outcome(samples, error, seconds)
    return Outcome(samples, None, time.perf_counter() - begun)


def side_by_side(function: Callable[[int], Outcome], num_copies: int) -> list[Outcome]:
    """One run for each copy; most of their time is waiting."""
    with ThreadPoolExecutor(num_copies) as pool:
        return list(pool.map(function, range(num_copies)))


def prefetching() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "prefetch"}


def assert_is_true(cache: Path) -> None:
    """Whatever is in a cache under the name of a digest has that digest."""
    for path in cache.rglob("*"):
        digest, _, kind = path.name.partition(".")
        if kind in {"tar", "idx", "tar.idx"} and len(digest) == 64:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, path
