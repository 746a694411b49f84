"""`index` keeps every tar in DEST and replaces only what it or a conversion wrote."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.dataset.verify import verify
from shard_tool.errors import ObjectExists, OptionError, ShardError, ShardToolError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.converted import files_of
from tests.kit.datasets.foreign_tars import adopted, by_webdataset, entries_of, records_of
from tests.kit.servers.s3 import objects, upload
from tests.kit.servers.uploads import begin_upload, unfinished_uploads
from tests.kit.servers.web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.servers.s3 import S3


def test_tars_and_dataset_may_share_a_folder_and_overwriting_leaves_the_tars(
    shards: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    (folder / "README").write_text("ours")
    tars = files_of(folder)
    for patterns in (["part-*.tar"], ["part-000.tar"]):
        adopted([folder / p for p in patterns], folder, on_existing="overwrite")
        assert verify(Folder(str(folder)), workers=1).problems == ()
        assert tars.items() <= files_of(folder).items()
    assert sorted(files_of(folder).keys() - tars.keys()) == [
        "manifest.json",
        "train-000000.tar.idx",
    ]
    assert [entry.url for entry in entries_of(folder)] == ["part-000.tar"]
    with pytest.raises(ObjectExists, match="already holds a dataset"):
        adopted(shards, folder)


def test_tars_named_like_the_dataset_shards_are_never_removed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shards = [by_webdataset(folder / f"train-{i:06d}.tar", records_of(f"{i}", 3)) for i in range(3)]
    before = files_of(folder)
    for on_existing in ("fail", "overwrite", "resume"):
        adopted(shards, folder, on_existing=on_existing)
        assert before.items() <= files_of(folder).items()
    message = r"'train-000000\.tar' is there, and the index of 'train-000001\.tar' would be called"
    with pytest.raises(ObjectExists, match=message):
        adopted(shards[1:], folder, on_existing="overwrite")
    assert before.items() <= files_of(folder).items()
    assert verify(Folder(str(folder)), workers=1).problems == ()


def test_a_converted_dataset_can_be_indexed_where_it_lies(
    mini_dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "voc"
    shutil.copytree(mini_dataset, folder)
    tars = {name: content for name, content in files_of(folder).items() if name.endswith(".tar")}
    (folder / "bad_records.jsonl").write_text("{}\n")
    for pattern in ("train-*.tar", "train-000000.tar"):
        adopted([folder / pattern], folder, on_existing="overwrite")
        assert tars.items() <= files_of(folder).items()
        assert verify(Folder(str(folder)), workers=1).problems == ()
    assert sorted(files_of(folder).keys() - tars.keys()) == [
        "manifest.json",
        "train-000000.tar.idx",
    ]


def test_tars_indexed_under_another_name_are_not_removed(
    mini_dataset: Path, tmp_path: Path
) -> None:
    """A link, a chain of links and a web URL all lead to tars of the old dataset."""
    folder = tmp_path / "voc"
    shutil.copytree(mini_dataset, folder)
    (folder / "val-000000.tar").rename(tmp_path / "real.tar")
    (folder / "val-000000.tar").symlink_to(tmp_path / "real.tar")
    before = {n: content for n, content in files_of(folder).items() if n.endswith(".tar")}
    names = tmp_path / "names"
    names.mkdir()
    (names / "direct.tar").symlink_to(folder / "train-000000.tar")
    (names / "chain.tar").symlink_to(folder / "val-000000.tar")
    with web_server(folder) as web:
        for shard in (names / "direct.tar", names / "chain.tar", f"{web}/train-000000.tar"):
            adopted([shard], folder, split="other", on_existing="overwrite")
            assert before.items() <= files_of(folder).items()
            assert verify(Folder(str(folder)), workers=1).problems == ()
            shutil.copytree(mini_dataset, folder, dirs_exist_ok=True)  # as it was


def test_overwriting_replaces_a_converted_dataset_when_the_tars_lie_elsewhere(
    mini_dataset: Path, shards: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(mini_dataset, tmp_path / "voc")
    adopted(shards, tmp_path / "voc", on_existing="overwrite")
    adopted(shards, tmp_path / "undisturbed")
    assert files_of(tmp_path / "voc") == files_of(tmp_path / "undisturbed")


def test_tars_stay_although_a_killed_run_planned_to_clear_them(
    mini_dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "voc"
    shutil.copytree(mini_dataset, folder)
    (folder / "manifest.json").unlink()
    (folder / ".conversion").mkdir()
    names = [path.name for path in folder.glob("*.tar*")]
    document = {"plan": {"made by": "convert"}, "clearing": names}
    (folder / ".conversion/plan.json").write_text(json.dumps(document))
    tars = {name: content for name, content in files_of(folder).items() if name.endswith(".tar")}
    adopted([folder / "train-*.tar"], folder, on_existing="overwrite")
    assert tars.items() <= files_of(folder).items()
    assert verify(Folder(str(folder)), workers=1).problems == ()


@pytest.mark.slow
def test_bucket_under_another_spelling_keeps_its_tars(
    mini_dataset: Path, s3: S3, bucket: str
) -> None:
    upload(mini_dataset, s3, f"{bucket}/voc")
    tars = {n: c for n, c in files_of(mini_dataset).items() if n.endswith(".tar")}
    options: dict[str, Any] = {"storage_options": s3.storage_options, "on_existing": "overwrite"}
    for protocol in ("s3a", "s3"):
        shard = f"{bucket}/voc/train-000000.tar".replace("s3://", f"{protocol}://")
        adopted([shard], f"{bucket}/voc", **options)
        assert tars.items() <= objects(s3, f"{bucket}/voc").items()
        dataset = Folder(f"{bucket}/voc", s3.storage_options)
        assert verify(dataset, workers=1).problems == ()
        (entry,) = load_manifest(dataset).splits["train"].shards
        assert entry.url == "train-000000.tar"


@pytest.mark.slow
def test_unfinished_upload_of_another_writer_tar_is_left_alone(
    mini_dataset: Path, s3: S3, bucket: str
) -> None:
    upload(mini_dataset, s3, f"{bucket}/voc")
    for name in ("train-000007.tar", "train-000007.tar.idx"):
        begin_upload(s3, f"{bucket}/voc/{name}")
    options: dict[str, Any] = {"storage_options": s3.storage_options, "on_existing": "overwrite"}
    adopted([f"{bucket}/voc/train-000000.tar"], f"{bucket}/voc", **options)
    left = [key for key, _ in unfinished_uploads(s3, f"{bucket}/voc")]
    assert left == ["voc/train-000007.tar"]


def test_old_dataset_stays_until_all_cheap_checks_have_passed(
    mini_dataset: Path, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(mini_dataset, tmp_path / "voc")
    before = files_of(tmp_path / "voc")
    missing = [shards[0].with_name(f"missing-{number}.tar") for number in range(2)]
    with pytest.raises(ShardError) as caught:
        adopted([*shards, *missing], tmp_path / "voc", on_existing="overwrite")
    lines = [f"{path}: there is no such object" for path in missing]
    text = f"{tmp_path / 'voc'}: 2 of 5 shards cannot be indexed:"
    assert str(caught.value).splitlines()[:2] == [text, lines[0]]
    assert str(caught.value).splitlines()[2].startswith(lines[1])
    assert files_of(tmp_path / "voc") == before
    monkeypatch.setattr("shard_tool.tasks.dask_cluster._CONNECT_S", 0.3)
    with pytest.raises(ShardToolError, match="no Dask scheduler answered"):
        adopted(shards, tmp_path / "voc", on_existing="overwrite", engine="tcp://127.0.0.1:9")
    assert files_of(tmp_path / "voc") == before


def test_memory_filesystem_is_refused_with_workers_elsewhere(
    shards: list[Path], tmp_path: Path
) -> None:
    engine = "tcp://127.0.0.1:9"
    problem = f"workers of {engine} cannot {{}} this process's memory"
    with pytest.raises(OptionError) as caught:
        adopted(shards, "memory://out", engine=engine)
    text = problem.format("write into")
    assert str(caught.value) == f"memory://out: {text}; choose another DEST"
    with pytest.raises(OptionError) as caught:
        adopted(["memory://in/a.tar"], tmp_path / "out", engine=engine)
    assert str(caught.value) == f"memory://in: {problem.format('read')}; choose other SHARDS"


def test_folder_with_other_files_is_refused(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    for on_existing in ("fail", "overwrite", "resume"):
        with pytest.raises(ObjectExists) as caught:
            adopted(shards, tmp_path / "out", on_existing=on_existing)
        problem = "is not empty ('notes.txt' is there) and holds no dataset"
        expected = f"{problem}; give an empty or a new folder"
        assert str(caught.value) == f"{tmp_path / 'out'}: {expected}"
    assert files_of(tmp_path / "out") == {"notes.txt": b"mine"}
