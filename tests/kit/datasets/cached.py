"""Files of a shard cache, and what a dataset reads through one."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any

from datamodules import ShardDataset
from tests.kit.datasets.stored import hashes_read
from tests.kit.processes.shard_tool_process import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from datamodules.reading.cache import ShardCache

SIZE = 100


def name_of(what: str) -> str:
    """A name as the cache's callers give it."""
    return f"{sha256(what.encode()).hexdigest()}.tar"


A, B, C, D = map(name_of, "ABCD")


def writing(content: bytes) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        file.write(content)

    return write


def fill(cache: ShardCache, name: str, size: int = SIZE, **options: Any) -> bool:
    """Whether it had to be written."""
    path, is_written = cache.fill(name, size, writing(name[:1].encode() * size), **options)
    assert path.stat().st_size == size
    return is_written


def held(cache: ShardCache) -> dict[str, int]:
    """Name to size of all that lies in the cache, except the lock for its space."""
    found = {}
    for path in cache.folder.rglob("*"):
        if path.is_file() and path.name != "room.lock":
            with suppress(FileNotFoundError):  # of threads that are still at work
                found[path.name] = path.stat().st_size
    return found


def at_rest(cache: ShardCache) -> dict[str, int]:
    """The same once no thread writes there any more."""
    assert eventually(lambda: not [name for name in held(cache) if name.endswith(".lock")])
    return held(cache)


def used(cache: ShardCache, *names: str) -> None:
    """Say in which order files were used: the clock of the disk is too coarse to tell."""
    for i, name in enumerate(names):
        os.utime(cache.folder / name[:2] / name, ns=(i, i))


def streamed(url: str, cache_dir: Path, *, epochs: int = 2, **options: Any) -> list[dict[str, str]]:
    """What each epoch reads, the next one's first window fetched in between or not."""
    data = ShardDataset(
        url, window=2, decode=False, cache_dir=str(cache_dir), **({"seed": 3} | options)
    )
    found = []
    for epoch in range(epochs):
        data.set_epoch(epoch)
        read = hashes_read(data)
        assert len(dict(read)) == len(read)
        found.append(dict(read))
    return found


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def fetch_all(url: str, folder: Path, cache_dir: Path) -> None:
    """Read a dataset until the cache holds the shards and indexes as they are."""
    right = {sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar*")}

    def is_right() -> bool:
        streamed(url, cache_dir, cache_limit=1 << 30)
        files = [path for path in cache_dir.rglob("*.*") if path.suffix in {".tar", ".idx"}]
        return {sha256(path.read_bytes()).hexdigest() for path in files} == right

    assert eventually(is_right)
