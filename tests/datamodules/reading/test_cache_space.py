"""The cache stays within its limit and its disk, and evicts what was used longest ago."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import ShardDataset
from datamodules.reading.cache import NoSpaceError, ShardCache
from tests.kit.datasets.cached import (
    SIZE,
    A,
    B,
    C,
    D,
    at_rest,
    fill,
    held,
    name_of,
    streamed,
    used,
    warnings_in,
)
from tests.kit.datasets.stored import hashes_of, hashes_read, in_memory, sizes_of, stored
from tests.kit.processes.shard_tool_process import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_the_least_recently_used_file_is_evicted_first(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 3 * SIZE)
    for name in (A, B, C):
        fill(cache, name)
    used(cache, A, B, C)
    assert cache.find(A, SIZE)  # a use
    fill(cache, D)
    assert held(cache).keys() == {A, C, D}
    used(cache, A, C, D)
    assert not fill(cache, A)  # another
    fill(cache, B)
    assert held(cache).keys() == {A, D, B}


def test_no_more_is_removed_than_is_needed(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 400)
    for name, size in ((A, 150), (B, 150), (C, 100)):
        fill(cache, name, size)
    used(cache, A, B, C)
    fill(cache, D, 150)
    assert held(cache) == {B: 150, C: 100, D: 150}


def test_names_to_keep_are_never_removed(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 3 * SIZE)
    for name in (A, B, C):
        fill(cache, name)
    used(cache, A, B, C)
    fill(cache, D, keep=[A, B])
    assert held(cache).keys() == {A, B, D}


@pytest.mark.parametrize("keep", [[A, B], [A, B, C]])
def test_missing_space_beside_kept_files_is_an_error_that_evicts_nothing(
    tmp_path: Path, keep: list[str]
) -> None:
    cache = ShardCache(tmp_path, 3 * SIZE)
    for name in (A, B, C):
        fill(cache, name)
    with pytest.raises(NoSpaceError):
        fill(cache, D, 2 * SIZE, keep=keep)
    assert held(cache) == {A: SIZE, B: SIZE, C: SIZE}


def test_a_file_larger_than_the_cache_evicts_nothing(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 3 * SIZE)
    fill(cache, A)
    with pytest.raises(NoSpaceError):
        fill(cache, B, 3 * SIZE + 1)
    assert held(cache) == {A: SIZE}
    fill(cache, B, 3 * SIZE)
    assert held(cache) == {B: 3 * SIZE}


def test_a_file_being_written_counts_in_its_full_length_and_is_not_removed(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 3 * SIZE)
    fill(cache, A)

    def write(file: IO[bytes]) -> None:
        with pytest.raises(NoSpaceError):
            fill(cache, C, 2 * SIZE + 1)
        fill(cache, D, SIZE + 1)  # in place of A
        assert held(cache).keys() == {f"{B}.partial", f"{B}.lock", D}
        file.write(b"B" * SIZE)

    cache.fill(B, SIZE, write)
    assert held(cache) == {B: SIZE, D: SIZE + 1}


@pytest.mark.slow
def test_a_file_renamed_while_space_is_counted_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever counts has seen its temporary name, and would look in vain for it."""
    cache = ShardCache(tmp_path, 2 * SIZE)
    fill(cache, B)
    final = tmp_path / A[:2] / A
    is_made, may_end = threading.Event(), threading.Event()

    def write(file: IO[bytes]) -> None:
        file.write(b"A" * SIZE)
        is_made.set()
        assert may_end.wait(20)

    writer = threading.Thread(target=cache.fill, args=(A, SIZE, write))
    writer.start()
    assert is_made.wait(20)
    scandir = os.scandir

    @contextmanager
    def scandir_and_be_late(path: Any) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(path) as found:
            entries = list(found)
        if str(path) == str(final.parent):
            may_end.set()
            eventually(final.exists, deadline_s=0.5)
        yield entries

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir_and_be_late)
        assert fill(cache, C)
    assert may_end.is_set()
    writer.join()
    assert held(cache) == {A: SIZE, C: SIZE}


Step = tuple[str, str, int, frozenset[str]]


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["fill", "find", "discard"]),
            st.sampled_from("abcdef"),
            st.integers(1, 60),
            st.frozensets(st.sampled_from("abcdef"), max_size=3),
        ),
        max_size=20,
    )
)
@settings(max_examples=60)
def test_any_sequence_of_uses_leaves_what_a_list_ordered_by_use_would(steps: list[Step]) -> None:
    limit = 100
    with tempfile.TemporaryDirectory() as folder:
        cache = ShardCache(Path(folder), limit)
        model: dict[str, int] = {}  # by last use
        for verb, letter, size, kept in steps:
            name = name_of(letter)
            keep = {name_of(other) for other in kept}
            if verb == "discard":
                cache.discard(name)
                model.pop(name, None)
            elif verb == "find":
                assert (cache.find(name, size) is not None) == (model.get(name) == size)
                found = model.pop(name, None)
                model |= {name: size} if found == size else {}
            else:
                if model.get(name) != size:
                    model.pop(name, None)
                excess = sum(model.values()) + size - limit * (name not in model)
                spare = [other for other in model if other not in keep]
                if name in model:
                    model[name] = model.pop(name)
                    assert not fill(cache, name, size, keep=keep)
                elif excess > sum(model[other] for other in spare):
                    with pytest.raises(NoSpaceError):
                        fill(cache, name, size, keep=keep)
                else:
                    while excess > 0:
                        excess -= model.pop(spare.pop(0))
                    model[name] = size
                    assert fill(cache, name, size, keep=keep)
            assert held(cache) == model
            used(cache, *model)


