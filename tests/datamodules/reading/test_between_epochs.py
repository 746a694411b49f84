"""Bytes that arrive after an epoch's last batch."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from datamodules import ShardDataset, ShardLoader
from tests.kit.datasets.stored import stored
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.fault_proxy import Request, fault_proxy
from tests.kit.servers.s3 import S3, upload
from tests.kit.servers.traffic import Traffic

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_bytes_fetched_between_two_epochs_count_for_the_second(
    s3: S3, bucket: str, tmp_path: Path, num_workers: int
) -> None:
    folder = stored(tmp_path / "voc", {"train": [4, 4, 4]})
    upload(folder, s3, f"{bucket}/voc")
    sizes, epoch_is_over = Traffic(folder).num_bytes, threading.Event()

    def hold(request: Request) -> None:
        if request.range == (0, sizes.get(request.path.rpartition("/")[2])):
            epoch_is_over.wait(30)

    with fault_proxy(s3.endpoint_url) as proxy:
        proxy.on_request = hold
        dataset = ShardDataset(
            f"{bucket}/voc",
            cache_dir=str(tmp_path / "cache"),
            storage_options=s3.through(proxy).storage_options,
        )
        loader = ShardLoader(dataset, 4, num_workers=num_workers, persistent_workers=True)
        first = [batch.cost.network_bytes for batch in loader]
        epoch_is_over.set()
        assert eventually(lambda: len(list((tmp_path / "cache").rglob("*.tar"))) == 3)
        second = [batch.cost.network_bytes for batch in loader]
    assert (sum(first), sum(second)) == (0, sum(sizes.values()))
