"""A download gives the whole archive under its official name, and reports progress."""

from __future__ import annotations

import hashlib
import pickle
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import OptionError, StoreError
from shard_tool.sources.voc.download import download_archive
from shard_tool.sources.voc.official import Archive
from tests.kit.servers.archive_download import ARCHIVE, CONTENT, FILE, SIZE, UNSIZED, fetch, names
from tests.kit.servers.http_server import Reply, not_found, serve

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("archive", [ARCHIVE, UNSIZED], ids=["size known", "size unknown"])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(), id="content-length"),
        pytest.param(Reply(is_chunked=True), id="chunked"),
    ],
)
def test_an_archive_arrives_under_its_official_name(
    tmp_path: Path, archive: Archive, reply: Reply
) -> None:
    with serve(CONTENT, reply) as server:
        path = fetch(server, tmp_path / "new" / "folder", archive)
    assert path == tmp_path / "new" / "folder" / FILE
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == [FILE]
    assert server.ranges == [None]


def test_progress_grows_to_the_total_and_reports_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serve(CONTENT, Reply(cut_after=1000), Reply()) as server:
        fetch(server, tmp_path, UNSIZED, on_progress=lambda *got: seen.append(got))
    assert (1000, SIZE) in seen
    assert seen == sorted(seen)
    assert seen[-1] == (SIZE, SIZE)


def test_a_correct_file_is_not_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(CONTENT)
    with serve(CONTENT) as server:
        assert fetch(server, tmp_path) == tmp_path / FILE
    assert server.requests == []
    assert names(tmp_path) == [FILE]


def test_hashing_an_existing_file_is_reported(tmp_path: Path) -> None:
    content = bytes(3 << 20)
    archive = Archive(year="2099", set_="test", file=FILE, md5=hashlib.md5(content).hexdigest())
    (tmp_path / FILE).write_bytes(content)
    checked: list[tuple[int, int]] = []
    with serve(content) as server:
        fetch(server, tmp_path, archive, on_check=lambda *got: checked.append(got))
    assert checked == [(n << 20, 3 << 20) for n in (1, 2, 3)]


@pytest.mark.parametrize("option", ["timeout_s", "attempts", "backoff_s"])
def test_numbers_not_above_zero_are_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(OptionError) as caught:
        download_archive(ARCHIVE, tmp_path, **{option: 0})  # type: ignore[arg-type]
    assert str(caught.value) == f"{option}: is 0, expected a number above 0"


def test_errors_survive_pickling(tmp_path: Path) -> None:
    with serve(CONTENT, not_found()) as server, pytest.raises(StoreError) as caught:
        fetch(server, tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