def test_the_default_limit_is_half_of_what_is_free_or_held_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 10_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, free))
    cache = ShardCache(tmp_path)
    assert cache.limit_bytes == free // 2
    fill(cache, A, 2000)
    free -= 2000
    assert ShardCache(tmp_path).limit_bytes == cache.limit_bytes


def test_only_its_own_files_are_counted_and_removed(tmp_path: Path) -> None:
    """A folder of somebody's may have others in it, as ~/go has."""
    others = ["go/thesis.tex", "ab/notes.tar", f"ab/{A}.bak", f"cd/{B.upper()}", "ef/sub/file"]
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 500)
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / "ef/sub", (0, 0))
    cache = ShardCache(tmp_path, 150)
    fill(cache, A)
    fill(cache, B)
    assert held(cache) == {B: SIZE} | {name.rpartition("/")[2]: 500 for name in others}


# A full disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_evicts_the_least_recently_used_files(tmp_path: Path, code: int) -> None:
    """The limit allows it, the disk does not: something else fills it."""
    cache = ShardCache(tmp_path, 1000)
    for name in (A, B):
        fill(cache, name)
    used(cache, A, B)
    faults = [OSError(code, "full")]

    def write(file: IO[bytes]) -> None:
        file.write(b"x" * SIZE)
        if faults:
            raise faults.pop()

    path, _ = cache.fill(C, SIZE, write)
    assert path.read_bytes() == b"x" * SIZE
    assert held(cache) == {B: SIZE, C: SIZE}


def test_a_disk_that_stays_full_is_an_error_and_kept_files_stay(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1000)
    for name in (A, B, C):
        fill(cache, name)
    used(cache, A, B, C)
    times = []

    def write(file: IO[bytes]) -> None:
        times.append(file.tell())
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(NoSpaceError):
        cache.fill(D, SIZE, write, keep=[A])
    assert times == [0, 0]
    assert held(cache) == {A: SIZE, C: SIZE}
    with pytest.raises(NoSpaceError):
        cache.fill(D, SIZE, write, keep=[A, C])
    assert held(cache) == {A: SIZE, C: SIZE}


@pytest.mark.slow
def test_a_disk_that_holds_three_shards_serves_twelve(
    tmp_path: Path, disk: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The limit foresees nothing of that: a real ENOSPC evicts, and all samples are right."""
    folder = stored(tmp_path / "data", {"train": [4] * 12}, padding=16_000)
    assert set(sizes_of(folder).values()) == {81_920}
    url = in_memory(folder, f"memory://{tmp_path.name}")
    small = disk("size=320k")
    found = streamed(url, small, epochs=3, cache_limit=1 << 30)
    assert found == [hashes_of(folder, "train")] * 3
    assert sum(held(ShardCache(small, 1 << 30)).values()) <= 320 << 10
    assert len(warnings_in(caplog)) <= 1


@pytest.mark.slow
def test_a_disk_too_small_for_one_shard_reads_through_and_says_so_once(
    tmp_path: Path, disk: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = stored(tmp_path / "data", {"train": [16] * 6}, padding=16_000)
    url = in_memory(folder, f"memory://{tmp_path.name}")
    small = disk("size=64k")
    assert streamed(url, small, cache_limit=1 << 30) == [hashes_of(folder, "train")] * 2
    assert not [name for name in at_rest(ShardCache(small, 1 << 30)) if ".tar" in name]
    (said,) = warnings_in(caplog)
    place, _, rest = said.partition(": no space")
    assert place in {f"{url}/{name}" for name in sizes_of(folder)}
    assert rest == f" in the cache ({1 << 30} bytes); reading samples by range, uncached"


def test_a_disk_full_of_other_things_reads_through(
    tmp_path: Path, disk: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """In mid-run; what is in the cache by then serves on."""
    folder = stored(tmp_path / "data", {"train": [16] * 6}, padding=4_000)
    url = in_memory(folder, f"memory://{tmp_path.name}")
    small = disk("size=1m")
    data = ShardDataset(
        url, window=1, decode=False, cache_dir=str(small / "cache"), cache_limit=1 << 30
    )
    samples = iter(data)
    found = hashes_read(islice(samples, 32))
    with suppress(OSError), (small / "other").open("wb") as other:
        while True:
            other.write(bytes(4096))
    assert dict(found + hashes_read(samples)) == hashes_of(folder, "train")
    assert len(warnings_in(caplog)) <= 1


@pytest.mark.slow
def test_samples_are_read_by_range_if_a_disk_has_no_space_for_locks(
    tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    folder = stored(tmp_path / "data", {"train": [4] * 6})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    for num_inodes in range(4, 12):
        small = disk(f"size=1m,nr_inodes={num_inodes}")
        assert streamed(url, small, epochs=1, cache_limit=1 << 30) == [hashes_of(folder, "train")]


@pytest.mark.slow
def test_a_limit_below_one_shard_reads_through_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = stored(tmp_path / "data", {"train": [16] * 6})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    cache_dir = tmp_path / "cache"
    assert streamed(url, cache_dir, cache_limit=1) == [hashes_of(folder, "train")] * 2
    assert at_rest(ShardCache(cache_dir, 1)) == {}
    (said,) = warnings_in(caplog)
    assert said.endswith(": no space in the cache (1 bytes); reading samples by range, uncached")
