"""Downloads give the right archive or an error, from servers that fail as real ones do."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from datamodules.reading.cache import default_folder
from shard_tool.errors import OptionError, StoreError
from shard_tool.sources.voc import download, official
from shard_tool.sources.voc.download import download_archive
from shard_tool.sources.voc.named import archives_folder, download_archives, wanted_archives
from shard_tool.sources.voc.official import ARCHIVES, OFFICIAL_HOSTS, Archive, KnownBad, archives_of
from tests.kit.servers.http_server import Reply, not_found, redirect, serve, unavailable

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from tests.kit.servers.http_server import ScriptedServer

CONTENT = bytes(range(256)) * 1200  # 307200 bytes: several blocks of any socket buffer
SIZE = len(CONTENT)
MD5 = hashlib.md5(CONTENT).hexdigest()
OTHER = CONTENT[::-1]
OTHER_MD5 = hashlib.md5(OTHER).hexdigest()

FILE = "VOCtest_01-Jan-2099.tar"
OF_2099 = "/voc2099/" + FILE
ARCHIVE = Archive(year="2099", set_="test", file=FILE, md5=MD5, num_bytes=SIZE)
UNSIZED = Archive(year="2099", set_="test", file=FILE, md5=MD5)

QUICK: dict[str, Any] = {"timeout_s": 5.0, "attempts": 3, "backoff_s": 0.001}


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "OFFICIAL_HOSTS", ())
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def fetch(server: ScriptedServer, folder: Path, archive: Archive = ARCHIVE, **kwargs: Any) -> Path:
    """From a mirror that is the file's own URL, so that every request is for one path."""
    url = f"{server.url}/{archive.file}"
    return download_archive(archive, folder, mirrors=[url], **(QUICK | kwargs))


def failure(server: ScriptedServer, folder: Path, archive: Archive = ARCHIVE, **kwargs: Any) -> str:
    with pytest.raises(StoreError) as caught:
        fetch(server, folder, archive, **kwargs)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- whole and right -----------------------------------------------------------------------------


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


def test_progress_grows_to_the_whole_and_says_the_whole(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serve(CONTENT, Reply(cut_after=1000), Reply()) as server:
        fetch(server, tmp_path, UNSIZED, on_progress=lambda *got: seen.append(got))
    assert (1000, SIZE) in seen
    assert seen == sorted(seen)
    assert seen[-1] == (SIZE, SIZE)


def test_a_right_file_is_not_fetched_again(tmp_path: Path) -> None:
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


def test_a_part_is_hashed_before_it_is_continued_and_counts_as_got(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:200_000])
    seen: list[tuple[str, int, int | None]] = []
    with serve(CONTENT) as server:
        fetch(
            server,
            tmp_path,
            on_check=lambda *got: seen.append(("checked", *got)),
            on_progress=lambda *got: seen.append(("got", *got)),
        )
    # Before the first new byte: a rate must not take old bytes for fresh ones.
    assert seen[:2] == [("checked", 200_000, 200_000), ("got", 200_000, SIZE)]
    assert seen[-1] == ("got", SIZE, SIZE)


def test_a_wrong_file_is_renamed_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(OTHER)
    with serve(CONTENT) as server, caplog.at_level(logging.WARNING):
        fetch(server, tmp_path)
    kept = tmp_path / f"{FILE}.wrong-{OTHER_MD5[:8]}"
    assert (tmp_path / FILE).read_bytes() == CONTENT
    assert kept.read_bytes() == OTHER
    assert caplog.messages == [
        f"{tmp_path / FILE}: md5 {OTHER_MD5}, expected {MD5}; the file is kept as {kept}"
    ]


# --- cut short -----------------------------------------------------------------------------------


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


def test_a_server_without_ranges_makes_it_begin_again(tmp_path: Path) -> None:
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
def test_a_wrong_content_range_makes_it_begin_again(tmp_path: Path, lie: str) -> None:
    with serve(CONTENT, Reply(cut_after=70_000), Reply(content_range=lie), Reply()) as server:
        path = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-", None]


