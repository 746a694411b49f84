"""A download continues what a cut answer, an earlier run or another process left."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.kit.servers.archive_download import (
    ARCHIVE,
    CONTENT,
    FILE,
    OTHER,
    SIZE,
    UNSIZED,
    failure,
    fetch,
    names,
)
from tests.kit.servers.http_server import Reply, serve

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from shard_tool.sources.voc.official import Archive


def test_partial_file_is_hashed_before_it_is_continued_and_counts_as_progress(
    tmp_path: Path,
) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:200_000])
    seen: list[tuple[str, int, int | None]] = []
    with serve(CONTENT) as server:
        fetch(
            server,
            tmp_path,
            on_check=lambda *got: seen.append(("checked", *got)),
            on_progress=lambda *got: seen.append(("got", *got)),
        )
    # Reported before the first new byte: a rate must not count old bytes as new ones.
    assert seen[:2] == [("checked", 200_000, 200_000), ("got", 200_000, SIZE)]
    assert seen[-1] == ("got", SIZE, SIZE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(Reply(cut_after=70_000), id="cut"),
        pytest.param(Reply(cut_after=70_000, is_chunked=True), id="cut between chunks"),
        pytest.param(Reply(body=CONTENT[:70_000], content_length=SIZE), id="lying content-length"),
        pytest.param(Reply(stall_after=70_000), id="stall"),
    ],
)
def test_a_short_answer_is_continued_where_it_ended(tmp_path: Path, first: Reply) -> None:
    with serve(CONTENT, first, Reply()) as server:
        path = fetch(server, tmp_path, timeout_s=1.0)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-"]


def test_a_connection_reset_is_continued(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(cut_after=70_000, is_reset=True), Reply()) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2  # how many of the 70000 bytes a reset lets through is luck


def test_a_server_without_ranges_starts_the_download_again(tmp_path: Path) -> None:
    seen: list[int] = []
    replies = Reply(has_ranges=False, cut_after=70_000), Reply(has_ranges=False)
    with serve(CONTENT, *replies) as server:
        path = fetch(server, tmp_path, on_progress=lambda got, _: seen.append(got))
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-"]
    assert seen[-1] == SIZE


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(f"bytes 0-{SIZE - 1}/{SIZE}", id="another start"),
        pytest.param("bytes 70000", id="malformed"),
    ],
)
def test_a_wrong_content_range_starts_the_download_again(tmp_path: Path, lie: str) -> None:
    with serve(CONTENT, Reply(cut_after=70_000), Reply(content_range=lie), Reply()) as server:
        path = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-", None]


def test_a_download_whose_process_was_killed_is_continued(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from shard_tool.sources.voc import download, official\n"
        f"archive = official.{ARCHIVE!r}\n"
        "download.download_archive(archive, pathlib.Path(sys.argv[2]), mirrors=[sys.argv[1]])\n"
    )
    part = tmp_path / f"{FILE}.part"
    with serve(CONTENT, Reply(stall_after=200_000), Reply()) as server:
        command = [sys.executable, "-c", code, f"{server.url}/{FILE}", str(tmp_path)]
        with subprocess.Popen(command) as process:
            deadline = time.monotonic() + 30
            while not (part.exists() and part.stat().st_size == 200_000):
                assert process.poll() is None, "it ended by itself"
                assert time.monotonic() < deadline, "the bytes never reached the disk"
                time.sleep(0.005)
            process.kill()
            assert process.wait(timeout=30) == -signal.SIGKILL
        assert names(tmp_path) == [part.name]
        path = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == [FILE]
    assert server.ranges == [None, "bytes=200000-"]


def test_complete_partial_file_needs_no_request(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT)
    with serve(CONTENT) as server:
        assert fetch(server, tmp_path, UNSIZED).read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize(
    ("archive", "stale", "ranges"),
    [
        pytest.param(ARCHIVE, OTHER, [None], id="as long as the archive"),
        pytest.param(ARCHIVE, OTHER[:9], ["bytes=9-", None], id="shorter"),
        pytest.param(UNSIZED, OTHER, [f"bytes={SIZE}-", None], id="as long as the server's file"),
        pytest.param(UNSIZED, OTHER * 2, [f"bytes={2 * SIZE}-", None], id="longer"),
    ],
)
def test_partial_file_of_another_archive_is_not_mixed_in(
    tmp_path: Path, archive: Archive, stale: bytes, ranges: list[str | None]
) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(stale)
    with serve(CONTENT) as server:
        assert fetch(server, tmp_path, archive).read_bytes() == CONTENT
    assert server.ranges == ranges
    assert names(tmp_path) == [FILE]


def test_partial_file_renamed_by_another_process_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, published = tmp_path / f"{FILE}.part", tmp_path / "published"
    part.write_bytes(OTHER)
    real_flock = fcntl.flock

    def flock_once_it_is_renamed(file: FileIO, operation: int) -> None:
        if not published.exists():
            part.replace(published)
        real_flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock_once_it_is_renamed)
    with serve(CONTENT) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert published.read_bytes() == OTHER


def test_archive_finished_by_another_process_is_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process publishes it between our check for it and our lock."""
    real_flock = fcntl.flock

    def flock_once_it_is_there(file: FileIO, operation: int) -> None:
        (tmp_path / FILE).write_bytes(CONTENT)
        real_flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock_once_it_is_there)
    with serve(CONTENT) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == []
    assert names(tmp_path) == [FILE]


def test_two_processes_do_not_write_one_partial_file(tmp_path: Path) -> None:
    part = tmp_path / f"{FILE}.part"
    with part.open("wb") as held, serve(CONTENT) as server:
        fcntl.flock(held, fcntl.LOCK_EX)
        message = failure(server, tmp_path)
    assert message == f"{part}: another process is downloading it; wait for it, then try again"
    assert server.requests == []
