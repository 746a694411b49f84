"""Indexed tars keep every promise: one order, each sample once, resumed anywhere, verified."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from datamodules import ShardDataset, ShardLoader, World
from datamodules.presets import detection_train
from shard_tool.errors import ObjectMissing, ShardError
from tests.kit.datasets.foreign_tars import (
    adopted,
    read_by_webdataset,
    records_of,
    shards_of_others,
)
from tests.kit.datasets.generic_samples import TOTAL, data, keys, plain
from tests.kit.models.recorder import digest
from tests.kit.simulate import assert_resumes_everywhere

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = [
    pytest.mark.usefixtures("small_chunks"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # 2 cores
]


@pytest.mark.parametrize("options", [{}, {"check_crc": True}, {"decode": False}])
def test_promise_3_samples_are_those_webdataset_reads_from_the_same_tars(
    indexed_root: Path, foreign_shards: list[Path], options: dict[str, Any]
) -> None:
    found = list(data(indexed_root, shuffle=False, **options))
    assert plain(found) == read_by_webdataset(foreign_shards)
    assert {sample["__url__"] for sample in found} == {str(path) for path in foreign_shards}
    assert all(
        type(content) is bytes for _, members in plain(found) for content in members.values()
    )
    assert len(data(indexed_root)) == data(indexed_root).num_samples == TOTAL


def test_a_sample_is_read_by_its_id(indexed_root: Path, foreign_shards: list[Path]) -> None:
    expected = read_by_webdataset(foreign_shards)
    found = data(indexed_root)
    assert plain([found.read(sample_id) for sample_id in range(TOTAL)]) == expected


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_promise_5_workers_change_neither_order_nor_samples(
    indexed_root: Path, num_workers: int
) -> None:
    expected = [list(ShardLoader(data(indexed_root), batch_size=3)) for _ in range(1)]
    assert sorted(keys(expected[0])) == sorted(
        key for key, _ in plain(data(indexed_root, decode=False))
    )
    loader = ShardLoader(
        data(indexed_root),
        batch_size=3,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    first, second = list(loader), list(loader)
    assert first == expected[0]
    assert sorted(keys(second)) == sorted(keys(first))
    assert keys(second) != keys(first)
    assert len(first) == len(loader)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_promise_6_resume_after_every_batch_gives_the_same_tail(
    indexed_root: Path, num_workers: int
) -> None:
    def make() -> ShardLoader:
        return ShardLoader(data(indexed_root), batch_size=4, num_workers=num_workers)

    def elsewhere() -> ShardLoader:
        return ShardLoader(data(indexed_root), batch_size=3)

    assert_resumes_everywhere(make)
    assert_resumes_everywhere(make, elsewhere=elsewhere, parts=lambda batch: batch)


@pytest.mark.parametrize("num_nodes", [1, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_promise_4_ranks_take_equal_steps_and_every_sample_once(
    indexed_root: Path, num_nodes: int, drop_last: bool
) -> None:
    batches = []
    for rank in range(2):
        world = World(rank=rank, world_size=2, node=rank * (num_nodes - 1), num_nodes=num_nodes)
        loader = ShardLoader(data(indexed_root, world=world), batch_size=3, drop_last=drop_last)
        batches.append(list(loader))
    assert len(batches[0]) == len(batches[1])
    both = keys(batches[0]) + keys(batches[1])
    assert len(both) == len(set(both)) == (TOTAL // 6 * 6 if drop_last else TOTAL)


def test_an_evaluation_loader_counts_every_sample_once(
    indexed_root: Path, foreign_shards: list[Path]
) -> None:
    loader = ShardLoader(data(indexed_root, shuffle=False), batch_size=5, num_workers=2)
    for _ in range(2):
        assert plain(s for batch in loader for s in batch) == read_by_webdataset(foreign_shards)


def test_a_moved_dataset_finds_its_tars(foreign_shards: list[Path], tmp_path: Path) -> None:
    shutil.copytree(foreign_shards[0].parent, tmp_path / "a/shards")
    adopted([tmp_path / "a/shards/*.tar"], tmp_path / "a/out")
    before = plain(data(tmp_path / "a/out"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert plain(data(tmp_path / "b/out")) == before
    (tmp_path / "link").symlink_to(tmp_path / "b/out")
    assert plain(data(tmp_path / "link")) == before


def test_two_indexed_roots_form_one_order(indexed_root: Path, tmp_path: Path) -> None:
    adopted(shards_of_others(tmp_path / "more", [5]), tmp_path / "more")
    found = ShardDataset([str(indexed_root), str(tmp_path / "more")], shuffle=False)
    assert len(plain(found)) == TOTAL + 5
    assert plain(found)[TOTAL:] == [(k, dict(m)) for k, m in records_of("000", 5).items()]


def test_a_changed_or_missing_tar_is_an_error(foreign_shards: list[Path], tmp_path: Path) -> None:
    shutil.copytree(foreign_shards[0].parent, tmp_path / "shards")
    adopted([tmp_path / "shards/*.tar"], tmp_path / "out")
    tar = tmp_path / "shards/part-002.tar"
    content = bytearray(tar.read_bytes())
    content[content.index(b"002 3")] ^= 1
    tar.write_bytes(content)
    with pytest.raises(ShardError, match=r"part-002\.tar: sample 3: its bytes do not have the CRC"):
        list(data(tmp_path / "out", check_crc=True))
    tar.write_bytes(bytes(content) + bytes(512))
    with pytest.raises(ShardError, match=r"part-002\.tar: \d+ bytes, the manifest says \d+"):
        list(data(tmp_path / "out"))
    tar.unlink()
    with pytest.raises(ObjectMissing, match=r"part-002\.tar: the shard is missing"):
        list(data(tmp_path / "out"))


def test_a_missing_index_is_rebuilt_and_a_wrong_one_refused(
    indexed_root: Path, foreign_shards: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(foreign_shards[0].parent, tmp_path / "shards")
    shutil.copytree(indexed_root, tmp_path / "out")
    index = tmp_path / "out/train-000002.tar.idx"
    content = index.read_bytes()
    index.unlink()
    assert plain(data(tmp_path / "out")) == plain(data(indexed_root))
    index.write_bytes(content[:-1] + b"\0")
    with pytest.raises(ShardError, match=r"train-000002\.tar\.idx: is not the index the manifest"):
        list(data(tmp_path / "out"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_indexed_shards_of_a_task_stream_like_their_dataset(
    mini_dataset: Path, tmp_path: Path, num_workers: int
) -> None:
    adopted([mini_dataset / "train-*.tar"], tmp_path / "out", task="detection")

    def digests(indexed_root: Path) -> list[str]:
        found = data(indexed_root, transform=detection_train(64), window=8)
        return [digest(b) for b in ShardLoader(found, 8, num_workers=num_workers)]

    assert digests(tmp_path / "out") == digests(mini_dataset)


def test_the_loader_reports_the_cost_of_each_batch(indexed_root: Path) -> None:
    loader = ShardLoader(data(indexed_root), batch_size=3, num_workers=1)
    costs = [loader.last_cost for _ in loader]
    assert all(cost.disk_bytes > 0 for cost in costs)
    assert sum(cost.read_through_bytes + cost.cache_bytes for cost in costs) == 0
