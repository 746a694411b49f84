"""Samples are right, whatever happens to the cache's files while they are read."""

from __future__ import annotations

import errno
import os
import shutil
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

from datamodules import ShardDataset, ShardLoader, World
from datamodules.reading import prefetch
from datamodules.reading.cache import ShardCache
from tests.kit.datasets.cached import (
    SIZE,
    A,
    B,
    at_rest,
    fetch_all,
    fill,
    held,
    streamed,
    warnings_in,
)
from tests.kit.datasets.stored import hashes_of, hashes_read, in_memory, stored
from tests.kit.processes.shard_tool_process import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Path, str, Path]:
    """(a dataset, its URL, a cache that holds all of it)."""
    folder = stored(tmp_path / "data", {"train": [16] * 4})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    fetch_all(url, folder, tmp_path / "cache")
    return folder, url, tmp_path / "cache"


def truncated(content: bytes) -> bytes:
    return content[:-1]


def extended(content: bytes) -> bytes:
    return content + b"\0"


def empty(content: bytes) -> bytes:
    return b""


def flipped(content: bytes) -> bytes:
    """One bit of the first sample's picture, or of the index."""
    at = min(700, len(content) // 2)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def in_a_header(content: bytes) -> bytes:
    return b"X" + content[1:]


def with_a_hole(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + bytes(len(content) - half)


@pytest.mark.parametrize("suffix", [".tar", ".idx"])
@pytest.mark.parametrize(
    "change",
    [truncated, extended, empty, flipped, in_a_header, with_a_hole],
    ids=lambda f: f.__name__,
)
def test_promise_7_an_altered_file_is_thrown_away_and_fetched_again(
    filled: tuple[Path, str, Path], change: Callable[[bytes], bytes], suffix: str
) -> None:
    folder, url, cache_dir = filled
    for path in cache_dir.rglob(f"*{suffix}"):
        path.write_bytes(change(path.read_bytes()))
    assert streamed(url, cache_dir, epochs=1, cache_limit=1 << 30) == [hashes_of(folder, "train")]
    fetch_all(url, folder, cache_dir)


def test_promise_7_a_file_altered_while_it_is_read_is_noticed(
    filled: tuple[Path, str, Path],
) -> None:
    folder, url, cache_dir = filled
    data = ShardDataset(url, window=4, decode=False, cache_dir=str(cache_dir))
    samples = iter(data)
    found = hashes_read(islice(samples, 32))
    for path in cache_dir.rglob("*.tar"):
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.write(b"\xff" * len(content))
    assert dict(found + hashes_read(samples)) == hashes_of(folder, "train")


def test_promise_7_a_stale_file_under_a_right_name_is_noticed(
    filled: tuple[Path, str, Path],
) -> None:
    """Names are not trusted: each file here holds another shard's bytes, of the right length."""
    folder, url, cache_dir = filled
    for path in cache_dir.rglob("*.tar"):
        size = path.stat().st_size
        other = next(p for p in cache_dir.rglob("*.tar") if p != path).read_bytes()
        path.write_bytes((other * 9)[:size])
    assert streamed(url, cache_dir, epochs=1, cache_limit=1 << 30) == [hashes_of(folder, "train")]


def test_a_cache_that_is_removed_while_it_is_used_is_made_again(
    filled: tuple[Path, str, Path],
) -> None:
    folder, url, cache_dir = filled
    data = ShardDataset(url, window=1, decode=False, cache_dir=str(cache_dir))
    for epoch in range(3):
        data.set_epoch(epoch)
        samples = iter(data)
        found = hashes_read(islice(samples, 16))
        shutil.rmtree(cache_dir, ignore_errors=True)  # somebody may be writing there
        assert dict(found + hashes_read(samples)) == hashes_of(folder, "train")
        assert any(name.endswith(".tar") for name in held(ShardCache(cache_dir, 1 << 20)))


def test_a_folder_that_is_removed_meanwhile_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ShardCache(tmp_path, 5 * SIZE)
    fill(cache, A)
    fill(cache, B)
    scandir = os.scandir

    def scandir_too_late(path: Any) -> Any:
        if str(path).endswith(A[:2]):
            shutil.rmtree(path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir_too_late)
        assert [kept.path.name for kept in cache._scan()] == [B]
    assert fill(cache, A)


def test_samples_are_read_by_range_if_the_cache_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = stored(tmp_path / "data", {"train": [16] * 6})
    url = in_memory(folder, f"memory://{tmp_path.name}")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ShardCache, "_reserve", fail)
    assert streamed(url, tmp_path / "cache") == [hashes_of(folder, "train")] * 2
    assert any("Input/output error" in said for said in warnings_in(caplog))
    assert not list((tmp_path / "cache").rglob("*.tar"))


def test_random_access_to_what_another_node_holds_leaves_the_cache_as_it_is(
    tmp_path: Path,
) -> None:
    """A node that holds a span of a shard has not the rows beside it."""
    folder = stored(tmp_path / "data", {"train": [4, 6]})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    world = World(rank=0, world_size=2, node=0, num_nodes=2)
    data = ShardDataset(
        url, shuffle=False, decode=False, world=world, cache_dir=str(tmp_path / "cache")
    )
    cache, keys = ShardCache(tmp_path / "cache", 1 << 20), list(hashes_of(folder, "train"))

    def is_filled() -> bool:
        assert [sample["__key__"] for sample in data] == keys[:5]
        return len([name for name in held(cache) if name.endswith(".tar")]) == 2

    assert eventually(is_filled)
    files = at_rest(cache)
    assert any(name.endswith(".0-1.tar") for name in files)
    assert is_filled()  # and has it mapped now
    assert [data.read(i)["__key__"] for i in range(10)] == keys
    assert at_rest(cache) == files


def test_a_batch_may_need_more_indexes_than_memory_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_INDEXES_KEPT", 3)
    folder = stored(tmp_path / "data", {"train": [2] * 12})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    data = ShardDataset(url, window=12, cache_dir=str(tmp_path / "cache"))
    loader = ShardLoader(data, batch_size=24)
    for _ in range(3):
        assert sorted(i for batch in loader for i in batch.sample_ids.tolist()) == list(range(24))


def test_a_mapped_file_may_be_removed(filled: tuple[Path, str, Path]) -> None:
    """A reader that has it open keeps its bytes, while its space is free for others."""
    folder, url, cache_dir = filled
    data = ShardDataset(url, window=4, decode=False, cache_dir=str(cache_dir))
    samples = iter(data)
    found = hashes_read(islice(samples, 20))  # of all four shards
    for path in cache_dir.rglob("*.tar"):
        path.unlink()
    data.take_cost()
    assert dict(found + hashes_read(samples)) == hashes_of(folder, "train")
    cost = data.take_cost()
    assert (cost.read_through_bytes, cost.cache_bytes > 0) == (0, True)
