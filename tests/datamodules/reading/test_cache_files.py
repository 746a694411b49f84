"""The cache holds whole files only, whatever becomes of the processes that write them."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import pytest

from datamodules.reading.cache import BusyError, NoSpaceError, ShardCache
from tests.kit.datasets.cached import SIZE, A, B, C, fill, held, name_of, writing
from tests.kit.processes.shard_tool_process import group_of_processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_waiting_for_another_writer_returns_its_file(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1000)
    with writer(tmp_path, A, pause_s=0.3):
        path, is_written = cache.fill(A, SIZE, writing(b"never"), wait_s=30)
    assert (is_written, path.read_bytes()) == (False, b"x" * SIZE)
    assert held(cache) == {A: SIZE}


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
