"""Two nodes that share a shard: each fetches what it reads of it, once.

Nodes are worlds of their own in this process, each with its own cache and its own way to a real S3
server, where requests and bytes are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from datamodules import ShardDataset, World
from datamodules.order.canonical import CanonicalOrder
from datamodules.order.node_shards import NodeShards, ShardSpan
from tests.kit.datasets.converted import manifest_of
from tests.kit.datasets.stored import (
    hashes_of,
    hashes_read,
    shard_ranges,
    sizes_of,
    starts_of,
    stored,
)
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.fault_proxy import fault_proxy
from tests.kit.servers.s3 import upload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kit.servers.fault_proxy import FaultProxy
    from tests.kit.servers.s3 import S3

LENGTHS = [12, 9, 17, 11, 14, 10]
"""73 samples; the boundary of two lanes is after 37."""
SEED = 26
"""Lays the shards so that node 1 reads 3 samples of a shard, and node 0 the other 14."""
WINDOW = 2


def spans_of(node: int) -> dict[str, ShardSpan]:
    """What the node fetches, by the shard's name."""
    order = CanonicalOrder(np.array(LENGTHS, np.int64), seed=SEED, lanes=2, window=WINDOW)
    world = World(rank=node, world_size=2, node=node, num_nodes=2)
    return {f"train-{span.shard:06d}.tar": span for span in NodeShards(order, world)}


@dataclass
class Node:
    """One of two nodes."""

    number: int
    folder: Path
    """The dataset as it was before it was uploaded."""
    proxy: FaultProxy
    cache: Path
    options: dict[str, Any]
    url: str

    def dataset(self) -> ShardDataset:
        world = World(rank=self.number, world_size=2, node=self.number, num_nodes=2)
        return ShardDataset(
            self.url,
            seed=SEED,
            window=WINDOW,
            decode=False,
            world=world,
            cache_dir=str(self.cache),
            cache_limit=1 << 30,
            storage_options=self.options,
        )

    def range_of(self, name: str) -> tuple[int, int]:
        """Bytes of the node's span of a shard."""
        span = spans_of(self.number)[name]
        if span.is_whole:
            return 0, sizes_of(self.folder)[name]
        starts = starts_of(self.folder, name)
        return int(starts[span.start]), int(starts[span.stop])

    def files(self) -> dict[str, int]:
        """What must be in its cache in the end: name to bytes."""
        shards = manifest_of(self.folder)["splits"]["train"]["shards"]
        expected = {}
        for name, span in spans_of(self.number).items():
            (digest,) = [shard["sha256"] for shard in shards if shard["name"] == name]
            start, stop = self.range_of(name)
            rows = "" if span.is_whole else f".{span.start}-{span.stop}"
            expected[f"{digest}{rows}.tar"] = stop - start
        return expected

    def held(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self.cache.rglob("*.tar")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset. Read only."""
    return stored(tmp_path_factory.mktemp("runs") / "voc", {"train": LENGTHS})


@pytest.fixture
def nodes(folder: Path, s3: S3, bucket: str, tmp_path: Path) -> Iterator[list[Node]]:
    upload(folder, s3, f"{bucket}/voc")
    with fault_proxy(s3.endpoint_url) as first, fault_proxy(s3.endpoint_url) as second:
        yield [
            Node(
                number=number,
                folder=folder,
                proxy=proxy,
                cache=tmp_path / f"node{number}",
                options=s3.through(proxy).storage_options,
                url=f"{bucket}/voc",
            )
            for number, proxy in enumerate([first, second])
        ]


def test_node_1_reads_three_samples_of_a_shard_of_node_0() -> None:
    first, second = spans_of(0), spans_of(1)
    (shared,) = first.keys() & second.keys()
    assert first[shared] == ShardSpan(2, 0, 17, is_whole=True)
    assert second[shared] == ShardSpan(2, 14, 17, is_whole=False)
    assert first.keys() | second.keys() == {f"train-{i:06d}.tar" for i in range(6)}


@pytest.mark.slow
def test_promise_4_each_node_fetches_its_spans_once_and_only_a_part_of_the_shared_shard(
    nodes: list[Node],
) -> None:
    expected = hashes_of(nodes[0].folder, "train")
    for epoch in range(3):
        read: list[tuple[str, str]] = []
        for node in nodes:
            data = node.dataset()
            data.set_epoch(epoch)
            read += hashes_read(data)
        assert len(read) == len(expected)
        assert dict(read) == expected
    for node in nodes:
        fill(node)
        asked = shard_ranges(node.proxy.requests)
        assert {name for name, _ in asked} == spans_of(node.number).keys()
        ends = {name: int(starts_of(node.folder, name)[-1]) for name, _ in asked}
        for name, at in asked:  # the span, or samples of it before it was there
            assert at is not None
            assert at[1] is not None
            start, stop = node.range_of(name)
            assert at == (start, stop) or start <= at[0] < at[1] <= min(stop, ends[name])
        for name in spans_of(node.number):
            assert asked.count((name, node.range_of(name))) == 1
        indexes = [r.path for r in node.proxy.requests if r.path.endswith(".idx")]
        assert len(indexes) == len(set(indexes)) == len(spans_of(node.number))


def fill(node: Node) -> None:
    """Read until all the node's spans are in its cache, and nothing else is."""
    data = node.dataset()

    def is_full() -> bool:
        hashes_read(data)
        return node.held() == node.files()

    assert eventually(is_full)


@pytest.mark.slow
def test_bytes_of_both_nodes_are_those_of_all_shards_and_less_than_one_more(
    nodes: list[Node],
) -> None:
    for node in nodes:
        fill(node)
    sizes = sizes_of(nodes[0].folder)
    held = sum(sum(node.held().values()) for node in nodes)
    assert sum(sizes.values()) < held < sum(sizes.values()) + 0.25 * sizes["train-000002.tar"]


@pytest.mark.slow
def test_a_node_with_a_full_cache_downloads_nothing(nodes: list[Node]) -> None:
    """In any later epoch, and in another process: the manifest alone is read again."""
    for node in nodes:
        fill(node)
        data = node.dataset()
        node.proxy.reset()
        for epoch in range(4):
            data.set_epoch(epoch)
            assert len(hashes_read(data)) in {36, 37}
        assert node.proxy.requests == []
        cost = data.take_cost()
        assert (cost.network_bytes, cost.read_through_bytes, cost.fetch_s) == (0, 0, 0.0)
        again = node.dataset()
        hashes_read(again)
        assert [request.path.rpartition("/")[2] for request in node.proxy.requests] == [
            "manifest.json"
        ]