def test_bytes_that_brought_progress_do_not_use_up_the_attempts(
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


# --- a part of an earlier run --------------------------------------------------------------------


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


def test_a_part_that_is_whole_needs_no_request(tmp_path: Path) -> None:
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
def test_a_part_of_another_file_is_not_mixed_into_the_archive(
    tmp_path: Path, archive: Archive, stale: bytes, ranges: list[str | None]
) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(stale)
    with serve(CONTENT) as server:
        assert fetch(server, tmp_path, archive).read_bytes() == CONTENT
    assert server.ranges == ranges
    assert names(tmp_path) == [FILE]


def test_a_part_that_another_process_renames_meanwhile_is_left_alone(
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


def test_an_archive_that_another_process_finishes_meanwhile_is_not_fetched_again(
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


def test_two_processes_do_not_write_one_part(tmp_path: Path) -> None:
    part = tmp_path / f"{FILE}.part"
    with part.open("wb") as held, serve(CONTENT) as server:
        fcntl.flock(held, fcntl.LOCK_EX)
        message = failure(server, tmp_path)
    assert message == f"{part}: another process is downloading it; wait for it, then try again"
    assert server.requests == []


# --- refused and unavailable ---------------------------------------------------------------------


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


def test_a_server_that_stays_busy_is_given_up_with_a_full_message(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(cut_after=5), unavailable()) as server:
        message = failure(server, tmp_path, attempts=3)
        url = f"{server.url}/{FILE}"
    assert message == (
        f"{tmp_path / FILE}: not downloaded after 3 attempts: {url}: HTTP 503 Service Unavailable; "
        f"try again later or give another mirror (the first 5 bytes are kept in {FILE}.part)"
    )
    assert names(tmp_path) == [f"{FILE}.part"]


def test_a_silent_server_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(stall_after=0)) as server:
        message = failure(server, tmp_path, attempts=2, timeout_s=0.1)
        url = f"{server.url}/{FILE}"
    assert f"after 2 attempts: {url}: nothing came for 0.1 s;" in message
    assert names(tmp_path) == []


def test_an_answer_that_ends_early_each_time_says_where(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(cut_after=7, has_ranges=False)) as server:
        message = failure(server, tmp_path, attempts=2)
    assert f"{FILE}: the answer ended after 7 of {SIZE} bytes; " in message


def test_a_closed_port_counts_as_an_attempt(tmp_path: Path) -> None:
    with serve(CONTENT) as server:
        pass
    message = failure(server, tmp_path, attempts=2)
    assert f"after 2 attempts: {server.url}/{FILE}: Connection refused; " in message


@pytest.mark.parametrize("status", [400, 403, 404, 410, 416])
def test_a_4xx_sends_to_the_next_mirror_at_once(tmp_path: Path, status: int) -> None:
    with serve(CONTENT, not_found(status)) as first, serve(CONTENT) as second:
        mirrors = [f"{server.url}/{FILE}" for server in (first, second)]
        path = download_archive(ARCHIVE, tmp_path, mirrors=mirrors, **QUICK)
    assert path.read_bytes() == CONTENT
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_an_impossible_host_is_not_asked_twice(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        download_archive(ARCHIVE, tmp_path, mirrors=[f"http://ho st/{FILE}"], **QUICK)
    assert f"after 1 attempt: http://ho st/{FILE}: InvalidURL; " in str(caught.value)


# --- mirrors -------------------------------------------------------------------------------------


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
    assert first.paths == [OF_2099] * 3  # down: its flat URL is not worth another three
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


def test_the_next_mirror_continues_what_the_last_one_began(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(cut_after=70_000), not_found()) as first, serve(CONTENT) as second:
        mirrors = [f"{server.url}/{FILE}" for server in (first, second)]
        path = download_archive(ARCHIVE, tmp_path, mirrors=mirrors, **QUICK)
    assert path.read_bytes() == CONTENT
    assert second.ranges == ["bytes=70000-"]


def test_bytes_of_two_different_files_are_fetched_again_from_one(tmp_path: Path) -> None:
    with serve(OTHER, Reply(cut_after=70_000), not_found()) as bad, serve(CONTENT) as good:
        mirrors = [f"{server.url}/{FILE}" for server in (bad, good)]
        path = download_archive(ARCHIVE, tmp_path, mirrors=mirrors, **QUICK)
    assert path.read_bytes() == CONTENT
    assert good.ranges == ["bytes=70000-", None]
    assert names(tmp_path) == [FILE]


# --- wrong bytes ---------------------------------------------------------------------------------


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
    ("known_bad", "why"),
    [
        pytest.param((), "", id="unknown"),
        pytest.param(
            (KnownBad(md5=OTHER_MD5, explanation="of the bad summer"),),
            " (of the bad summer)",
            id="known",
        ),
    ],
)
def test_message_of_a_wrong_digest_has_both_digests_the_explanation_and_the_file(
    tmp_path: Path, known_bad: tuple[KnownBad, ...], why: str
) -> None:
    archive = Archive(
        year="2099", set_="test", file=FILE, md5=MD5, num_bytes=SIZE, known_bad=known_bad
    )
    with serve(OTHER) as server:
        message = failure(server, tmp_path, archive)
        url = f"{server.url}/{FILE}"
    kept = tmp_path / f"{FILE}.wrong-{OTHER_MD5[:8]}"
    assert message == (
        f"{tmp_path / FILE}: not downloaded after 1 attempt: {url}: md5 {OTHER_MD5}{why}, "
        f"expected {MD5}; the file is kept as {kept}; try again later or give another mirror"
    )
    assert names(tmp_path) == [kept.name]


def test_a_known_bad_file_is_not_fetched_twice_although_it_came_in_two_pieces(
    tmp_path: Path,
) -> None:
    bad = KnownBad(md5=OTHER_MD5, explanation="of the bad summer")
    archive = Archive(year="2099", set_="test", file=FILE, md5=MD5, known_bad=(bad,))
    with serve(OTHER, Reply(cut_after=70_000), Reply()) as server:
        assert "(of the bad summer)" in failure(server, tmp_path, archive)
    assert server.ranges == [None, "bytes=70000-"]


def test_a_file_of_another_length_is_refused_before_its_bytes(tmp_path: Path) -> None:
    page = b"<html>moved</html>"
    with serve(page) as server:
        message = failure(server, tmp_path)
    assert f"{FILE}: has 18 bytes there, the archive has {SIZE};" in message
    assert names(tmp_path) == []
    assert len(server.requests) == 1


def test_an_answer_is_not_read_beyond_the_archive(tmp_path: Path) -> None:
    with serve(CONTENT + b"more", Reply(is_chunked=True)) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_an_understated_content_length_does_not_pass_for_the_archive(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(content_length=1000)) as server:
        message = failure(server, tmp_path, UNSIZED)
    assert f"md5 {hashlib.md5(CONTENT[:1000]).hexdigest()}, expected {MD5};" in message


# --- redirects and secrets -----------------------------------------------------------------------


def test_redirects_are_followed_with_their_range(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:9])
    with serve(CONTENT) as target, serve(b"", redirect(f"{target.url}/there")) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert [(request.path, request.range_) for request in target.requests] == [
        ("/there", "bytes=9-")
    ]


@pytest.mark.parametrize(
    ("location", "where"),
    [
        pytest.param("file:///etc/hostname", "'file:///etc/hostname', which is no http", id="file"),
        pytest.param("ftp://me:pw@h/x?y", "'ftp://h/x', which is no http or https URL;", id="ftp"),
        pytest.param(
            "https://[bad/?sig=hunter2", "'', which is no http or https URL;", id="malformed"
        ),
        pytest.param(None, "'', which is no http or https URL;", id="nowhere"),
    ],
)
def test_redirects_out_of_the_web_are_refused(
    tmp_path: Path, location: str | None, where: str
) -> None:
    with serve(b"", redirect(location)) as server:
        message = failure(server, tmp_path)
    assert f"/{FILE}: redirects to {where}" in message
    assert "hunter2" not in message
    assert len(server.requests) == 1


def test_a_redirect_loop_ends(tmp_path: Path) -> None:
    with serve(b"", redirect(f"/{FILE}?sig=hunter2")) as server:
        message = failure(server, tmp_path)
    assert f"after 1 attempt: {server.url}/{FILE}: more than 10 redirects;" in message
    assert len(server.requests) == 11


def test_user_and_password_go_to_the_mirror_and_nowhere_else(tmp_path: Path) -> None:
    with serve(b"", not_found()) as target, serve(b"", redirect(f"{target.url}/x")) as server:
        mirror = server.url.replace("http://", "http://me:s%40cret@") + f"/{FILE}?key=hunter2"
        with pytest.raises(StoreError) as caught:
            download_archive(ARCHIVE, tmp_path, mirrors=[mirror], **QUICK)
    expected = "Basic " + base64.b64encode(b"me:s@cret").decode()
    assert server.requests[0].headers["Authorization"] == expected
    assert "Authorization" not in target.requests[0].headers
    assert f": {server.url}/{FILE}: HTTP 404 Not Found; " in str(caught.value)
    for secret in ("s%40cret", "s@cret", "hunter2"):
        assert secret not in str(caught.value)


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


@pytest.mark.parametrize("option", ["timeout_s", "attempts", "backoff_s"])
def test_numbers_not_above_zero_are_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(OptionError) as caught:
        download_archive(ARCHIVE, tmp_path, **{option: 0})  # type: ignore[arg-type]
    assert str(caught.value) == f"{option}: is 0, expected a number above 0"


# --- the disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("archive", "num_requests"),
    [
        pytest.param(ARCHIVE, 0, id="known from the table"),
        pytest.param(UNSIZED, 1, id="known from the answer"),
    ],
)
def test_a_disk_too_small_is_noticed_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: Archive, num_requests: int
) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:200])
    _set_free(monkeypatch, SIZE - 201)
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
    _set_free(monkeypatch, SIZE - 200)
    with serve(CONTENT) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT


