"""A download never takes wrong bytes for the archive; it keeps and names them."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

import pytest

from shard_tool.sources.voc.official import Archive, KnownBad
from tests.kit.servers.archive_download import (
    CONTENT,
    FILE,
    MD5,
    OTHER,
    OTHER_MD5,
    SIZE,
    UNSIZED,
    failure,
    fetch,
    names,
)
from tests.kit.servers.http_server import Reply, serve

if TYPE_CHECKING:
    from pathlib import Path


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


def test_a_known_bad_file_that_came_in_two_answers_is_not_downloaded_twice(
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


def test_an_understated_content_length_is_reported_as_a_wrong_digest(tmp_path: Path) -> None:
    with serve(CONTENT, Reply(content_length=1000)) as server:
        message = failure(server, tmp_path, UNSIZED)
    assert f"md5 {hashlib.md5(CONTENT[:1000]).hexdigest()}, expected {MD5};" in message
