"""`index` names every tar that it cannot index, and commits nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shard_tool.errors import ObjectMissing, OptionError, ShardError
from shard_tool.format.tar import padded
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.foreign_tars import adopted
from tests.kit.datasets.tars import members_of
from tests.kit.servers.s3 import put, remove, upload

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.servers.s3 import S3


def test_all_bad_tars_are_named_at_once_and_nothing_is_committed(
    shards: list[Path], tmp_path: Path
) -> None:
    whole, folder = shards[2].read_bytes(), tmp_path / "shards"
    members = members_of(whole)
    second, last = members[1], members[-1]
    end = last.offset + padded(last.size)
    (folder / "header.tar").write_bytes(whole[: second.start + 100])
    (folder / "member.tar").write_bytes(whole[: second.offset + second.size // 2])
    (folder / "marker.tar").write_bytes(whole[:end])
    (folder / "nothing.tar").write_bytes(b"")
    (folder / "text.tar").write_bytes(b"not a tar" * 1000)
    (folder / "folder.tar").mkdir()
    bad = ["header", "member", "marker", "nothing", "text", "missing"]
    with pytest.raises(ShardError) as caught:
        adopted([*shards, *(folder / f"{name}.tar" for name in bad)], tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path / 'out'}: 6 of 9 shards cannot be indexed:"
    assert [line.partition(": ")[0] for line in lines[1:]] == [
        str(folder / f"{name}.tar") for name in bad
    ]
    problems = [line.partition(": ")[2] for line in lines[1:]]
    header = f"at byte {second.start} ({second.start + 100} bytes)"
    assert problems[0].startswith(f"cut short inside the header {header}")
    assert problems[1].startswith(f"cut short: member '{second.name}' needs ")
    assert problems[2] == f"cut short: no end-of-archive marker in its {end} bytes"
    assert problems[3] == "cut short: no end-of-archive marker in its 0 bytes"
    assert problems[4].startswith("the header at byte 0")
    assert problems[5].startswith("there is no such object")
    with pytest.raises(ObjectMissing, match=r"not finished|no dataset"):
        load_manifest(Folder(str(tmp_path / "out")))
    with pytest.raises(OptionError, match=r"folder\.tar': is a folder"):
        adopted([folder / "folder.tar"], tmp_path / "out2")


def test_missing_and_cut_objects_of_a_bucket_are_named_together(
    shards: list[Path], tmp_path: Path, s3: S3, bucket: str
) -> None:
    upload(tmp_path / "shards", s3, bucket)
    put(s3, f"{bucket}/part-000.tar", shards[0].read_bytes()[:1000])
    remove(s3, f"{bucket}/part-002.tar")
    with pytest.raises(ShardError) as caught:
        adopted(
            [f"{bucket}/part-{{000..002}}.tar"],
            tmp_path / "out",
            storage_options=s3.storage_options,
        )
    text = str(caught.value)
    assert "2 of 3 shards cannot be indexed" in text
    assert f"{bucket}/part-000.tar: cut short" in text
    assert f"{bucket}/part-002.tar: there is no such object" in text
