"""Stores that hold one object, behind proxies that may break what comes from it."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from shard_tool.storage import ranges
from shard_tool.storage.location import Folder
from tests.kit.clock import PausesOnly, only_pauses_count
from tests.kit.servers.fault_proxy import FaultProxy, fault_proxy
from tests.kit.servers.ranged_object import CONTENT, NAME, PART, SECRET, TIMEOUT_S, Store, afresh
from tests.kit.servers.s3 import S3, make_bucket, put
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def s3_proxy(s3: S3) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def s3_url(s3: S3) -> str:
    return f"{make_bucket(s3)}/voc"


@pytest.fixture(scope="module")
def web_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def web_proxy(web_folder: Path) -> Iterator[FaultProxy]:
    with web_server(web_folder) as url, fault_proxy(url) as proxy:
        yield proxy


@pytest.fixture
def on_s3(s3: S3, s3_url: str, s3_proxy: FaultProxy) -> Store:
    options: dict[str, Any] = dict(s3.through(s3_proxy).storage_options)
    options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}  # all repetitions are ours
    folder = Folder(s3_url, options, timeout_s=TIMEOUT_S)
    return afresh(Store(folder, lambda content: put(s3, f"{s3_url}/{NAME}", content), s3_proxy))


@pytest.fixture
def on_the_web(web_folder: Path, web_proxy: FaultProxy) -> Store:
    url = web_proxy.url.replace("://", f"://me:{SECRET}@")
    folder = Folder(url, timeout_s=TIMEOUT_S)
    return afresh(Store(folder, (web_folder / NAME).write_bytes, web_proxy))


@pytest.fixture(params=["on_s3", "on_the_web"])
def store(request: pytest.FixtureRequest) -> Store:
    """A store behind a proxy, which may break what comes from it."""
    found: Store = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["memory", "file", "on_s3", "on_the_web"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder that holds the content, anywhere."""
    if request.param == "memory":
        fsspec.filesystem("memory").pipe_file(f"/ranges/{NAME}", CONTENT)
        return Folder("memory://ranges", timeout_s=TIMEOUT_S)
    if request.param == "file":
        (tmp_path / NAME).write_bytes(CONTENT)
        return Folder(f"file://{tmp_path}", timeout_s=TIMEOUT_S)
    found: Store = request.getfixturevalue(request.param)
    return found.folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PausesOnly:
    return only_pauses_count(monkeypatch)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", PART)


@pytest.fixture
def assert_no_secret(s3: S3, caplog: pytest.LogCaptureFixture) -> Callable[[BaseException], None]:
    """Neither in an error, its causes and traceback (which a parent logs), nor in the log."""

    def check(error: BaseException) -> None:
        text = "".join(traceback.format_exception(error)) + caplog.text
        for secret in (SECRET, s3.secret, "Signature", "Authorization"):
            assert secret not in text

    return check
