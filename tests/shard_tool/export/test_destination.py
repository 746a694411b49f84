"""OUT appears whole or not at all, and nothing of anybody is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shard_tool.errors import ObjectExists, StoreError
from shard_tool.export.destination import MARK
from shard_tool.export.run import ExportOptions, export_dataset
from tests.kit.datasets.converted import files_of
from tests.kit.datasets.exports import dataset_of, exported, sample_of, thing

SPLITS = {"train": [sample_of("a", thing()), sample_of("b")], "val": [sample_of("c", thing())]}


@pytest.mark.parametrize("format_", ["coco", "yolo", "voc"])
def test_an_interrupted_export_leaves_nothing(tmp_path: Path, format_: str) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    options = ExportOptions(
        dest=str(dataset), out=str(tmp_path / "deep/out"), format=format_, pictures=True
    )

    def interrupt(done: int, total: int, split: str) -> None:
        assert (total, split) == (3, "train")
        assert any((tmp_path / "deep").iterdir())
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_dataset(options, on_progress=interrupt)
    assert files_of(tmp_path / "deep") == {}


def test_an_empty_folder_is_taken_and_a_full_one_is_not(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    (tmp_path / "out").mkdir()
    exported(dataset, tmp_path / "out", "coco")
    exported(dataset, tmp_path / "new", "coco")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.jpg").touch()
    (tmp_path / "file").touch()
    for on_existing in ("fail", "overwrite"):
        for name, problem in (
            ("mine", r"is not empty \('photo.jpg' is there\) and holds no export; give an empty"),
            ("file", "is a file; give an empty or a new folder"),
        ):
            with pytest.raises(ObjectExists, match=problem):
                exported(dataset, tmp_path / name, "coco", on_existing=on_existing)
    with pytest.raises(ObjectExists, match="holds an export; add --on-existing overwrite to repla"):
        exported(dataset, tmp_path / "out", "coco")
    assert (tmp_path / "mine/photo.jpg").exists()


def test_an_empty_folder_stays_the_one_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell may stand in it, or a disk be mounted there."""
    dataset = dataset_of(tmp_path / "set", SPLITS)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    inode = (tmp_path / "out").stat().st_ino
    exported(dataset, Path(), "yolo")
    assert (tmp_path / "out").stat().st_ino == inode
    assert (tmp_path / "out/data.yaml").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    (tmp_path / "out").mkdir()

    def disturb(*_: Any) -> None:
        (tmp_path / "out/annotations").mkdir(exist_ok=True)

    options = ExportOptions(dest=str(dataset), out=str(tmp_path / "out"), format="coco")
    with pytest.raises(ObjectExists, match=r"is not empty \('annotations' is there\)"):
        export_dataset(options, on_progress=disturb)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["annotations"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    (tmp_path / "far").mkdir()
    (tmp_path / "out").symlink_to("far")
    for on_existing in ("fail", "overwrite"):
        exported(dataset, tmp_path / "out", "coco", on_existing=on_existing)
        assert (tmp_path / "out").readlink().name == "far"
        assert (tmp_path / "far/annotations/instances_train.json").is_file()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "out", "set"]


def test_an_earlier_export_is_replaced_on_request(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    exported(dataset, tmp_path / "out", "coco")
    exported(dataset, tmp_path / "out", "yolo", on_existing="overwrite")
    exported(dataset, tmp_path / "fresh", "yolo", on_existing="overwrite")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")
    assert {path.name for path in tmp_path.iterdir()} == {"set", "out", "fresh"}


def test_an_export_with_files_of_others_is_not_replaced(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    exported(dataset, tmp_path / "out", "coco")
    (tmp_path / "out/notes.txt").touch()
    with pytest.raises(ObjectExists, match=r"holds 'notes\.txt', which is not of the export t"):
        exported(dataset, tmp_path / "out", "coco", on_existing="overwrite")
    (tmp_path / "out/notes.txt").unlink()
    for mark in ("", "{}", json.dumps({"files": [3]})):  # somebody wrote into it
        (tmp_path / "out" / MARK).write_text(mark)
        with pytest.raises(ObjectExists, match="which is not of the export that is there"):
            exported(dataset, tmp_path / "out", "coco", on_existing="overwrite")


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    options = ExportOptions(dest=str(dataset), out=str(tmp_path / "out"), format="coco")

    def appear(*_: Any) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out/photo.jpg").write_text("mine")

    with pytest.raises(ObjectExists, match="is not empty"):
        export_dataset(options, on_progress=appear)
    assert files_of(tmp_path / "out") == {"photo.jpg": b"mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"set", "out"}


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "set", SPLITS)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written: (Not a directory|File exists)"):
        exported(dataset, tmp_path / "file/out", "coco")
