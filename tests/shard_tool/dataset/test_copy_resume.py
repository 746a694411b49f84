"""A resumed copy keeps finished shards, writes the rest and never mixes two datasets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import ObjectExists, ShardError
from tests.kit.datasets.converted import files_of, manifest_of, reworded
from tests.kit.datasets.copies import NAMES, assert_no_dataset, copied, spoil
from tests.kit.processes.shard_tool_process import (
    eventually,
    group_is_gone,
    group_of_processes,
    stuck_conversion,
)
from tests.kit.servers.s3 import S3, objects

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kit.servers.fault_proxy import FaultProxy


def identities(folder: Path) -> dict[str, int]:
    """Inode of each shard and index: a file that is written again has another."""
    return {path.name: path.stat().st_ino for path in folder.glob("*.tar*")}


def written(proxy: FaultProxy) -> set[str]:
    """Names of shards and indexes that were uploaded through the proxy."""
    names = {item.path.rpartition("/")[2] for item in proxy.requests if item.method == "PUT"}
    return {name for name in names if ".tar" in name and not name.endswith(".json")}


def test_copy_of_a_repaired_source_keeps_finished_shards(
    mine: Path, source: Path, tmp_path: Path
) -> None:
    spoil(mine / NAMES[2])
    with pytest.raises(ShardError):
        copied(mine, tmp_path / "copy")
    before = identities(tmp_path / "copy")
    assert {NAMES[0], NAMES[1]} <= before.keys()
    shutil.copy(source / NAMES[2], mine / NAMES[2])
    report = copied(mine, tmp_path / "copy", on_existing="resume")
    assert report.num_kept_shards == 2
    assert before.items() <= identities(tmp_path / "copy").items()
    assert files_of(tmp_path / "copy") == files_of(source)


STUCK_AFTER_A_SHARD = """
import json, sys, time
from shard_tool.dataset.copy import CopyOptions, copy_dataset
source, dest, workers, options = sys.argv[1:]
def get_stuck(at):
    print(at.shards, flush=True)
    time.sleep(300)
options = CopyOptions(source=source, dest=dest, workers=int(workers),
                      storage_options=json.loads(options))