def _set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_a_block_the_disk_takes_in_pieces_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, content: real_write(fd, content[:1000]))
    with serve(CONTENT) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_full_disk_is_not_taken_for_a_bad_connection(
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


def test_a_folder_in_the_archives_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with serve(CONTENT) as server:
        message = failure(server, tmp_path)
    assert message == f"{tmp_path / FILE}: disk error: Is a directory"
    assert server.requests == []


# --- named sources -------------------------------------------------------------------------------

TRAINVAL = Archive(year="2099", set_="trainval", file="VOCtrainval.tar", md5=MD5, num_bytes=SIZE)


@pytest.fixture
def _a_year_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "ARCHIVES", (TRAINVAL, ARCHIVE))


@pytest.mark.usefixtures("_a_year_of_two")
def test_a_year_is_downloaded_and_each_step_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(CONTENT)
    steps: dict[str, tuple[int, int | None]] = {}
    with serve(CONTENT) as server:
        paths = download_archives(
            "2099",
            tmp_path,
            mirrors=[server.url],
            on_progress=lambda what, *got: steps.update({what: got}),
        )
    assert paths == [tmp_path / "VOCtrainval.tar", tmp_path / FILE]
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT]
    assert steps == {
        "downloading VOCtrainval.tar": (SIZE, SIZE),
        f"checking {FILE}": (SIZE, SIZE),
    }
    assert server.paths == ["/voc2099/VOCtrainval.tar"]


