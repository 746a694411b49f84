"""The cache: whole files only, within its limit, and right bytes whatever happens to it."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import ShardDataset, ShardLoader, World
from datamodules.reading import prefetch
from datamodules.reading.cache import BusyError, NoSpaceError, ShardCache, default_folder
from shard_tool.errors import OptionError
from tests.kit.datasets.stored import (
    hashes_of,
    hashes_read,
    in_memory,
    sample_bytes,
    sizes_of,
    stored,
)
from tests.kit.processes.shard_tool_process import eventually, group_of_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


# Whole files only -----------------------------------------------------------------------------


def test_a_file_is_visible_only_when_it_is_complete(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1000)
    seen: list[object] = []

    def write(file: IO[bytes]) -> None:
        file.write(b"x" * (SIZE - 1))
        file.flush()
        seen.extend([cache.find(A, SIZE), (tmp_path / A[:2] / A).exists()])
        file.write(b"y")

    path, is_written = cache.fill(A, SIZE, write)
    assert (seen, is_written, path.read_bytes()) == ([None, False], True, b"x" * (SIZE - 1) + b"y")
    assert cache.find(A, SIZE) == path == tmp_path / A[:2] / A
    assert not fill(cache, A)
    assert held(cache) == {A: SIZE}


class InterruptedByTestError(Exception):
    pass


@pytest.mark.parametrize("error", [InterruptedByTestError, KeyboardInterrupt, OSError(errno.EIO)])
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, error: Any) -> None:
    cache = ShardCache(tmp_path, 1000)

    def write(file: IO[bytes]) -> None:
        file.write(b"x" * SIZE)
        raise error

    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        cache.fill(A, SIZE, write)
    assert held(cache) == {}
    assert fill(cache, A)


@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
def test_a_file_of_the_wrong_length_is_removed_and_written_again(tmp_path: Path, size: int) -> None:
    cache = ShardCache(tmp_path, 1000)
    fill(cache, A, size=size or 1)
    (tmp_path / A[:2] / A).write_bytes(b"x" * size)
    assert cache.find(A, SIZE) is None
    assert held(cache) == {}
    fill(cache, A, size=size or 1)
    assert fill(cache, A)


def test_a_discarded_file_is_written_again_and_a_missing_one_is_ignored(
    tmp_path: Path,
) -> None:
    cache = ShardCache(tmp_path, 1000)
    cache.discard(A)
    fill(cache, A)
    cache.discard(A)
    assert held(cache) == {}
    assert fill(cache, A)


# Room -----------------------------------------------------------------------------------------


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


# Processes that die, wait, and race -----------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from datamodules.reading.cache import ShardCache
folder, name, size, pause_s = sys.argv[1:]
def write(file):
    file.write(b"x" * (int(size) // 2))
    file.flush()
    print("half", flush=True)
    time.sleep(float(pause_s))
    file.write(b"x" * (int(size) - int(size) // 2))
ShardCache(Path(folder), 1000).fill(name, int(size), write)
"""


