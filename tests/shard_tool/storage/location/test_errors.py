"""Errors name what is wrong and no secret."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import ObjectMissing, StoreError
from shard_tool.storage.location import Folder, public_url
from tests.kit.servers.fault_proxy import Fault, FaultProxy
from tests.kit.servers.published import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kit.faults.kinds import Kind
    from tests.kit.servers.s3 import S3


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/data/voc", "/data/voc"),
        ("s3://bucket/voc", "s3://bucket/voc"),
        ("https://me:secret@host/voc", "https://host/voc"),
        ("https://me:se@cret@host/voc", "https://host/voc"),
        ("s3://key:se/cret@bucket/voc", "s3://bucket/voc"),
        ("https://host:8080/voc?X-Amz-Signature=secret", "https://host:8080/voc"),
        ("https://host/voc#secret", "https://host/voc"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert public_url(url) == shown
    assert "secret" not in str(Folder(url, {"secret": "secret"}))


def test_any_error_of_a_store_becomes_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    class NoCredentialsError(Exception): ...

    def fail(*_: object, **__: object) -> None:
        raise NoCredentialsError

    folder = Folder("memory://voc")
    for name in ("ls", "cat_file", "rm_file", "pipe_file", "info"):
        monkeypatch.setattr(MemoryFileSystem, name, fail)
    acts: list[Callable[[], object]] = [
        folder.names,
        folder.sizes,
        lambda: folder.remove("a"),
        lambda: folder.remove_all(["a", "b"]),
        lambda: folder.read("a"),
        lambda: folder.put("a", b"x"),
        lambda: publish(folder, "a", b"x"),
        folder.object("a").num_bytes,
    ]
    for act in acts:
        with pytest.raises(StoreError, match=r"access refused \(NoCredentialsError\)"):
            act()


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(StoreError, match=r"known protocols: .*memory"):
        Folder("voc://x").names()


def test_a_missing_object_is_also_a_file_not_found() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Folder("memory://voc").read("none")
    assert isinstance(caught.value, ObjectMissing)


def test_a_missing_bucket_is_reported(s3: S3) -> None:
    folder = Folder("s3://no-such-bucket/voc", s3.storage_options)
    assert folder.names() == []
    with pytest.raises(StoreError, match="there is no such bucket; make it first"):
        folder.put("a", b"")


@pytest.mark.parametrize(
    ("method", "act", "to_do"),
    [
        ("PUT", lambda folder: folder.put("a", b""), "write"),
        ("GET", lambda folder: folder.names(), "list"),
        ("DELETE", lambda folder: folder.remove("a"), "remove"),
        ("HEAD", lambda folder: folder.object("a").num_bytes(), "read"),
    ],
)
def test_refused_access_is_final(
    on_s3: Folder, proxy: FaultProxy, method: str, act: Callable[[Folder], object], to_do: str
) -> None:
    proxy.inject(Fault("expired-token", times=None, method=method, path="bucket"))
    with pytest.raises(StoreError, match="access refused") as caught:
        act(on_s3)
    assert proxy.hits == 2  # once more with the credentials read again
    assert caught.value.hint.endswith(f"or may not {to_do} this")


@pytest.mark.slow
def test_no_secret_is_in_any_error_or_log(
    s3: S3, on_s3: Folder, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="shard_tool")
    folder = replace(on_s3, timeout_s=0.3)
    shown = [repr(folder), repr(folder.child("a")), repr(folder.object("a"))]
    acts: list[Callable[[], object]] = [
        folder.names,
        folder.sizes,
        folder.object("a").num_bytes,
        lambda: folder.put("a", b"x"),
        lambda: folder.remove("a"),
        lambda: folder.remove_all(["a", "b"]),
        lambda: folder.abort_uploads(lambda _: True),
    ]
    kinds: list[Kind] = ["expired-token", "slow-down", "html-200"]
    for kind in kinds:
        for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
            proxy.inject(Fault(kind, times=None, method=method, path=""))
        for act in acts:
            try:
                act()
            except StoreError as exc:
                shown += [str(exc), repr(exc), exc.hint, repr(exc.__cause__)]
        proxy.clear()
    assert len(shown) > 40
    assert s3.secret not in "".join(shown) + caplog.text
    assert "Signature=" not in "".join(shown) + caplog.text
