"""Credentials that are refused are read again once, and no secret is shown."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from s3fs import S3FileSystem

from shard_tool.errors import ShardError, StoreError
from shard_tool.storage.location import Folder, StoredObject
from tests.kit.servers.fault_proxy import Fault
from tests.kit.servers.http_server import Reply, serve
from tests.kit.servers.ranged_object import CONTENT, NAME, SECRET, SHORT_S, Store, read_part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kit.faults.kinds import Request
    from tests.kit.servers.s3 import S3


@pytest.mark.slow
def test_refused_access_is_retried_once_and_then_an_error(
    store: Store, assert_no_secret: Callable[[BaseException], None]
) -> None:
    store.proxy.inject(Fault("expired-token"))
    assert read_part(store.folder) == CONTENT[5_000:9_000]
    store.proxy.reset()
    store.proxy.inject(Fault("expired-token", times=None))
    with pytest.raises(
        StoreError, match=rf"{NAME}: access refused .*check the credentials"
    ) as caught:
        read_part(store.folder)
    assert len(store.proxy.requests) == 2
    assert_no_secret(caught.value)


def test_renewed_credentials_are_read(
    s3: S3, on_s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"

    def write(secret: str) -> None:
        lines = ["[default]", f"aws_access_key_id={s3.key}", f"aws_secret_access_key={secret}"]
        file.write_text("\n".join(lines))

    def renew(request: Request) -> None:
        write(s3.secret)

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    write("of yesterday")
    on_s3.proxy.on_request = renew  # when the request is signed already, with the old one
    folder = Folder(on_s3.folder.url, {"endpoint_url": on_s3.proxy.url}, timeout_s=30)
    assert read_part(folder) == CONTENT[5_000:9_000]
    assert [request.status for request in on_s3.proxy.requests] == [403, 206]


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0, 9])
def test_credentials_that_cannot_be_renewed_are_an_error_in_time(
    on_s3: Store, monkeypatch: pytest.MonkeyPatch, delay_s: float
) -> None:
    class CredentialRetrievalError(Exception): ...

    set_session = S3FileSystem.set_session

    async def refused(self: Any, refresh: bool = False, **options: Any) -> Any:
        if refresh:
            await asyncio.sleep(delay_s)
            raise CredentialRetrievalError
        return await set_session(self, **options)

    monkeypatch.setattr(S3FileSystem, "set_session", refused)
    on_s3.proxy.inject(Fault("expired-token", times=None))
    problem = "access refused .*, and no others were found"
    with pytest.raises(StoreError, match=rf"{NAME}: {problem}"):
        read_part(replace(on_s3.folder, timeout_s=SHORT_S))


@pytest.mark.slow
def test_requests_refused_together_read_credentials_together(
    on_s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    set_session = S3FileSystem.set_session

    async def counted(self: Any, refresh: bool = False, **options: Any) -> Any:
        made.append(refresh)
        return await set_session(self, refresh=refresh, **options)

    read_part(on_s3.folder)
    on_s3.proxy.latency_s = 0.05
    on_s3.proxy.inject(Fault("expired-token", times=16))
    monkeypatch.setattr(S3FileSystem, "set_session", counted)
    wanted = [(NAME, start, start + 100) for start in range(0, 3_200, 100)]
    assert b"".join(on_s3.folder.read_ranges(wanted)) == CONTENT[:3_200]
    assert on_s3.proxy.hits == 16
    assert 1 <= sum(made) <= 2


@pytest.mark.usefixtures("clock")
def test_an_object_that_ends_too_early_shows_no_signed_url(
    assert_no_secret: Callable[[BaseException], None],
) -> None:
    with serve(CONTENT, Reply(status=416, body=b"")) as server:
        signed = StoredObject(f"{server.url}/{NAME}?X-Amz-Signature={SECRET}", timeout_s=60)
        with pytest.raises(ShardError, match="ends before byte 30000") as caught:
            signed.read_ranges([(30_000, 30_100)])
    assert_no_secret(caught.value)
