"""A resumed `index` reads only what is new or changed, and writes the same bytes."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset.scan import scan_stored
from shard_tool.dataset.verify import verify
from shard_tool.errors import ObjectExists, ObjectMissing, ShardError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.converted import files_of
from tests.kit.datasets.foreign_tars import (
    adopted,
    by_webdataset,
    read_by_index,
    read_by_webdataset,
    records_of,
    shards_of_others,
)
from tests.kit.processes.shard_tool_process import eventually, group_is_gone, group_of_processes
from tests.kit.servers.s3 import put, upload

if TYPE_CHECKING:
    from pathlib import Path

    from shard_tool.dataset.scan import ScannedShard
    from shard_tool.storage.location import StoredObject
    from tests.kit.servers.s3 import S3


def reads_noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record which tars are read from now on, in order."""
    read: list[str] = []

    def noted(shard: StoredObject, *arguments: Any, **options: Any) -> ScannedShard:
        read.append(shard.place)
        return scan_stored(shard, *arguments, **options)

    monkeypatch.setattr("shard_tool.dataset.index_task.scan_stored", noted)
    return read


def test_resume_reads_only_the_repaired_tar_again(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = shards[1].read_bytes()
    shards[1].write_bytes(good[:700])
    with pytest.raises(ShardError, match="1 of 3 shards cannot be indexed"):
        adopted(shards, tmp_path / "out")
    shards[1].write_bytes(good)
    read = reads_noted(monkeypatch)
    adopted(shards, tmp_path / "out", on_existing="resume")
    assert read == [str(shards[1])]
    adopted(shards, tmp_path / "undisturbed")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")


def test_resume_reads_a_tar_of_another_size_again(shards: list[Path], tmp_path: Path) -> None:
    good = shards[2].read_bytes()
    shards[2].write_bytes(good[:700])
    with pytest.raises(ShardError, match="1 of 3"):
        adopted(shards, tmp_path / "out")
    shards[2].write_bytes(good)
    by_webdataset(shards[0], records_of("other", 9))  # after its index was made
    adopted(shards, tmp_path / "out", on_existing="resume")
    assert read_by_index(tmp_path / "out", shards) == read_by_webdataset(shards)


def test_resume_reads_files_changed_in_place_again(shards: list[Path], tmp_path: Path) -> None:
    """Sizes stay the same: the time of a tar and the digest of an index reveal the change."""
    good, dest = shards[2].read_bytes(), tmp_path / "out"
    shards[2].write_bytes(good[:700])
    with pytest.raises(ShardError, match="1 of 3"):
        adopted(shards, dest)
    shards[2].write_bytes(good)
    before = shards[0].stat()
    content = bytearray(shards[0].read_bytes())
    content[content.index(b"000 2")] ^= 1
    shards[0].write_bytes(content)
    os.utime(shards[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    index = bytearray((dest / "train-000001.tar.idx").read_bytes())
    index[-1] ^= 1
    (dest / "train-000001.tar.idx").write_bytes(index)
    adopted(shards, dest, on_existing="resume")
    assert read_by_index(dest, shards) == read_by_webdataset(shards)
    assert verify(Folder(str(dest)), workers=1).problems == ()


def test_resume_reads_a_replaced_file_of_the_same_size_and_time_again(
    shards: list[Path], tmp_path: Path
) -> None:
    good, dest = shards[2].read_bytes(), tmp_path / "out"
    shards[2].write_bytes(good[:700])
    with pytest.raises(ShardError, match="1 of 3"):
        adopted(shards, dest)
    shards[2].write_bytes(good)
    before = shards[0].stat()
    content = shards[0].read_bytes()
    other = shards[0].with_name("other")
    other.write_bytes(content.replace(b"000 2", b"000 3"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(shards[0])
    adopted(shards, dest, on_existing="resume")
    assert verify(Folder(str(dest)), workers=1).problems == ()


@pytest.mark.slow
def test_resume_reads_only_replaced_objects_again(
    shards: list[Path], tmp_path: Path, s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, dest = shards[2].read_bytes(), tmp_path / "out"
    shards[2].write_bytes(good[:700])
    upload(tmp_path / "shards", s3, bucket)
    options: dict[str, Any] = {"storage_options": s3.storage_options}
    with pytest.raises(ShardError, match="1 of 3"):
        adopted([f"{bucket}/part-*.tar"], dest, **options)
    put(s3, f"{bucket}/part-002.tar", good)
    put(s3, f"{bucket}/part-000.tar", shards[0].read_bytes().replace(b"000 2", b"000 3"))
    read = reads_noted(monkeypatch)
    adopted([f"{bucket}/part-*.tar"], dest, on_existing="resume", **options)
    assert read == [f"{bucket}/part-000.tar", f"{bucket}/part-002.tar"]
    assert verify(Folder(str(dest), s3.storage_options), workers=1).problems == ()


STUCK_AFTER = """
import sys, time
from shard_tool.dataset.index import IndexOptions, index_tars
pattern, dest, workers, after = sys.argv[1:]
def get_stuck(at):
    if at.shards == int(after):
        print("stuck", flush=True)
        time.sleep(300)
if __name__ == "__main__":
    options = IndexOptions(shards=(pattern,), dest=dest, workers=int(workers))
    index_tars(options, on_progress=get_stuck)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "after"), [(1, 1), (1, 5), (1, 6), (2, 3)])
def test_promise_2_killed_indexing_resumes_to_the_same_bytes(
    tmp_path: Path, workers: int, after: int
) -> None:
    shards_of_others(tmp_path / "shards", [3, 1, 4, 1, 5, 9])
    pattern, dest = str(tmp_path / "shards/*.tar"), tmp_path / "out"
    script = tmp_path / "stuck.py"
    script.write_text(STUCK_AFTER)
    command = [sys.executable, str(script), pattern, str(dest), str(workers), str(after)]
    with group_of_processes(command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        os.killpg(process.pid, signal.SIGKILL)
        assert eventually(lambda: group_is_gone(process)), "a worker lives on"
    with pytest.raises(ObjectMissing):
        load_manifest(Folder(str(dest)))
    with pytest.raises(ObjectExists, match="--on-existing resume"):
        adopted([pattern], dest)
    with pytest.raises(ObjectExists, match="split 'train', now 'val'"):
        adopted([pattern], dest, split="val", on_existing="resume")
    with pytest.raises(ObjectExists, match="num_shards 6, now 1"):
        adopted([tmp_path / "shards/part-000.tar"], dest, on_existing="resume")
    adopted([pattern], dest, on_existing="resume")
    adopted([pattern], tmp_path / "undisturbed")
    assert files_of(dest) == files_of(tmp_path / "undisturbed")
    adopted([pattern], dest, on_existing="resume")  # nothing is left to do
