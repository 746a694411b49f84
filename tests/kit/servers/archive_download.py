"""Downloads an archive of the year 2099 from a scripted server."""

from __future__ import annotations

import hashlib
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import StoreError
from shard_tool.sources.voc.download import download_archive
from shard_tool.sources.voc.official import Archive

if TYPE_CHECKING:
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


def fetch(server: ScriptedServer, folder: Path, archive: Archive = ARCHIVE, **kwargs: Any) -> Path:
    """Download from a mirror that is the file's own URL, so that every request has one path."""
    url = f"{server.url}/{archive.file}"
    return download_archive(archive, folder, mirrors=[url], **(QUICK | kwargs))


def failure(server: ScriptedServer, folder: Path, archive: Archive = ARCHIVE, **kwargs: Any) -> str:
    with pytest.raises(StoreError) as caught:
        fetch(server, folder, archive, **kwargs)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
