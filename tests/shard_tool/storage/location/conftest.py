"""Folders that do not exist yet, anywhere one can write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.storage import uploads
from shard_tool.storage.location import Folder
from tests.kit.servers.fault_proxy import FaultProxy, fault_proxy
from tests.kit.servers.published import MIB, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kit.servers.s3 import S3


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        yield proxy


@pytest.fixture
def on_s3(s3: S3, bucket: str, proxy: FaultProxy) -> Folder:
    """A folder in a fresh bucket, behind a proxy that has seen nothing yet."""
    proxy.clear()
    proxy.reset()
    proxy.on_request, proxy.latency_s = None, 0.0
    options: dict[str, Any] = dict(s3.through(proxy).storage_options)
    options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}  # all repetitions are ours
    return Folder(f"{bucket}/voc", options, timeout_s=TIMEOUT_S)


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder that does not exist yet, anywhere one can write."""
    if request.param == "s3":
        found: Folder = request.getfixturevalue("on_s3")
        return found
    return Folder(str(tmp_path / "voc") if request.param == "local" else f"memory:/{tmp_path}/voc")


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is longer than 5 MiB, the least that S3 takes for a part, is uploaded in parts."""
    monkeypatch.setattr(uploads, "SINGLE_BYTES", 5 * MIB)
    monkeypatch.setattr(uploads, "PART_BYTES", 5 * MIB)
