"""`VOCDataModule.prepare_data`: which nodes make the dataset, and when nothing is made."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from datamodules import ShardDataset, VOCDataModule
from shard_tool.convert import make
from shard_tool.dataset.verify import verify
from shard_tool.errors import ObjectExists, ObjectMissing, OptionError
from shard_tool.sources.voc import download, official
from shard_tool.storage.location import Folder
from tests.kit.processes.killed import killed_conversion
from tests.kit.servers.http_server import serve
from tests.kit.servers.s3 import objects, upload

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.servers.s3 import S3


def data_module(root: Path, **options: Any) -> VOCDataModule:
    return VOCDataModule(str(root), **{"batch_size": 5, "image_size": 32, "seed": 2, **options})


@pytest.mark.slow
def test_prepare_data_converts_what_is_missing_once(
    mini_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_module(tmp_path / "new", source=str(mini_archive))
    data.prepare_data()
    assert data.num_classes == 21
    before = (tmp_path / "new/manifest.json").stat().st_mtime_ns
    data.prepare_data()
    assert (tmp_path / "new/manifest.json").stat().st_mtime_ns == before
    assert len(next(iter(data.val_dataloader()))) == 5


def test_prepare_data_downloads_and_converts_the_official_archive(
    mini_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = mini_archive.read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    archive = official.Archive(year="2012", set_="trainval", file="VOCtrainval.tar", md5=md5)
    monkeypatch.setattr(official, "ARCHIVES", (archive,))
    with serve(content) as server:
        monkeypatch.setattr(download, "OFFICIAL_HOSTS", (f"{server.url}/",))
        data_module(tmp_path / "voc", download=True).prepare_data()
        data_module(tmp_path / "voc", download=True).prepare_data()
    assert len(server.paths) == 1
    assert (tmp_path / "voc.archives/VOCtrainval.tar").read_bytes() == content
    assert len(ShardDataset(str(tmp_path / "voc"), "trainval")) > 0


def test_for_masks_of_objects_vocs_archive_is_made_for_segmentation_and_a_source_is_not_guessed(
    mini_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows where the outlines of a source are before it is read."""
    data = data_module(tmp_path / "no", source=str(mini_archive), task="instances")
    with pytest.raises(OptionError) as caught:
        data.prepare_data()
    problem = "task 'instances': says nothing of where the outlines of objects are in the source"
    assert str(caught.value).startswith(f"{problem}; convert it first: --task segmentation for")
    assert not (tmp_path / "no").exists()
    made = []
    monkeypatch.setattr(make, "make_dataset", lambda _, **options: made.append(options["task"]))
    data_module(tmp_path / "voc", download=True, task="instances").prepare_data()
    assert made == ["segmentation"]


def test_prepare_data_deletes_nothing(mini_archive: Path, tmp_path: Path) -> None:
    """Shards without a manifest may be somebody's own WebDataset."""
    (tmp_path / "train-000000.tar").write_bytes(b"mine")
    data = data_module(tmp_path, source=str(mini_archive))
    with pytest.raises(ObjectExists, match="holds 1 tars that nobody recorded here"):
        data.prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == ["train-000000.tar"]


def test_prepare_data_continues_a_conversion_that_was_killed(
    mini_archive: Path, tmp_path: Path
) -> None:
    options = {"source": str(mini_archive), "dest": str(tmp_path / "voc")}
    assert killed_conversion(options, call_number=6, when="after")
    record = next((tmp_path / "voc/.conversion").glob("*.tar.json"))
    inode = (tmp_path / "voc" / record.stem).stat().st_ino
    data_module(tmp_path / "voc", source=str(mini_archive)).prepare_data()
    assert (tmp_path / "voc" / record.stem).stat().st_ino == inode
    assert len(ShardDataset(str(tmp_path / "voc"), "train")) > 0


def test_prepare_data_without_dataset_or_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing, match=r"no dataset here.*shard-tool convert SOURCE DEST"):
        data_module(tmp_path / "none").prepare_data()


@pytest.mark.slow
def test_nodes_that_share_a_folder_make_one_dataset(mini_archive: Path, tmp_path: Path) -> None:
    modules = [VOCDataModule(str(tmp_path / "voc"), source=str(mini_archive)) for _ in range(2)]
    with ThreadPoolExecutor() as nodes:
        list(nodes.map(VOCDataModule.prepare_data, modules))
    assert not verify(Folder(str(tmp_path / "voc"))).problems


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


@pytest.mark.slow
def test_prepare_data_of_a_dataset_in_a_bucket_writes_nothing(
    mini_dataset: Path, s3: S3, bucket: str
) -> None:
    upload(mini_dataset, s3, f"{bucket}/voc")
    before = objects(s3, bucket)
    options: dict[str, Any] = {"storage_options": s3.storage_options, "source": "no such archive"}
    VOCDataModule(f"{bucket}/voc", **options).prepare_data()
    assert objects(s3, bucket) == before
