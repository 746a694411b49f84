"""What folders say of themselves, and that secrets stay secret."""

from __future__ import annotations

import pytest

from shard_tool.errors import ObjectMissing, StoreError
from shard_tool.storage import Folder, public_url


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


def test_options_may_be_nested() -> None:
    folder = Folder("memory://nested", {"client_kwargs": {"endpoint_url": "http://127.0.0.1"}})
    assert folder.names() == []


def test_whatever_a_store_raises_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    class NoCredentialsError(Exception): ...

    def fail(*_: object, **__: object) -> None:
        raise NoCredentialsError

    folder = Folder("memory://voc")
    for name in ("ls", "cat_file", "rm_file", "put_file"):
        monkeypatch.setattr(MemoryFileSystem, name, fail)
    for act in (folder.names, lambda: folder.remove("a")):
        with pytest.raises(StoreError, match=r"cannot be \w+: NoCredentialsError"):
            act()
    with pytest.raises(StoreError, match=r"access refused \(NoCredentialsError\)"):
        folder.read("a")
    with pytest.raises(StoreError, match="a: cannot be written"), folder.publish("a") as file:
        file.write(b"x")


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(StoreError, match=r"known protocols: .*memory"):
        Folder("voc://x").names()


def test_a_missing_object_is_also_a_file_not_found() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Folder("memory://voc").read("none")
    assert isinstance(caught.value, ObjectMissing)
