"""`prepare_data` where several processes, of one node or of many, want the same dataset made."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from datamodules import VOCDataModule
from shard_tool.dataset.verify import verify
from shard_tool.dataset.writer_lock import hold_writer_lock
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.processes.shard_tool import eventually, stuck_conversion
from tests.kit.servers.s3 import objects, upload

if TYPE_CHECKING:
    from pathlib import Path

    from shard_tool.convert.run import ConvertOptions, ConvertReport
    from tests.kit.servers.s3 import S3

DEFAULT_SHARD_BYTES = 64 << 20


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[ConvertReport]:
    """What came of each conversion that was not refused."""
    module = import_module("shard_tool.convert.run")  # of the same name as what it holds
    reports, convert = [], module.convert

    def recorded(options: ConvertOptions, **more: Any) -> ConvertReport:
        reports.append(convert(options, **more))
        return reports[-1]

    monkeypatch.setattr(module, "convert", recorded)
    return reports


def is_waiting(caplog: pytest.LogCaptureFixture) -> bool:
    return any("waiting for its end" in record.message for record in caplog.records)


def test_nodes_that_share_a_folder_make_one_dataset(
    mini_archive: Path, tmp_path: Path, conversions: list[ConvertReport]
) -> None:
    dest = tmp_path / "voc"
    modules = [VOCDataModule(str(dest), source=str(mini_archive)) for _ in range(3)]
    with ThreadPoolExecutor() as nodes:
        list(nodes.map(VOCDataModule.prepare_data, modules))
    written = [report for report in conversions if not report.num_kept_shards]
    assert len(written) == 1
    assert not verify(Folder(str(dest))).problems


def test_nodes_that_share_a_bucket_make_one_dataset(
    mini_archive: Path, s3: S3, bucket: str, conversions: list[ConvertReport]
) -> None:
    """Though Lightning asks the first alone."""
    url, options = f"{bucket}/voc", {"source": str(mini_archive)}
    modules = [VOCDataModule(url, storage_options=s3.storage_options, **options) for _ in range(2)]
    assert [module.prepare_data_per_node for module in modules] == [False, False]
    with ThreadPoolExecutor() as nodes:
        list(nodes.map(VOCDataModule.prepare_data, modules))
    written = [report for report in conversions if not report.num_kept_shards]
    assert len(written) == 1
    assert load_manifest(Folder(url, s3.storage_options)) == written[0].manifest


def test_whoever_waits_says_for_whom(
    mini_archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dest = tmp_path / "voc"
    data = VOCDataModule(str(dest), source=str(mini_archive))
    with (
        ThreadPoolExecutor() as node,
        caplog.at_level(logging.WARNING, "datamodules.lightning.datamodule"),
    ):
        with hold_writer_lock(Folder(str(dest))):
            prepared = node.submit(data.prepare_data)
            assert eventually(lambda: is_waiting(caplog))
            assert not prepared.done()
        prepared.result(timeout=60)
    expected = f"{dest}: another conversion is writing there; waiting for its end"
    assert [record.message for record in caplog.records] == [expected]
    assert data.num_classes == 21


def test_whoever_waits_goes_on_with_what_a_killed_process_left(
    mini_archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dest = tmp_path / "voc"
    data = VOCDataModule(str(dest), source=str(mini_archive))
    with ThreadPoolExecutor() as node:
        with stuck_conversion(mini_archive, dest, shard_bytes=DEFAULT_SHARD_BYTES):
            inodes = {path.name: path.stat().st_ino for path in dest.glob("*.tar")}
            prepared = node.submit(data.prepare_data)
            assert eventually(lambda: is_waiting(caplog))
        prepared.result(timeout=60)  # the block's end killed it
    assert inodes.items() <= {path.name: path.stat().st_ino for path in dest.glob("*.tar")}.items()
    assert not verify(Folder(str(dest))).problems


def test_a_conversion_that_fails_fails_for_those_that_wait_too(tmp_path: Path) -> None:
    """They try in turn; nobody waits for ever."""
    (tmp_path / "archive.tar").write_bytes(b"no tar")
    modules = [
        VOCDataModule(str(tmp_path / "voc"), source=str(tmp_path / "archive.tar")) for _ in range(2)
    ]
    with ThreadPoolExecutor() as nodes:
        prepared = [nodes.submit(module.prepare_data) for module in modules]
        errors = [future.exception(timeout=60) for future in prepared]
    assert all("archive.tar" in str(error) for error in errors)


@pytest.mark.parametrize(
    ("data_dir", "given", "expected"),
    [
        pytest.param("voc", None, True, id="a folder may be of the node alone"),
        pytest.param("file:///voc", None, True, id="as a URL too"),
        pytest.param("s3://bucket/voc", None, False, id="a bucket is everybody's"),
        pytest.param(["s3://bucket/voc", "voc"], None, True, id="one of each"),
        pytest.param("voc", False, False, id="a folder that all nodes share"),
        pytest.param("s3://bucket/voc", True, True, id="as said"),
    ],
)
def test_lightning_is_told_whether_each_node_prepares(
    data_dir: str | list[str], given: bool | None, expected: bool
) -> None:
    data = VOCDataModule(data_dir, prepare_data_per_node=given)
    assert data.prepare_data_per_node is expected


def test_prepare_data_of_a_dataset_in_a_bucket_writes_nothing(
    mini_dataset: Path, s3: S3, bucket: str
) -> None:
    upload(mini_dataset, s3, f"{bucket}/voc")
    before = objects(s3, bucket)
    options = {"storage_options": s3.storage_options, "source": "no such archive"}
    VOCDataModule(f"{bucket}/voc", **options).prepare_data()
    assert objects(s3, bucket) == before
