"""A download follows redirects within the web, and gives a password to its mirror alone."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import StoreError
from shard_tool.sources.voc.download import download_archive
from tests.kit.servers.archive_download import ARCHIVE, CONTENT, FILE, QUICK, failure, fetch
from tests.kit.servers.http_server import not_found, redirect, serve

if TYPE_CHECKING:
    from pathlib import Path


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
