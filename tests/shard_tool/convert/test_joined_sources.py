"""Sources of several kinds in one dataset: each keeps its own meaning, and nothing is lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from shard_tool import ConvertOptions, convert
from shard_tool.errors import ObjectExists
from shard_tool.sources.report import LEFT_OUT
from tests.kit.datasets.converted import converted, manifest_of, samples_of
from tests.kit.datasets.voc_tools import labelimg
from tests.kit.datasets.voc_tree import CAT, Picture, jpeg, voc_tree, write

if TYPE_CHECKING:
    from pathlib import Path


def own(root: Path, *names: str, shade: int = 50) -> Path:
    for number, name in enumerate(names):
        write(root / f"own{number}.jpg", jpeg((20, 10), shade + number))
        content = labelimg(f"own{number}.jpg", (20, 10), [(name, (2, 3, 9, 8))])
        write(root / f"own{number}.xml", content)
    return root


def joined(dest: Path, *sources: Path) -> None:
    names = [str(source) for source in sources]
    convert(ConvertOptions(source=names, dest=str(dest), workers=1))


def boxes(dest: Path, key: str) -> list[list[float]]:
    document = json.loads(samples_of(dest, "train")[key]["json"])
    return [item["bbox"] for item in document["objects"]]


def test_voc_boxes_count_from_1_also_beside_own_data(tmp_path: Path) -> None:
    voc = voc_tree(tmp_path / "in", [Picture(key="000001", objects=(CAT,))])
    mine = own(tmp_path / "own", "fox", "badger", "wolf")
    joined(tmp_path / "out", voc, mine)
    assert boxes(tmp_path / "out", "000001") == [[0, 1, 3, 4]]
    assert boxes(tmp_path / "out", "own0") == [[2, 3, 9, 8]]
    assert manifest_of(tmp_path / "out")["options"]["boxes"] == "devkit and corners"


def test_objects_that_go_with_a_duplicate_picture_are_counted(tmp_path: Path) -> None:
    first = own(tmp_path / "a", "fox")
    second = tmp_path / "b"
    write(second / "other.jpg", (first / "own0.jpg").read_bytes())
    content = labelimg("other.jpg", (20, 10), [("wolf", (1, 1, 5, 5))])
    write(second / "other.xml", content)
    joined(tmp_path / "out", first, second)
    report = manifest_of(tmp_path / "out")["report"]
    assert report == {"duplicate-objects-lost": {"count": 1, "examples": ["other.jpg"]}}
    assert "duplicate-objects-lost" in LEFT_OUT


@pytest.mark.parametrize("changed", ["own0.xml", "own1.jpg"])
def test_finished_dataset_of_a_folder_that_changed_is_not_kept(
    tmp_path: Path, changed: str
) -> None:
    source = own(tmp_path / "own", "fox", "badger", "badger", "fox")
    converted(source, tmp_path / "out")
    kept = converted(source, tmp_path / "out", on_existing="resume")
    assert kept.num_kept_shards == 1
    other = own(tmp_path / "else", "badger", "fox", shade=60) / changed
    (source / changed).write_bytes(other.read_bytes())
    with pytest.raises(ObjectExists, match="made of other content"):
        converted(source, tmp_path / "out", on_existing="resume")


def test_finished_dataset_of_another_list_is_not_kept(tmp_path: Path) -> None:
    source, listed = own(tmp_path / "own", "fox", "badger"), tmp_path / "list.txt"
    listed.write_text("own0\n")
    options = {"split_files": {"train": str(listed)}, "on_existing": "resume"}
    converted(source, tmp_path / "out", **options)
    assert converted(source, tmp_path / "out", **options).num_kept_shards == 1
    listed.write_text("own1\n")
    with pytest.raises(ObjectExists, match="split-files"):
        converted(source, tmp_path / "out", **options)