copy_dataset(options, on_progress=get_stuck)
"""


@contextmanager
def killed_copy(source: Path, dest: object, workers: int, **options: str) -> Iterator[None]:
    """Kill a copy and its workers once at least one shard is finished."""
    arguments = [str(source), str(dest), str(workers), json.dumps(options)]
    with group_of_processes([sys.executable, "-c", STUCK_AFTER_A_SHARD, *arguments]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        os.kill(process.pid, signal.SIGKILL)
        assert eventually(lambda: group_is_gone(process)), "a worker lives on"
        yield


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_copy_is_no_dataset_and_finished_shards_are_not_written_again(
    source: Path, tmp_path: Path, workers: int
) -> None:
    dest = tmp_path / "copy"
    with killed_copy(source, dest, workers):
        assert_no_dataset(dest)
        finished = {path.stem for path in (dest / ".conversion").glob("*.tar.json")}
        assert finished
        before = identities(dest)
        with pytest.raises(ObjectExists, match="shards of a copy that did not finish"):
            copied(source, dest)
        report = copied(source, dest, on_existing="resume")
    assert report.num_kept_shards == len(finished)
    after = identities(dest)
    for name in finished:
        assert after[name] == before[name]
        assert after[f"{name}.idx"] == before[f"{name}.idx"]
    assert files_of(dest) == files_of(source)


@pytest.mark.slow
def test_killed_copy_into_a_bucket_resumes_without_putting_finished_shards_again(
    source: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str]
) -> None:
    dest = f"{bucket}/copy"
    with killed_copy(source, dest, 2, **s3.storage_options):
        there = objects(s3, dest)
        assert "manifest.json" not in there
        records = {name.removeprefix(".conversion/") for name in there}
        finished = {name.removesuffix(".json") for name in records if name.endswith(".tar.json")}
        assert finished
        report = copied(source, dest, storage_options=on_s3, on_existing="resume")
    assert report.num_kept_shards == len(finished)
    left = set(NAMES) - finished
    assert written(proxy) == left | {f"{name}.idx" for name in left}
    assert objects(s3, dest) == files_of(source)


@pytest.mark.slow
def test_failed_copy_into_a_bucket_resumes_without_putting_finished_shards_again(
    mine: Path, source: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str]
) -> None:
    spoil(mine / NAMES[2])
    with pytest.raises(ShardError):
        copied(mine, f"{bucket}/copy", storage_options=on_s3)
    assert "manifest.json" not in objects(s3, f"{bucket}/copy")
    shutil.copy(source / NAMES[2], mine / NAMES[2])
    proxy.reset()
    report = copied(mine, f"{bucket}/copy", storage_options=on_s3, on_existing="resume")
    assert report.num_kept_shards == 2
    assert written(proxy) == {*NAMES[2:], *(f"{name}.idx" for name in NAMES[2:])}
    assert objects(s3, f"{bucket}/copy") == files_of(source)


@pytest.mark.parametrize("spoilt", [NAMES[0], f"{NAMES[1]}.idx"])
def test_finished_shard_whose_bytes_were_lost_is_copied_again(
    mine: Path, source: Path, tmp_path: Path, spoilt: str
) -> None:
    """Its length is right and its bytes are zeros, as after a power failure."""
    spoil(mine / NAMES[2])
    with pytest.raises(ShardError):
        copied(mine, tmp_path / "copy")
    path = tmp_path / "copy" / spoilt
    path.write_bytes(bytes(path.stat().st_size))
    report = copied(source, tmp_path / "copy", on_existing="resume")
    assert report.num_kept_shards == 1
    assert files_of(tmp_path / "copy") == files_of(source)


def test_resume_of_another_dataset_is_refused_and_shows_both_values(
    mine: Path, other: Path, tmp_path: Path
) -> None:
    spoil(mine / NAMES[2])
    with pytest.raises(ShardError):
        copied(mine, tmp_path / "copy")
    before = files_of(tmp_path / "copy")
    with pytest.raises(ObjectExists) as caught:
        copied(other, tmp_path / "copy", on_existing="resume")
    then, now = (manifest_of(folder)["fingerprint"] for folder in (mine, other))
    assert (
        f"what is there was begun with name 'voc', now 'coco'; fingerprint '{then}', now '{now}'"
        in (str(caught.value))
    )
    assert files_of(tmp_path / "copy") == before


def test_same_shards_under_another_manifest_are_another_dataset(
    source: Path, mine: Path, tmp_path: Path
) -> None:
    reworded(mine, lambda document: document.update(options={"seed": 7}))
    copied(source, tmp_path / "copy")
    with pytest.raises(ObjectExists, match="the manifest's sha256"):
        copied(mine, tmp_path / "copy", on_existing="resume")


def test_resume_of_a_finished_copy_writes_nothing(source: Path, tmp_path: Path) -> None:
    copied(source, tmp_path / "copy")
    before = identities(tmp_path / "copy")
    report = copied(source, tmp_path / "copy", on_existing="resume")
    assert report.num_kept_shards == 4
    assert identities(tmp_path / "copy") == before
    assert files_of(tmp_path / "copy") == files_of(source)


def test_resume_starts_a_copy_where_there_is_none(source: Path, tmp_path: Path) -> None:
    copied(source, tmp_path / "copy", on_existing="resume")
    assert files_of(tmp_path / "copy") == files_of(source)


def test_unfinished_conversion_is_never_mixed_with_a_copy(
    mini_archive: Path, mini_dataset: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    with stuck_conversion(mini_archive, dest, shard_bytes=90_000) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    before = files_of(dest)
    with pytest.raises(ObjectExists):
        copied(mini_dataset, dest, on_existing="resume")
    assert files_of(dest) == before
