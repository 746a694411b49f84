"""A download asks a busy server again, counts its attempts and gives up with a full message."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import StoreError
from shard_tool.sources.voc import download
from shard_tool.sources.voc.download import download_archive
from tests.kit.servers.archive_download import (
    ARCHIVE,
    CONTENT,
    FILE,
    QUICK,
    SIZE,
    failure,
    fetch,
    names,
)
from tests.kit.servers.http_server import Reply, serve, unavailable

if TYPE_CHECKING:
    from pathlib import Path


def test_progress_resets_the_count_of_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PROGRESS_BYTES", 50_000)
    with serve(CONTENT, Reply(cut_after=50_000)) as server:
        fetch(server, tmp_path, attempts=1)
    assert server.ranges == [None, *(f"bytes={n}-" for n in range(50_000, SIZE, 50_000))]


def test_the_same_bytes_again_do_not_count_as_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PROGRESS_BYTES", 50_000)
    with serve(CONTENT, Reply(has_ranges=False, cut_after=50_000)) as server:
        failure(server, tmp_path, attempts=2)
    assert len(server.requests) == 3  # one brought new bytes, two did not


@pytest.mark.parametrize("status", [500, 503, 408, 425, 429])
def test_a_busy_server_is_asked_again(tmp_path: Path, status: int) -> None:
    with serve(CONTENT, unavailable(), unavailable(status), Reply()) as server:
        assert fetch(server, tmp_path, attempts=3).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_pauses_double_between_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with serve(CONTENT, *[unavailable()] * 4, Reply()) as server:
        fetch(server, tmp_path, attempts=5, backoff_s=8.0)
    assert pauses == [8.0, 16.0, 32.0, 60.0]


def test_a_server_that_stays_busy_fails_with_a_full_message(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(cut_after=5), unavailable()) as server:
        message = failure(server, tmp_path, attempts=3)
        url = f"{server.url}/{FILE}"
    assert message == (
        f"{tmp_path / FILE}: not downloaded after 3 attempts: {url}: HTTP 503 Service Unavailable; "
        f"try again later or give another mirror (the first 5 bytes are kept in {FILE}.part)"
    )
    assert names(tmp_path) == [f"{FILE}.part"]


def test_a_silent_server_fails_after_the_timeout(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(stall_after=0)) as server:
        message = failure(server, tmp_path, attempts=2, timeout_s=0.1)
        url = f"{server.url}/{FILE}"
    assert f"after 2 attempts: {url}: nothing came for 0.1 s;" in message
    assert names(tmp_path) == []


def test_an_answer_that_always_ends_early_is_reported_with_its_length(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(cut_after=7, has_ranges=False)) as server:
        message = failure(server, tmp_path, attempts=2)
    assert f"{FILE}: the answer ended after 7 of {SIZE} bytes; " in message


def test_a_closed_port_counts_as_an_attempt(tmp_path: Path) -> None:
    with serve(CONTENT) as server:
        pass
    message = failure(server, tmp_path, attempts=2)
    assert f"after 2 attempts: {server.url}/{FILE}: Connection refused; " in message


def test_an_invalid_host_is_not_asked_twice(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        download_archive(ARCHIVE, tmp_path, mirrors=[f"http://ho st/{FILE}"], **QUICK)
    assert f"after 1 attempt: http://ho st/{FILE}: InvalidURL; " in str(caught.value)
