"""Conversion on a Dask cluster: a real scheduler and two worker processes over TCP."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from shard_tool import ConvertOptions, ConvertProgress, convert
from shard_tool.errors import AnnotationError, OptionError
from tests.kit.datasets.converted import converted, files_of
from tests.kit.datasets.voc_tree import pictures, voc_tree
from tests.kit.servers.dask_cluster import dask_cluster
from tests.kit.servers.s3 import objects

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.servers.s3 import S3

pytestmark = pytest.mark.slow


def test_promise_1_a_cluster_writes_the_same_bytes_and_survives_a_lost_worker(
    mini_archive: Path, tmp_path: Path
) -> None:
    """One of the two is killed as soon as the first shard is there."""
    converted(mini_archive, tmp_path / "here", shard_bytes=60_000)
    with dask_cluster(tmp_path) as cluster:
        seen: list[ConvertProgress] = []

        def kill_one(at: ConvertProgress) -> None:
            if not seen:
                os.kill(cluster.pids[0], signal.SIGKILL)
            seen.append(at)

        options = ConvertOptions(
            source=str(mini_archive),
            dest=str(tmp_path / "there"),
            shard_bytes=60_000,
            engine=cluster.address,
        )
        convert(options, on_progress=kill_one)
    assert len(seen) > 20
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def test_cluster_writes_into_a_bucket_and_its_logs_show_no_secret(
    mini_archive: Path, tmp_path: Path, s3: S3, bucket: str
) -> None:
    converted(mini_archive, tmp_path / "here", shard_bytes=300_000)
    broken = voc_tree(tmp_path / "in", pictures(3))
    (broken / "Annotations/000002.xml").write_text("<annotation>")
    with dask_cluster(tmp_path) as cluster:
        given = {"engine": cluster.address, "storage_options": s3.storage_options}
        url = f"{bucket}/there"
        convert(
            ConvertOptions(source=str(mini_archive), dest=url, shard_bytes=300_000, **given)  # type: ignore[arg-type]
        )
        with pytest.raises(AnnotationError, match=r"000002\.xml: not well-formed"):
            convert(ConvertOptions(source=str(broken), dest=f"{bucket}/broken", **given))  # type: ignore[arg-type]
        logs = cluster.logs()
    assert objects(s3, url) == files_of(tmp_path / "here")
    assert objects(s3, f"{bucket}/broken") == {}
    assert s3.secret not in logs


def test_cluster_cannot_write_into_the_memory_of_one_process(tmp_path: Path) -> None:
    tree = voc_tree(tmp_path / "in", pictures(1))
    options = ConvertOptions(source=str(tree), dest="memory://cluster", engine="tcp://127.0.0.1:9")
    with pytest.raises(OptionError, match="cannot write into this process's memory"):
        convert(options)