@contextmanager
def writer(
    folder: Path, name: str, *, size: int = SIZE, pause_s: float = 100.0
) -> Iterator[subprocess.Popen[str]]:
    """Another process that has written half of a file and pauses there."""
    command = [sys.executable, "-c", WRITER, str(folder), name, str(size), str(pause_s)]
    with group_of_processes(command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        yield process


def test_a_file_with_another_writer_is_reported_as_busy(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1000)
    with writer(tmp_path, A):
        with pytest.raises(BusyError):
            fill(cache, A)
        begun = time.monotonic()
        with pytest.raises(BusyError):
            fill(cache, A, wait_s=0.3)
        assert time.monotonic() - begun >= 0.3
        assert fill(cache, B), "another file is nobody's business"


def test_waiting_for_another_writer_returns_its_file(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1000)
    with writer(tmp_path, A, pause_s=0.3):
        path, is_written = cache.fill(A, SIZE, writing(b"never"), wait_s=30)
    assert (is_written, path.read_bytes()) == (False, b"x" * SIZE)
    assert held(cache) == {A: SIZE}


def test_promise_7_a_killed_writer_leaves_nothing_stale(tmp_path: Path) -> None:
    """Its lock is free at once, its half a file is never found, and is written anew."""
    cache = ShardCache(tmp_path, 1000)
    with writer(tmp_path, A) as process:
        assert held(cache) == {f"{A}.partial": SIZE, f"{A}.lock": 0}
        process.kill()
        process.wait()
        assert held(cache).keys() == {f"{A}.partial", f"{A}.lock"}, "nobody tidied up"
        assert cache.find(A, SIZE) is None
        assert fill(cache, A)
    assert held(cache) == {A: SIZE}
    assert (tmp_path / A[:2] / A).read_bytes() == A[:1].encode() * SIZE


def test_half_a_file_of_a_killed_writer_counts_and_is_evicted_like_any_other(
    tmp_path: Path,
) -> None:
    cache = ShardCache(tmp_path, 3 * SIZE)
    with writer(tmp_path, A) as process:
        with pytest.raises(NoSpaceError):
            fill(cache, B, 3 * SIZE)
        process.kill()
        process.wait()
        fill(cache, B, 2 * SIZE)
        assert held(cache).keys() >= {f"{A}.partial", B}
        fill(cache, C, SIZE, keep=[B])
    assert {name: size for name, size in held(cache).items() if size} == {B: 2 * SIZE, C: SIZE}


RACER = """
import os, sys
from pathlib import Path
from datamodules.reading.cache import ShardCache
folder, log, *names = sys.argv[1:]
cache = ShardCache(Path(folder), 1 << 20)
print("ready", flush=True)
sys.stdin.readline()
for name in names:
    def write(file):
        file.write(name.encode())
        with open(log, "ab", buffering=0) as written:
            written.write(name.encode() + b"\\n")
    cache.fill(name, len(name), write, wait_s=30)
"""


def test_processes_that_race_for_a_file_write_it_once(tmp_path: Path) -> None:
    log, names = tmp_path / "log", [name_of(str(i)) for i in range(100)]
    command = [sys.executable, "-c", RACER, str(tmp_path / "cache"), str(log), *names]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(4)]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == b"ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write(b"\n")
            racer.stdin.flush()
        assert [racer.wait(60) for racer in racers] == [0] * 4
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert Counter(log.read_text().split()) == Counter(names)
    assert held(ShardCache(tmp_path / "cache", 1)) == {name: len(name) for name in names}


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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk, with these options; skips the test where that is not allowed."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("may not mount a disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


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


def test_samples_are_read_by_range_if_a_disk_has_no_space_for_locks(
    tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    folder = stored(tmp_path / "data", {"train": [4] * 6})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    for num_inodes in range(4, 12):
        small = disk(f"size=1m,nr_inodes={num_inodes}")
        assert streamed(url, small, epochs=1, cache_limit=1 << 30) == [hashes_of(folder, "train")]


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


# Right bytes, whatever is in the cache --------------------------------------------------------


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Path, str, Path]:
    """(a dataset, its URL, a cache that holds all of it)."""
    folder = stored(tmp_path / "data", {"train": [16] * 4})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    fetch_all(url, folder, tmp_path / "cache")
    return folder, url, tmp_path / "cache"


def fetch_all(url: str, folder: Path, cache_dir: Path) -> None:
    """Read a dataset until the cache holds the shards and indexes as they are."""
    right = {sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar*")}

    def is_right() -> bool:
        streamed(url, cache_dir, cache_limit=1 << 30)
        files = [path for path in cache_dir.rglob("*.*") if path.suffix in {".tar", ".idx"}]
        return {sha256(path.read_bytes()).hexdigest() for path in files} == right

    assert eventually(is_right)


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


# Where it lies --------------------------------------------------------------------------------


def test_a_cache_in_shared_memory_serves(tmp_path: Path) -> None:
    folder = stored(tmp_path / "data", {"train": [4] * 3})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as shared:
        cache_dir = Path(shared) / "not/there/yet"
        assert streamed(url, cache_dir) == [hashes_of(folder, "train")] * 2
        fetch_all(url, folder, cache_dir)


def test_several_datasets_share_a_cache_and_equal_shards_a_file(tmp_path: Path) -> None:
    folders = [stored(tmp_path / name, {"train": [4] * 3}, name=name) for name in "ab"]
    urls = [in_memory(folder, f"memory://{tmp_path.name}/{folder.name}") for folder in folders]
    for url, folder in zip(urls, folders, strict=True):
        assert streamed(url, tmp_path / "cache") == [hashes_of(folder, "train")] * 2
    names = {
        f"{sha256(path.read_bytes()).hexdigest()}{path.suffix}"
        for folder in folders
        for path in folder.glob("*.tar*")
    }
    cache, copy = ShardCache(tmp_path / "cache", 1), in_memory(folders[0], f"{urls[0]}-copy")

    def is_all_there() -> bool:
        for url in (copy, *urls):
            streamed(url, tmp_path / "cache")
        return held(cache).keys() == names

    assert len(names) == 12
    assert eventually(is_all_there)


def test_local_shards_are_never_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = stored(tmp_path / "data", {"train": [4] * 3})
    assert streamed(str(folder), tmp_path / "cache") == [hashes_of(folder, "train")] * 2
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "home").exists()


