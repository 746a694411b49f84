"""Foreign destinations and unusable options are refused; messages are compared in full."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from shard_tool import ConvertOptions
from shard_tool.errors import ManifestError, ObjectExists, OptionError, ShardToolError
from shard_tool.storage.location import Folder
from tests.kit.datasets.converted import converted, files_of
from tests.kit.datasets.voc_tree import pictures, voc_tree, write


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return voc_tree(tmp_path / "in", [*pictures(3), *pictures(2, split="val", first=4)])


def test_destination_that_holds_something_is_left_alone(
    tree: Path, tmp_path: Path, mini_dataset: Path
) -> None:
    hint = "use --on-existing overwrite to replace it, or another DEST"
    to_index = "give another DEST, or make a dataset of them with `shard-tool index`"
    shutil.copytree(mini_dataset, tmp_path / "other")
    shutil.copytree(mini_dataset, tmp_path / "unfinished")
    (tmp_path / "unfinished/manifest.json").unlink()
    shards = len(list(mini_dataset.glob("*.tar")))
    write(tmp_path / "partial/.train-000000.tar.partial-abc", b"")
    write(tmp_path / "foreign/thesis.tex", b"")
    write(tmp_path / "foreign/sub/a.txt", b"")
    messages = {
        "other": f"already holds a dataset; {hint}",
        "unfinished": f"holds {shards} tars that nobody recorded here, and no dataset; {to_index}",
        "foreign": "is not empty ('sub' is there) and holds no dataset; "
        "give an empty or a new folder",
        "partial": "holds what a killed conversion was writing; "
        "use --on-existing overwrite to start again",
    }
    for name, problem in messages.items():
        before = sorted((tmp_path / name).rglob("*"))
        with pytest.raises(ObjectExists) as caught:
            converted(tree, tmp_path / name)
        assert str(caught.value) == f"{tmp_path}/{name}: {problem}"
        assert sorted((tmp_path / name).rglob("*")) == before
    assert files_of(tmp_path / "other") == files_of(mini_dataset)


def test_overwriting_keeps_tars_without_a_record(tree: Path, tmp_path: Path) -> None:
    """A folder of foreign WebDataset tars with their usual names."""
    write(tmp_path / "out/train-000000.tar", b"mine")
    write(tmp_path / "out/train-000007.tar", b"mine")
    for on_existing in ("fail", "resume", "overwrite"):
        with pytest.raises(ObjectExists, match=r"nobody recorded .*; give another DEST"):
            converted(tree, tmp_path / "out", on_existing=on_existing)
    assert files_of(tmp_path / "out") == {
        "train-000000.tar": b"mine",
        "train-000007.tar": b"mine",
    }


def test_empty_names_are_refused(tree: Path, tmp_path: Path) -> None:
    """An unset shell variable must not mean the current folder."""
    for options, message in (
        ({"source": "", "dest": "x"}, "SOURCE: is empty"),
        ({"source": [], "dest": "x"}, "SOURCE: none is given"),
        ({"source": str(tree), "dest": ""}, "DEST: is empty"),
    ):
        with pytest.raises(OptionError) as caught:
            ConvertOptions(**options)
        assert str(caught.value) == message


def test_overwriting_leaves_foreign_files_alone(tree: Path, tmp_path: Path) -> None:
    converted(tree, tmp_path / "out", splits=("train", "val"))
    for name in ("notes.txt", "train-1.tar", "my.tar", "bad_records.jsonl.bak"):
        write(tmp_path / "out" / name, b"mine")
    converted(tree, tmp_path / "out", splits=("val",), on_existing="overwrite")
    assert set(files_of(tmp_path / "out")) == {
        *("manifest.json", "val-000000.tar", "val-000000.tar.idx"),
        *("notes.txt", "train-1.tar", "my.tar", "bad_records.jsonl.bak"),
    }


@pytest.mark.parametrize("on_existing", ["fail", "overwrite"])
@pytest.mark.parametrize("below", ["", "/voc"])
def test_destination_that_cannot_be_a_folder_is_refused(
    tree: Path, tmp_path: Path, on_existing: str, below: str
) -> None:
    write(tmp_path / "file", b"mine")
    with pytest.raises(ShardToolError) as caught:
        converted(tree, Path(f"{tmp_path}/file{below}"), on_existing=on_existing)
    assert str(caught.value).startswith(f"{tmp_path}/file{below}")
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task": "pose"},
            "--task: 'pose' is not one of detection, segmentation, classification, layout, action",
        ),
        ({"on_existing": "ask"}, "--on-existing: 'ask' is not one of fail, resume, overwrite"),
        ({"on_bad_record": "ask"}, "--on-bad-record: 'ask' is not one of fail, skip"),
        ({"workers": 0}, "--workers: 0 is below 1"),
        ({"shard_bytes": 0}, "--shard-size: 0 bytes are below 1"),
        ({"splits": ("../x",)}, "--split: '../x' cannot name a list and its shards"),
        ({"splits": ("",)}, "--split: '' cannot name a list and its shards"),
    ],
)
def test_unusable_option_is_refused(
    tree: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        converted(tree, tmp_path / "out", **options)
    assert str(caught.value) == message


def test_split_given_twice_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        converted(tree, tmp_path / "out", splits=("train", "train"))
    assert str(caught.value) == "--split: 'train' is given twice"


def test_overwriting_deletes_only_what_the_old_manifest_names(tree: Path, tmp_path: Path) -> None:
    """Foreign shards may have names like ours."""
    converted(tree, tmp_path / "out", splits=("train",))
    write(tmp_path / "out/imagenet-000000.tar", b"mine")
    write(tmp_path / "out/train-000007.tar", b"mine")
    write(tmp_path / "out/my.partial-notes.txt", b"mine")
    write(tmp_path / "out/.train-000000.tar.partial-x1", b"left over")
    converted(tree, tmp_path / "out", splits=("val",), on_existing="overwrite")
    assert set(files_of(tmp_path / "out")) == {
        *("manifest.json", "val-000000.tar", "val-000000.tar.idx"),
        *("imagenet-000000.tar", "train-000007.tar", "my.partial-notes.txt"),
    }


def test_a_manifest_nobody_can_read_is_not_overwritten(tree: Path, tmp_path: Path) -> None:
    write(tmp_path / "out/manifest.json", b'{"format": "voc-shards", "version": 99}')
    write(tmp_path / "out/train-000000.tar", b"mine")
    before = files_of(tmp_path / "out")
    with pytest.raises(ManifestError, match="version 99 is unknown"):
        converted(tree, tmp_path / "out", on_existing="overwrite")
    assert files_of(tmp_path / "out") == before


def test_memory_of_one_process_holds_the_whole_dataset(tree: Path) -> None:
    """Each worker process would write into its own memory."""
    converted(tree, "memory://of-one-process", workers=2)  # type: ignore[arg-type]
    folder = Folder("memory://of-one-process")
    assert {"manifest.json", "train-000000.tar", "train-000000.tar.idx"} <= set(folder.names())


def test_relative_destination_means_the_folder_it_meant_at_the_start(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        converted(tree, Path("out"))
        assert (tmp_path / name / "out/manifest.json").exists()
