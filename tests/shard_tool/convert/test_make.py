"""`make_dataset` where several processes, of one node or of many, want the same dataset."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.convert import make
from shard_tool.convert.make import make_dataset
from shard_tool.convert.run import convert
from shard_tool.dataset.verify import verify
from shard_tool.dataset.writer_lock import hold_writer_lock
from shard_tool.errors import OptionError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.converted import files_of
from tests.kit.processes.shard_tool_process import eventually, stuck_conversion

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shard_tool.convert.run import ConvertOptions, ConvertReport
    from shard_tool.format.manifest import Manifest
    from tests.kit.servers.s3 import S3

DEFAULT_SHARD_BYTES = 64 << 20


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[ConvertReport]:
    """What came of each conversion that was not refused."""
    reports = []

    def recorded(options: ConvertOptions, **more: Any) -> ConvertReport:
        reports.append(convert(options, **more))
        return reports[-1]

    monkeypatch.setattr(make, "convert", recorded)
    return reports


def made(dest: object, source: object, **options: Any) -> Callable[[], Manifest]:
    return partial(make_dataset, str(dest), source=str(source), year="2012", **options)


def at_once(*makers: Callable[[], Manifest]) -> list[Manifest]:
    with ThreadPoolExecutor() as nodes:
        return [node.result() for node in [nodes.submit(maker) for maker in makers]]


def is_waiting(caplog: pytest.LogCaptureFixture) -> bool:
    return any("waiting for its end" in record.message for record in caplog.records)


def test_an_existing_dataset_stays_as_it_is(mini_dataset: Path) -> None:
    before = files_of(mini_dataset)
    manifest = made(mini_dataset, "no such archive", task="segmentation")()
    assert manifest == load_manifest(Folder(str(mini_dataset)))
    assert files_of(mini_dataset) == before


@pytest.mark.slow
def test_nodes_that_share_a_folder_make_one_dataset(
    mini_archive: Path, tmp_path: Path, conversions: list[ConvertReport]
) -> None:
    manifests = at_once(*[made(tmp_path / "voc", mini_archive)] * 3)
    written = [report for report in conversions if not report.num_kept_shards]
    assert manifests == [written[0].manifest] * 3
    assert len(written) == 1
    assert not verify(Folder(str(tmp_path / "voc"))).problems


@pytest.mark.slow
def test_nodes_that_share_a_bucket_make_one_dataset(
    mini_archive: Path, s3: S3, bucket: str, conversions: list[ConvertReport]
) -> None:
    url = f"{bucket}/voc"
    at_once(*[made(url, mini_archive, storage_options=s3.storage_options)] * 2)
    written = [report for report in conversions if not report.num_kept_shards]
    assert len(written) == 1
    assert load_manifest(Folder(url, s3.storage_options)) == written[0].manifest


@pytest.mark.slow
def test_a_process_that_waits_says_for_whom(
    mini_archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dest = tmp_path / "voc"
    with ThreadPoolExecutor() as node:
        with hold_writer_lock(Folder(str(dest))):
            waiting = node.submit(made(dest, mini_archive))
            assert eventually(lambda: is_waiting(caplog))
            assert not waiting.done()
        waiting.result(timeout=60)
    expected = f"{dest}: another conversion is writing there; waiting for its end"
    of_make = [record for record in caplog.records if record.name == "shard_tool.convert.make"]
    assert [(record.levelno, record.message) for record in of_make] == [(logging.WARNING, expected)]


@pytest.mark.slow
def test_a_process_that_waits_goes_on_with_what_a_killed_one_left(
    mini_archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dest = tmp_path / "voc"
    with ThreadPoolExecutor() as node:
        with stuck_conversion(mini_archive, dest, shard_bytes=DEFAULT_SHARD_BYTES):
            inodes = {path.name: path.stat().st_ino for path in dest.glob("*.tar")}
            waiting = node.submit(made(dest, mini_archive))
            assert eventually(lambda: is_waiting(caplog))
        waiting.result(timeout=60)  # the block's end killed the other
    assert inodes.items() <= {path.name: path.stat().st_ino for path in dest.glob("*.tar")}.items()
    assert not verify(Folder(str(dest))).problems


def test_a_conversion_that_fails_fails_for_those_that_wait_too(tmp_path: Path) -> None:
    """They try in turn; nobody waits for ever."""
    (tmp_path / "archive.tar").write_bytes(b"no tar")
    with ThreadPoolExecutor() as nodes:
        makers = [nodes.submit(made(tmp_path / "voc", tmp_path / "archive.tar")) for _ in range(2)]
        errors = [future.exception(timeout=60) for future in makers]
    assert all("archive.tar" in str(error) for error in errors)


def test_an_archive_is_downloaded_for_a_local_folder_only(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/voc"
    with pytest.raises(OptionError) as caught:
        make_dataset(url, source=None, year="2012")
    problem = f"{url}: an archive can be downloaded for a local folder only"
    assert (
        str(caught.value) == f"{problem}; download and convert with shard-tool, then give the URL"
    )