@pytest.mark.usefixtures("_a_year_of_two")
def test_one_set_of_a_year_can_be_asked_for(tmp_path: Path) -> None:
    with serve(CONTENT) as server:
        paths = download_archives("2099", tmp_path, set_="test", mirrors=[server.url])
    assert names(tmp_path) == [path.name for path in paths] == [FILE]


@pytest.mark.usefixtures("_a_year_of_two")
def test_wanted_archives_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    folder, mirror = tmp_path / "new", "https://me:s3cret@m.org/voc/?key=hunter2"
    trainval, test = wanted_archives("2099", folder, mirrors=[mirror])
    assert (trainval.archive, trainval.path) == (TRAINVAL, folder / "VOCtrainval.tar")
    assert test.url == f"https://m.org/voc{OF_2099}"
    assert (trainval.is_there, trainval.num_bytes_there) == (False, 0)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "num_bytes", "is_there", "num_bytes_there"),
    [
        pytest.param(FILE, SIZE, True, SIZE, id="whole"),
        pytest.param(FILE, SIZE - 1, False, 0, id="of another length"),
        pytest.param(f"{FILE}.part", 9, False, 9, id="interrupted"),
    ],
)
@pytest.mark.usefixtures("_a_year_of_two")
def test_existing_archive_is_found_by_name_and_length(
    tmp_path: Path, name: str, num_bytes: int, is_there: bool, num_bytes_there: int
) -> None:
    (tmp_path / name).write_bytes(bytes(num_bytes))
    (test,) = wanted_archives("2099", tmp_path, set_="test", mirrors=["http://m.org"])
    assert (test.is_there, test.num_bytes_there) == (is_there, num_bytes_there)


