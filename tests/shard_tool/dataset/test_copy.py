"""A copy has the bytes of its source, wherever either lies."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset.index import IndexOptions, index_tars
from shard_tool.dataset.verify import verify
from shard_tool.errors import StoreError
from shard_tool.format.manifest import encode_manifest, parse_manifest
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.converted import files_of, manifest_of, reworded
from tests.kit.datasets.copies import NAMES, copied
from tests.kit.datasets.stored import stored
from tests.kit.datasets.voc_tree import write
from tests.kit.servers.s3 import S3, objects, upload
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.servers.fault_proxy import FaultProxy


@pytest.mark.parametrize("workers", [1, 2])
def test_copy_has_the_same_files_byte_for_byte(source: Path, tmp_path: Path, workers: int) -> None:
    report = copied(source, tmp_path / "a/b/copy", workers=workers)
    assert files_of(tmp_path / "a/b/copy") == files_of(source)
    assert verify(Folder(str(tmp_path / "a/b/copy")), workers=1).problems == ()
    assert (report.num_kept_shards, report.manifest.num_samples) == (0, 18)


@pytest.mark.slow
def test_copy_goes_into_a_bucket_and_back(other: Path, tmp_path: Path, s3: S3, bucket: str) -> None:
    options = s3.storage_options
    copied(other, f"{bucket}/there", storage_options=options)
    assert objects(s3, f"{bucket}/there") == files_of(other)
    copied(f"{bucket}/there", f"{bucket}/again", storage_options=options)
    assert objects(s3, f"{bucket}/again") == files_of(other)
    copied(f"{bucket}/again", tmp_path / "back", storage_options=options)
    assert files_of(tmp_path / "back") == files_of(other)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_copy_comes_from_a_web_server(source: Path, tmp_path: Path, *, has_ranges: bool) -> None:
    with web_server(source, has_ranges=has_ranges) as url:
        copied(url, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == files_of(source)


def test_copy_into_a_memory_filesystem_is_complete(source: Path, tmp_path: Path) -> None:
    copied(source, "memory://copy", workers=2)
    copied("memory://copy", tmp_path / "back", workers=2)
    assert files_of(tmp_path / "back") == files_of(source)


@pytest.mark.slow
def test_source_and_destination_have_options_of_their_own(
    other: Path, s3: S3, bucket: str, proxy: FaultProxy, on_s3: dict[str, str]
) -> None:
    upload(other, s3, f"{bucket}/there")
    direct, wrong = s3.storage_options, {**on_s3, "secret": "wrong"}
    copied(f"{bucket}/there", f"{bucket}/x", storage_options=on_s3, source_options=direct)
    assert [request for request in proxy.requests if "/x/" in request.path]
    assert not [request for request in proxy.requests if "/there/" in request.path]
    with pytest.raises(StoreError, match="access refused"):
        copied(f"{bucket}/there", f"{bucket}/y", storage_options=on_s3, source_options=wrong)


def test_only_the_list_of_bad_records_is_copied_beside_the_shards(
    mine: Path, tmp_path: Path
) -> None:
    reworded(mine, lambda document: document.update(num_bad_records=1))
    write(mine / "bad_records.jsonl", b'{"split": "train", "key": "a", "error": "b"}\n')
    write(mine / "notes.txt", b"mine")
    copied(mine, tmp_path / "copy")
    expected = files_of(mine)
    del expected["notes.txt"]
    assert files_of(tmp_path / "copy") == expected


def test_manifest_of_another_release_is_copied_unchanged(mine: Path, tmp_path: Path) -> None:
    def reword(document: dict[str, Any]) -> None:
        document["what a later release says"] = 1

    reworded(mine, reword)
    content = (mine / "manifest.json").read_bytes()
    assert encode_manifest(parse_manifest(content, place="")) != content
    copied(mine, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == files_of(mine)
    copied(mine, tmp_path / "copy", on_existing="resume")


def test_our_manifests_encode_to_the_bytes_they_were_read_from(
    mini_dataset: Path, mini_masks: Path, source: Path, tmp_path: Path
) -> None:
    index_tars(
        IndexOptions(shards=(f"{source}/train-*.tar",), dest=str(tmp_path / "own"), workers=1)
    )
    for folder in (mini_dataset, mini_masks, source, tmp_path / "own"):
        content = (folder / "manifest.json").read_bytes()
        assert encode_manifest(parse_manifest(content, place="")) == content


def test_copy_of_an_indexed_dataset_has_shards_of_its_own(source: Path, tmp_path: Path) -> None:
    index_tars(
        IndexOptions(shards=(f"{source}/train-*.tar",), dest=str(tmp_path / "own"), workers=1)
    )
    copied(tmp_path / "own", tmp_path / "copy")
    copy, own = files_of(tmp_path / "copy"), manifest_of(tmp_path / "own")
    assert copy.keys() == {"manifest.json", *NAMES[:3], *(f"{name}.idx" for name in NAMES[:3])}
    assert all(copy[name] == (source / name).read_bytes() for name in NAMES[:3])
    its = load_manifest(Folder(str(tmp_path / "copy")))
    assert its.fingerprint == own["fingerprint"]
    assert [entry.url for entry in its.splits["train"].shards] == [None] * 3
    again = copied(tmp_path / "own", tmp_path / "copy", on_existing="resume")
    assert again.num_kept_shards == 3


def test_memory_does_not_grow_with_a_shard(tmp_path: Path) -> None:
    big = stored(tmp_path / "big", {"train": [4]}, padding=8 << 20)
    tracemalloc.start()
    try:
        copied(big, tmp_path / "copy")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "copy/train-000000.tar").stat().st_size > 32 << 20
    assert peak < 8 << 20
