"""`index --task` checks that samples fit their task and takes classes from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from shard_tool.dataset.verify import verify
from shard_tool.errors import DataError, ShardError
from shard_tool.format.tar import padded
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.foreign_tars import adopted, by_webdataset, read_by_webdataset
from tests.kit.datasets.tars import END, members_of

if TYPE_CHECKING:
    from pathlib import Path


def test_samples_as_convert_writes_them_become_a_dataset_of_their_task(
    mini_masks: Path, tmp_path: Path
) -> None:
    original = load_manifest(Folder(str(mini_masks)))
    for split in original.splits:
        dest = tmp_path / split
        report = adopted([mini_masks / f"{split}-*.tar"], dest, split=split, task="segmentation")
        found, expected = report.manifest.splits[split], original.splits[split]
        assert (found.objects, found.difficult) == (expected.objects, expected.difficult)
        assert found.counts == {}
        assert report.manifest.classes == original.classes
        assert (tmp_path / split / f"{split}-000000.tar.idx").read_bytes() == (
            mini_masks / f"{split}-000000.tar.idx"
        ).read_bytes()
        for decode in (False, True):
            assert verify(Folder(str(dest)), decode=decode, workers=1).problems == ()


def test_samples_that_do_not_fit_their_task_are_named(mini_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"has no class\.png member, which segmentation needs"):
        adopted([mini_dataset / "train-000000.tar"], tmp_path / "a", task="segmentation")
    records = {"a": {"jpg": b"", "json": b'{"key": "a"}'}, "b": {"jpg": b""}, "c": {"json": b"["}}
    shard = by_webdataset(tmp_path / "bad.tar", records)
    with pytest.raises(ShardError) as caught:
        adopted([shard], tmp_path / "b", task="detection")
    place = f"{shard}: sample"
    problems = str(caught.value).splitlines()[1:]
    assert problems[0].startswith(f"{place} 'a'.json: field ")
    assert problems[1] == f"{place} 'b': has no json member, which detection needs"
    assert problems[2].startswith(f"{place} 'c': has no jpg member, which detection needs")


def test_other_members_and_keys_repeated_in_other_shards_are_accepted(
    mini_dataset: Path, tmp_path: Path
) -> None:
    samples = {
        key: members | {"txt": b"a cat", "thumb.png": b"no PNG"}
        for key, members in read_by_webdataset([mini_dataset / "train-000000.tar"])
    }
    shards = [by_webdataset(tmp_path / f"{name}.tar", samples) for name in "ab"]
    twice = by_webdataset(tmp_path / "twice.tar", dict(list(samples.items())[:2]))
    content = twice.read_bytes()
    end = members_of(content)[-1]
    run = content[: end.offset + padded(end.size)]
    twice.write_bytes(run + run + END)
    report = adopted([*shards, twice], tmp_path / "out", task="detection")
    assert report.manifest.num_samples == 2 * len(samples) + 4
    for decode in (False, True):
        assert verify(Folder(str(tmp_path / "out")), decode=decode, workers=1).problems == ()


def relabelled(content: bytes, names: dict[str, tuple[str, int]]) -> bytes:
    document = json.loads(content)
    for item in document["objects"]:
        item["name"], item["label"] = names.get(item["name"], (item["name"], item["label"]))
    return json.dumps(document).encode()


def test_other_classes_than_vocs_are_taken_from_the_samples_and_must_agree(
    mini_dataset: Path, tmp_path: Path
) -> None:
    samples = dict(read_by_webdataset([mini_dataset / "train-000000.tar"]))
    names = sorted({o["name"] for s in samples.values() for o in json.loads(s["json"])["objects"]})

    def shard(name: str, labels: dict[str, tuple[str, int]]) -> Path:
        changed = {k: {**s, "json": relabelled(s["json"], labels)} for k, s in samples.items()}
        return by_webdataset(tmp_path / f"{name}.tar", changed)

    good = shard("good", {name: (f"my {name}", 7 - i) for i, name in enumerate(names)})
    report = adopted([good], tmp_path / "out", task="detection")
    expected = {f"my {name}": 7 - i for i, name in enumerate(names)}
    assert report.manifest.classes == expected
    assert list(report.manifest.classes.values()) == sorted(expected.values())
    other = shard("other", {name: (f"my {name}", 50 + i) for i, name in enumerate(names)})
    with pytest.raises(
        DataError, match=r"class 'my \w+' has label \d in one shard, \d+ in another"
    ):
        adopted([good, other], tmp_path / "out2", task="detection")
    if len(names) > 1:
        same = shard("same", {name: (f"my {name}", 3) for name in names})
        with pytest.raises(DataError, match="both have label 3"):
            adopted([same], tmp_path / "out3", task="detection")
