"""A copy overwrites only a dataset that may go: never its source, never tars of others."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from shard_tool.dataset.index import IndexOptions, index_tars
from shard_tool.dataset.verify import verify
from shard_tool.errors import ObjectExists, OptionError, ShardToolError, StoreError
from shard_tool.storage.location import Folder
from tests.kit.datasets.converted import files_of
from tests.kit.datasets.copies import NAMES, copied
from tests.kit.datasets.voc_tree import write
from tests.kit.servers.s3 import S3, objects, upload
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path


def test_copy_refuses_to_replace_a_dataset_by_default(
    source: Path, other: Path, tmp_path: Path
) -> None:
    copied(source, tmp_path / "copy")
    with pytest.raises(ObjectExists, match="already holds a dataset"):
        copied(other, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == files_of(source)


@pytest.mark.slow
def test_overwriting_removes_the_old_dataset_and_keeps_other_files(
    source: Path, other: Path, tmp_path: Path, s3: S3, bucket: str
) -> None:
    copied(source, tmp_path / "copy")
    write(tmp_path / "copy/notes.txt", b"mine")
    copied(other, tmp_path / "copy", on_existing="overwrite")
    assert files_of(tmp_path / "copy") == files_of(other) | {"notes.txt": b"mine"}
    options = s3.storage_options
    copied(source, f"{bucket}/copy", storage_options=options)
    copied(other, f"{bucket}/copy", storage_options=options, on_existing="overwrite")
    assert objects(s3, f"{bucket}/copy") == files_of(other)


def test_overwriting_never_replaces_tars_that_are_only_indexed(
    source: Path, tmp_path: Path
) -> None:
    for name in NAMES[:2]:
        write(tmp_path / "tars" / name, (source / name).read_bytes())
    index_tars(IndexOptions(shards=(f"{tmp_path}/tars/*",), dest=str(tmp_path / "tars"), workers=1))
    before = files_of(tmp_path / "tars")
    with pytest.raises(ObjectExists) as caught:
        copied(source, tmp_path / "tars", on_existing="overwrite")
    assert str(caught.value) == (
        f"{tmp_path}/tars: 'train-000000.tar' is there, and is not the dataset's; give another DEST"
    )
    assert files_of(tmp_path / "tars") == before


@pytest.mark.slow
def test_unreachable_scheduler_leaves_the_old_dataset_alone(
    source: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(source, tmp_path / "copy")
    monkeypatch.setattr("shard_tool.tasks.dask_cluster._CONNECT_S", 0.3)
    with pytest.raises(ShardToolError, match="no Dask scheduler answered"):
        copied(other, tmp_path / "copy", on_existing="overwrite", engine="tcp://127.0.0.1:9")
    assert files_of(tmp_path / "copy") == files_of(source)


def test_memory_filesystem_is_refused_with_workers_elsewhere(source: Path) -> None:
    engine = "tcp://127.0.0.1:9"
    with pytest.raises(OptionError) as caught:
        copied(source, "memory://copy", engine=engine)
    problem = f"workers of {engine} cannot write into this process's memory"
    assert str(caught.value) == f"memory://copy: {problem}; choose another DEST"


def test_disk_that_is_too_small_is_refused_before_the_start(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StoreError) as caught:
        copied(source, tmp_path / "copy")
    needed = sum(len(content) for name, content in files_of(source).items() if ".tar" in name)
    assert str(caught.value) == (
        f"{tmp_path}/copy: 1000 bytes free, the dataset needs about {needed} more; "
        "free some space or choose another DEST"
    )
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("on_existing", ["fail", "resume", "overwrite"])
def test_source_under_another_spelling_is_refused_as_destination(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_existing: str
) -> None:
    (tmp_path / "link").symlink_to(mine)
    monkeypatch.chdir(tmp_path)
    before = files_of(mine)
    spellings = [mine, f"{mine}/", "mine", f"file://{mine}", f"{mine}/../mine", tmp_path / "link"]
    for dest in spellings:
        with pytest.raises(OptionError) as caught:
            copied(mine, dest, on_existing=on_existing)
        assert "is the same folder as SRC" in str(caught.value)
    assert files_of(mine) == before


@pytest.mark.parametrize("on_existing", ["fail", "resume", "overwrite"])
def test_source_bucket_under_another_spelling_is_refused_as_destination(
    source: Path, s3: S3, bucket: str, on_existing: str
) -> None:
    upload(source, s3, f"{bucket}/voc")
    for dest in (f"{bucket}/voc", f"{bucket}/voc/", f"{bucket}/voc/".replace("s3://", "s3a://")):
        options = {"storage_options": s3.storage_options, "source_options": s3.storage_options}
        with pytest.raises(OptionError, match="the same folder as SRC"):
            copied(f"{bucket}/voc", dest, on_existing=on_existing, **options)
    assert objects(s3, f"{bucket}/voc") == files_of(source)


@pytest.mark.slow
def test_bucket_behind_another_address_is_not_overwritten_with_itself(
    source: Path, s3: S3, bucket: str, on_s3: dict[str, str]
) -> None:
    upload(source, s3, f"{bucket}/voc")
    options = {"storage_options": on_s3, "source_options": s3.storage_options}
    with pytest.raises(OptionError, match="the same folder as SRC"):
        copied(f"{bucket}/voc", f"{bucket}/voc", on_existing="overwrite", **options)
    assert objects(s3, f"{bucket}/voc") == files_of(source)


def test_folder_a_web_server_serves_is_not_overwritten_with_itself(mine: Path) -> None:
    before = files_of(mine)
    with web_server(mine) as url, pytest.raises(OptionError, match="the same folder as SRC"):
        copied(url, mine, on_existing="overwrite")
    assert files_of(mine) == before


def test_shards_that_the_source_names_or_links_to_are_not_overwritten(
    mine: Path, tmp_path: Path
) -> None:
    before = files_of(mine)
    index_tars(IndexOptions(shards=(f"{mine}/train-*.tar",), dest=str(tmp_path / "own"), workers=1))
    with pytest.raises(OptionError, match="where shards of SRC lie"):
        copied(tmp_path / "own", mine, on_existing="overwrite")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in mine.iterdir():
        (linked / path.name).symlink_to(path)
    with pytest.raises(OptionError, match=r"is where .*/linked/train-000000\.tar links to"):
        copied(linked, mine, on_existing="overwrite")
    assert files_of(mine) == before


def test_destination_inside_a_journal_is_refused(mine: Path, tmp_path: Path) -> None:
    before = files_of(mine)
    with pytest.raises(OptionError, match=r"lies in \.conversion"):
        copied(mine, mine / ".conversion/copy")
    assert files_of(mine) == before


def test_copy_beside_and_below_its_source_leaves_the_source_alone(mine: Path, source: Path) -> None:
    copied(mine, mine / "copy")
    assert files_of(mine / "copy") == files_of(source)
    assert verify(Folder(str(mine)), workers=1).problems == ()