def test_the_default_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg/voc-shards"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache/voc-shards"
    folder = stored(tmp_path / "data", {"train": [4] * 3})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    assert ShardDataset(url).num_samples == 12
    assert default_folder().is_dir()


def test_a_relative_folder_means_the_one_it_meant_when_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache: ShardCache = pickle.loads(pickle.dumps(ShardCache(Path("here"), 1000)))
    monkeypatch.chdir("/")
    fill(cache, A)
    assert (tmp_path / "here" / A[:2] / A).exists()


def refusal(cache_dir: Path, limit: int | None = 1000) -> str:
    with pytest.raises(OptionError) as caught:
        ShardCache(cache_dir, limit)
    return str(caught.value)


def test_an_impossible_folder_is_an_option_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    long, hint = tmp_path / ("x" * 300), "give a local folder that can be written to"
    for folder, reason in {
        file: "File exists",
        file / "cache": "Not a directory",
        long: "File name too long",
        Path("a\0b"): "embedded null byte",
        Path("~nobody-of-this-name/cache"): "Could not determine home directory.",
    }.items():
        assert refusal(folder) == f"cache_dir {str(folder)!r}: cannot be used: {reason}; {hint}"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no such file system here")
def test_a_folder_that_takes_no_files_is_an_option_error() -> None:
    assert refusal(Path("/proc")).startswith("cache_dir '/proc': cannot be used: No such file")


def test_a_url_is_no_folder_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would make a local folder of that name."""
    monkeypatch.chdir(tmp_path)
    url = in_memory(stored(tmp_path / "data", {"train": [4]}), f"memory://{tmp_path.name}")
    with pytest.raises(OptionError, match=r"cache_dir 's3://bucket/cache': .*local folder"):
        ShardDataset(url, cache_dir="s3://bucket/cache")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_cannot_be_written_to_is_an_option_error(
    tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    folder = disk("size=64k,ro")
    for place in (folder, folder / "cache"):
        problem = "cannot be used: Read-only file system"
        assert refusal(place).startswith(f"cache_dir '{place}': {problem}; ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_another_users_folder_is_an_option_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for place in (tmp_path, tmp_path / "cache"):
        problem = "cannot be used: Permission denied"
        assert refusal(place).startswith(f"cache_dir '{place}': {problem}; ")
    tmp_path.chmod(0o755)


def test_a_limit_below_one_byte_is_an_option_error(tmp_path: Path) -> None:
    assert refusal(tmp_path, 0) == "cache_limit: 0 bytes are below 1"
    assert refusal(tmp_path, -5) == "cache_limit: -5 bytes are below 1"
    assert list(tmp_path.iterdir()) == []


def test_a_loader_with_workers_uses_the_cache_of_its_parent(tmp_path: Path) -> None:
    """The same bytes, from one folder, whoever reads: here the parent has filled it."""
    folder = stored(tmp_path / "data", {"train": [4, 3, 5]})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    fetch_all(url, folder, tmp_path / "cache")
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "cache"), "cache_limit": 1 << 30}
    alone = ShardLoader(ShardDataset(url, **options), batch_size=2)
    expected = [batch.sample_ids.tolist() for batch in alone]
    loader = ShardLoader(
        ShardDataset(url, **options), batch_size=2, num_workers=2, multiprocessing_context="fork"
    )
    found = list(loader)
    assert [batch.sample_ids.tolist() for batch in found] == expected
    cost = [batch.cost for batch in found]
    assert sum(c.network_bytes + c.read_through_bytes + c.disk_bytes for c in cost) == 0
    assert sum(c.cache_bytes for c in cost) == sample_bytes(folder)


def test_the_limit_may_be_written_as_a_size(tmp_path: Path) -> None:
    folder = stored(tmp_path / "voc", {"train": [3]})
    url = in_memory(folder, f"memory://{tmp_path.name}")
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "cache")}
    data = ShardDataset(url, cache_limit="1.5 MiB", **options)
    assert data._cache is not None
    assert data._cache.limit_bytes == 3 << 19
    with pytest.raises(OptionError) as caught:
        ShardDataset(url, cache_limit="much", **options)
    assert str(caught.value) == "cache_limit: 'much' is not a size; write 64MiB or 100MB"
