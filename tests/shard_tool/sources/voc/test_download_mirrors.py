"""A download tries mirrors in turn, then the official hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import OptionError, StoreError
from shard_tool.sources.voc import download
from shard_tool.sources.voc.download import download_archive
from tests.kit.servers.archive_download import (
    ARCHIVE,
    CONTENT,
    FILE,
    OF_2099,
    OTHER,
    OTHER_MD5,
    QUICK,
    names,
)
from tests.kit.servers.http_server import Reply, not_found, serve, unavailable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("status", [400, 403, 404, 410, 416])
def test_a_4xx_sends_to_the_next_mirror_at_once(tmp_path: Path, status: int) -> None:
    with serve(CONTENT, not_found(status)) as first, serve(CONTENT) as second:
        mirrors = [f"{server.url}/{FILE}" for server in (first, second)]
        path = download_archive(ARCHIVE, tmp_path, mirrors=mirrors, **QUICK)
    assert path.read_bytes() == CONTENT
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_a_folder_mirror_is_tried_in_the_official_layout_and_then_flat(tmp_path: Path) -> None:
    with serve(CONTENT, not_found(), Reply()) as server:
        download_archive(ARCHIVE, tmp_path, mirrors=[f"{server.url}/p ub/?key=1"], **QUICK)
    assert server.paths == [f"/p%20ub{OF_2099}?key=1", f"/p%20ub/{FILE}?key=1"]


def test_mirrors_come_before_the_official_hosts_and_are_tried_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        serve(CONTENT, unavailable()) as first,
        serve(CONTENT, not_found()) as second,
        serve(CONTENT, Reply()) as official,
    ):
        monkeypatch.setattr(download, "OFFICIAL_HOSTS", (f"{official.url}/pascal/VOC/",))
        mirrors = [first.url, f"{second.url}/{FILE}"]
        download_archive(ARCHIVE, tmp_path, mirrors=mirrors, **QUICK)
    assert first.paths == [OF_2099] * 3  # the server is down: its flat URL is not tried
    assert second.paths == [f"/{FILE}"]
    assert official.paths == [f"/pascal/VOC{OF_2099}"]


def test_an_official_host_is_asked_in_its_own_layout_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(CONTENT, not_found()) as official:
        monkeypatch.setattr(download, "OFFICIAL_HOSTS", (f"{official.url}/pascal/VOC/",))
        with pytest.raises(StoreError):
            download_archive(ARCHIVE, tmp_path, **QUICK)
    assert official.paths == [f"/pascal/VOC{OF_2099}"]


def test_the_url_of_another_archive_is_skipped(tmp_path: Path) -> None:
    with serve(CONTENT) as server:
        mirrors = [f"{server.url}/VOCtest_06-Nov-2007.tar", f"{server.url}/{FILE}"]
        download_archive(ARCHIVE, tmp_path, mirrors=mirrors, **QUICK)
    assert server.paths == [f"/{FILE}"]


def test_the_next_mirror_continues_the_partial_file_of_the_last_one(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(cut_after=70_000), not_found()) as first, serve(CONTENT) as second:
        mirrors = [f"{server.url}/{FILE}" for server in (first, second)]
        path = download_archive(ARCHIVE, tmp_path, mirrors=mirrors, **QUICK)
    assert path.read_bytes() == CONTENT
    assert second.ranges == ["bytes=70000-"]


def test_mixed_bytes_of_two_mirrors_are_downloaded_again_from_one(tmp_path: Path) -> None:
    with serve(OTHER, Reply(cut_after=70_000), not_found()) as bad, serve(CONTENT) as good:
        mirrors = [f"{server.url}/{FILE}" for server in (bad, good)]
        path = download_archive(ARCHIVE, tmp_path, mirrors=mirrors, **QUICK)
    assert path.read_bytes() == CONTENT
    assert good.ranges == ["bytes=70000-", None]
    assert names(tmp_path) == [FILE]


def test_a_wrong_file_is_renamed_and_the_next_mirror_is_tried(tmp_path: Path) -> None:
    with serve(OTHER) as bad, serve(CONTENT) as good:
        mirrors = [f"{server.url}/{FILE}" for server in (bad, good)]
        path = download_archive(ARCHIVE, tmp_path, mirrors=mirrors, **QUICK)
    kept = f"{FILE}.wrong-{OTHER_MD5[:8]}"
    assert path.read_bytes() == CONTENT
    assert (tmp_path / kept).read_bytes() == OTHER
    assert names(tmp_path) == [FILE, kept]
    assert (bad.ranges, good.ranges) == ([None], [None])


@pytest.mark.parametrize(
    "mirror",
    ["file:///data", "ftp://host/voc", "host/voc", "http://", "http://h:port", "http://[h"],
)
def test_a_mirror_outside_the_web_is_refused_before_any_request(
    tmp_path: Path, mirror: str
) -> None:
    with serve(CONTENT) as server, pytest.raises(OptionError) as caught:
        download_archive(ARCHIVE, tmp_path, mirrors=[server.url, mirror])
    assert str(caught.value) == f"mirror {mirror!r}: is not an http or https URL"
    assert server.requests == []
