"""Makes the tars and datasets that tests of `index` and `copy` share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.datasets.foreign_tars import shards_of_others
from tests.kit.datasets.stored import stored
from tests.kit.servers.fault_proxy import FaultProxy, fault_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kit.servers.s3 import S3


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Three tars by webdataset, of 4, 1 and 6 samples."""
    return shards_of_others(tmp_path / "shards", [4, 1, 6])


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four shards of some 20 kB. Read only."""
    folder = tmp_path_factory.mktemp("source") / "voc"
    return stored(folder, {"train": [4, 6, 5], "val": [3]})


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of other samples, in two shards. Read only."""
    return stored(tmp_path_factory.mktemp("other") / "coco", {"train": [2, 3]}, name="coco")


@pytest.fixture
def mine(source: Path, tmp_path: Path) -> Path:
    """A copy of `source` that a test may spoil."""
    return Path(shutil.copytree(source, tmp_path / "mine"))


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[FaultProxy]:
    """A proxy in front of the S3 server that injects faults."""
    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        yield proxy


@pytest.fixture
def on_s3(s3: S3, bucket: str, proxy: FaultProxy) -> dict[str, str]:
    """Storage options for a fresh bucket, behind a proxy that has seen nothing yet."""
    proxy.clear()
    proxy.reset()
    return s3.through(proxy).storage_options
