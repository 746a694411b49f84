"""A download notices a disk that is too small before the first byte, and names disk errors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.kit.servers.archive_download import (
    ARCHIVE,
    CONTENT,
    FILE,
    SIZE,
    UNSIZED,
    failure,
    fetch,
    set_free,
)
from tests.kit.servers.http_server import serve

if TYPE_CHECKING:
    from pathlib import Path

    from shard_tool.sources.voc.official import Archive


@pytest.mark.parametrize(
    ("archive", "num_requests"),
    [
        pytest.param(ARCHIVE, 0, id="known from the table"),
        pytest.param(UNSIZED, 1, id="known from the answer"),
    ],
)
def test_a_disk_too_small_is_refused_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: Archive, num_requests: int
) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:200])
    set_free(monkeypatch, SIZE - 201)
    with serve(CONTENT) as server:
        message = failure(server, tmp_path, archive)
    assert message == (
        f"{tmp_path}: {SIZE - 201} bytes free, {FILE} needs {SIZE - 200} more; "
        "free some space or choose another folder"
    )
    assert len(server.requests) == num_requests
    assert (tmp_path / f"{FILE}.part").read_bytes() == CONTENT[:200]


def test_a_disk_with_just_enough_space_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:200])
    set_free(monkeypatch, SIZE - 200)
    with serve(CONTENT) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_block_is_written_completely_when_each_write_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, content: real_write(fd, content[:1000]))
    with serve(CONTENT) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_full_disk_is_reported_as_a_disk_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", no_space)
    with serve(CONTENT) as server:
        message = failure(server, tmp_path)
    part = tmp_path / f"{FILE}.part"
    assert message == f"{part}: disk error: No space left on device"
    assert len(server.requests) == 1


def test_a_folder_with_the_archive_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with serve(CONTENT) as server:
        message = failure(server, tmp_path)
    assert message == f"{tmp_path / FILE}: disk error: Is a directory"
    assert server.requests == []