@pytest.mark.usefixtures("_a_year_of_two")
def test_a_disk_too_small_for_both_archives_is_noticed_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:200])
    _set_free(monkeypatch, 2 * SIZE - 201)
    with serve(CONTENT) as server, pytest.raises(StoreError) as caught:
        download_archives("2099", tmp_path, mirrors=[server.url])
    assert str(caught.value) == (
        f"{tmp_path}: {2 * SIZE - 201} bytes free, VOCtrainval.tar and {FILE} need "
        f"{2 * SIZE - 200} more; free some space or choose another folder"
    )
    assert server.requests == []
    _set_free(monkeypatch, 2 * SIZE - 200)
    with serve(CONTENT) as server:
        download_archives("2099", tmp_path / "new", set_="test", mirrors=[server.url])
        download_archives("2099", tmp_path, mirrors=[server.url])


def test_archives_are_kept_beside_the_cache_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/big/cache")
    assert str(archives_folder()) == "/big/cache/voc-shards/archives"
    assert archives_folder().parent == default_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(archives_folder()) == "/home/me/.cache/voc-shards/archives"


# --- the table -----------------------------------------------------------------------------------


def test_the_table_names_every_archive_once() -> None:
    assert [(archive.year, archive.set_) for archive in ARCHIVES] == [
        ("2007", "trainval"),
        ("2007", "test"),
        *((str(year), "trainval") for year in range(2008, 2013)),
    ]
    assert len({archive.file for archive in ARCHIVES}) == len(ARCHIVES)
    digests = [a.md5 for a in ARCHIVES] + [bad.md5 for a in ARCHIVES for bad in a.known_bad]
    assert len(set(digests)) == len(digests)
    assert all(len(md5) == 32 and set(md5) <= set("0123456789abcdef") for md5 in digests)
    assert all(a.num_bytes is None or a.num_bytes % 512 == 0 for a in ARCHIVES), "tars are"


def test_the_official_url_of_an_archive() -> None:
    (archive,) = archives_of("2012", "trainval")
    assert [host + archive.url_path for host in OFFICIAL_HOSTS] == [
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    ]


def test_the_tar_of_august_2020_is_explained() -> None:
    (archive,) = archives_of("2012")
    assert archive.explanation_of("af08689459fe018b209e8d8fb5d4eb2e") == (
        "the tar the official host served for a while in August 2020, in which one picture, "
        "2008_005714.jpg, differs"
    )
    assert archive.explanation_of(archive.md5) is None


@pytest.mark.parametrize(
    ("year", "set_", "message"),
    [
        (
            "2006",
            None,
            "year '2006': VOC has no such archive; known years: 2007, 2008, 2009, 2010, 2011, 2012",
        ),
        ("2012", "test", "set 'test': VOC2012 has no such archive; known sets of 2012: trainval"),
        (
            "2007",
            "val",
            "set 'val': VOC2007 has no such archive; known sets of 2007: trainval, test",
        ),
    ],
)
def test_error_for_an_unknown_archive_lists_the_known_ones(
    year: str, set_: str | None, message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        archives_of(year, set_)
    assert str(caught.value) == message


def test_errors_survive_pickling(tmp_path: Path) -> None:
    with serve(CONTENT, not_found()) as server, pytest.raises(StoreError) as caught:
        fetch(server, tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
