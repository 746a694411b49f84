"""The forecast of `shard-tool plan` equals real traffic and counts by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import ShardDataset, ShardLoader, World
from datamodules.order.canonical import CanonicalOrder
from datamodules.order.node_shards import NodeShards, span_bytes
from datamodules.reading.shard_table import ShardTable
from datamodules.tools.forecast import Forecast, Mixing, RunPlan, forecast
from shard_tool.errors import OptionError
from shard_tool.format.manifest import ShardArrays
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.datasets.stored import stored
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.fault_proxy import FaultProxy, fault_proxy
from tests.kit.servers.s3 import S3, upload
from tests.kit.servers.traffic import Traffic, bytes_of
from tests.kit.simulate import Topology, simulate

if TYPE_CHECKING:
    from pathlib import Path


# Real traffic ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """One node of a run of two epochs, and the forecast of all nodes."""

    expected: Forecast
    downloads: list[int]
    """Bytes downloaded in each epoch."""


def run_node(folder: Path, url: str, s3: S3, cache: Path, plan: RunPlan, *, node: int = 0) -> Node:
    """Train two epochs; the first continues when the cache holds all that is fetched."""
    world = World(rank=node, world_size=plan.num_nodes, node=node, num_nodes=plan.num_nodes)
    expected = forecast(table_of(folder), plan)
    with fault_proxy(s3.endpoint_url) as proxy:
        options = s3.through(proxy).storage_options
        dataset = ShardDataset(
            url,
            world=world,
            cache_dir=str(cache),
            cache_limit=plan.cache_limit,
            storage_options=options,
        )
        loader = ShardLoader(dataset, plan.batch_size)
        downloads, wanted = [], expected.nodes[node].num_pieces
        for _ in range(2):
            before = downloaded(proxy, folder)
            batches = iter(loader)
            next(batches)
            assert eventually(lambda: len(list(cache.rglob("*.tar"))) == wanted, deadline_s=120)
            assert len(list(batches)) == expected.steps - 1
            downloads.append(downloaded(proxy, folder) - before)
    return Node(expected, downloads)


def downloaded(proxy: FaultProxy, folder: Path) -> int:
    return bytes_of(Traffic(folder).downloads(proxy.requests))


def index_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("train-*.idx"))


def table_of(folder: Path) -> ShardTable:
    root = Folder(str(folder))
    return ShardTable.of([root], [load_manifest(root)], [("train",)])


@pytest.mark.slow
def test_bytes_of_one_node_are_exact(
    mini_dataset: Path, s3: S3, bucket: str, tmp_path: Path
) -> None:
    upload(mini_dataset, s3, f"{bucket}/voc")
    found = run_node(mini_dataset, f"{bucket}/voc", s3, tmp_path / "cache", RunPlan(batch_size=4))
    size = sum(Traffic(mini_dataset).num_bytes.values())
    (node,) = found.expected.nodes
    assert found.downloads == list(node.epoch_bytes) == [size, 0]
    assert (found.expected.num_bytes, node.all_bytes) == (
        size,
        size + index_bytes(mini_dataset),
    )


@pytest.mark.slow
def test_cache_of_the_forecast_size_downloads_nothing_twice(
    mini_dataset: Path, s3: S3, bucket: str, tmp_path: Path
) -> None:
    """It also holds the indexes; otherwise the oldest shard would be evicted."""
    upload(mini_dataset, s3, f"{bucket}/voc")
    plan = RunPlan(batch_size=4)
    (node,) = forecast(table_of(mini_dataset), plan).nodes
    plan = replace(plan, cache_limit=node.all_bytes)
    found = run_node(mini_dataset, f"{bucket}/voc", s3, tmp_path / "cache", plan)
    assert found.downloads == [sum(Traffic(mini_dataset).num_bytes.values()), 0]


@pytest.mark.slow
def test_bytes_of_two_nodes_are_exact_but_for_the_shard_cut_between_them(
    mini_dataset: Path, s3: S3, bucket: str, tmp_path: Path
) -> None:
    upload(mini_dataset, s3, f"{bucket}/voc")
    traffic, plan = Traffic(mini_dataset), RunPlan(num_nodes=2, batch_size=4)
    for node in range(2):
        cache = tmp_path / f"cache-{node}"
        found = run_node(mini_dataset, f"{bucket}/voc", s3, cache, plan, node=node)
        expected = found.expected.nodes[node]
        assert found.downloads[1] == expected.epoch_bytes[1] == 0
        order = CanonicalOrder(table_of(mini_dataset).arrays.num_samples, seed=0, lanes=2)
        world = World(rank=node, world_size=2, node=node, num_nodes=2)
        has_cut = any(not span.is_whole for span in NodeShards(order, world))
        off = abs(found.downloads[0] - expected.epoch_bytes[0])
        assert off <= has_cut * 0.2 * max(traffic.num_bytes.values())


@pytest.mark.slow
def test_bytes_of_two_nodes_are_exact_where_no_shard_is_cut(
    s3: S3, bucket: str, tmp_path: Path
) -> None:
    folder = stored(tmp_path / "voc", {"train": [5] * 6}, padding=2048)
    upload(folder, s3, f"{bucket}/voc")
    plan = RunPlan(num_nodes=2, batch_size=3)
    for node in range(2):
        cache = tmp_path / f"cache-{node}"
        found = run_node(folder, f"{bucket}/voc", s3, cache, plan, node=node)
        assert found.downloads == list(found.expected.nodes[node].epoch_bytes)
        assert found.downloads[0] == sum(Traffic(folder).num_bytes.values()) // 2


# Any dataset ----------------------------------------------------------------------------------


def synthetic(num_samples: list[int], num_bytes: list[int]) -> ShardTable:
    """A table of shards that do not exist: a forecast reads none."""
    count = len(num_samples)
    arrays = ShardArrays(
        names=np.array([f"train-{i:06d}.tar" for i in range(count)]),
        num_samples=np.array(num_samples, np.int64),
        num_bytes=np.array(num_bytes, np.int64),
        first_ids=np.cumsum([0, *num_samples[:-1]], dtype=np.int64),
        sha256=np.zeros((count, 32), np.uint8),
        index_sha256=np.zeros((count, 32), np.uint8),
    )
    return ShardTable((), np.zeros(count, np.int64), arrays, frozenset())


@st.composite
def tables(draw: st.DrawFn, *, most_samples: int = 12) -> ShardTable:
    num_samples = draw(st.lists(st.integers(1, most_samples), min_size=2, max_size=14))
    sizes = st.integers(1000, 9000)
    return synthetic(num_samples, [draw(sizes) for _ in num_samples])


@st.composite
def runs(draw: st.DrawFn, /, **more: Any) -> tuple[ShardTable, RunPlan]:
    table = draw(tables())
    num_nodes = draw(st.integers(1, min(4, int(table.arrays.num_samples.sum()))))
    options = {
        "num_nodes": num_nodes,
        "batch_size": draw(st.integers(1, 8)),
        "lanes": num_nodes * draw(st.integers(1, 3)),
        "window": draw(st.integers(1, 5)),
        "seed": draw(st.integers(0, 3)),
        "epochs": 3,
    }
    return table, RunPlan(**{**options, **more})


@pytest.mark.slow
@given(runs())
def test_nodes_together_fetch_every_byte_once_and_no_epoch_but_the_first_fetches(
    run: tuple[ShardTable, RunPlan],
) -> None:
    """A shard cut between two nodes counts for each by its share, rounded down, or whole."""
    table, plan = run
    found = forecast(table, plan)
    once = sum(node.epoch_bytes[0] for node in found.nodes)
    num_pieces = sum(node.num_pieces for node in found.nodes)
    boundaries = (plan.lanes or plan.num_nodes) - 1
    assert found.num_bytes - num_pieces <= once
    assert once <= found.num_bytes + boundaries * int(table.arrays.num_bytes.max())
    for node in found.nodes:
        assert node.epoch_bytes == (node.all_bytes - indexes_of(table, plan, node.node), 0, 0)
        assert 0 < node.window_bytes <= node.all_bytes


@pytest.mark.slow
@given(runs(), st.lists(st.integers(1, 60_000), min_size=2, max_size=4))
def test_a_larger_cache_never_downloads_more(
    run: tuple[ShardTable, RunPlan], limits: list[int]
) -> None:
    table, plan = run
    whole = forecast(table, plan)
    found = [with_limit(table, plan, limit) for limit in sorted(limits)]
    for smaller, larger in zip(found, [*found[1:], whole], strict=True):
        for before, after in zip(smaller.nodes, larger.nodes, strict=True):
            pairs = zip(before.epoch_bytes, after.epoch_bytes, strict=True)
            assert all(less >= more for less, more in pairs)
    enough = with_limit(table, plan, max(node.all_bytes for node in whole.nodes))
    assert enough.nodes == whole.nodes


def with_limit(table: ShardTable, plan: RunPlan, limit: int) -> Forecast:
    return forecast(table, replace(plan, cache_limit=limit))


@pytest.mark.slow
@settings(max_examples=40)  # each counts every position
@given(runs())
def test_the_least_cache_holds_the_windows_being_read_and_the_next_ones_at_every_position(
    run: tuple[ShardTable, RunPlan],
) -> None:
    table, plan = run
    order, arrays = order_of(table, plan), table.arrays
    for node in forecast(table, plan).nodes:
        spans = spans_of(table, plan, node.node)
        for number in range(plan.epochs - 1):
            epoch = order.epoch(number)
            for position in range(order.num_samples):
                held = {*spans.at(epoch, position), *spans.after(epoch, position)}
                size = sum(span_bytes(p, arrays.num_bytes, arrays.num_samples) for p in held)
                size += sum(8 + 12 * int(arrays.num_samples[p.shard]) for p in held)
                assert size <= node.window_bytes


def spans_of(table: ShardTable, plan: RunPlan, node: int) -> NodeShards:
    world = World(rank=node, world_size=plan.num_nodes, node=node, num_nodes=plan.num_nodes)
    return NodeShards(order_of(table, plan), world)


def indexes_of(table: ShardTable, plan: RunPlan, node: int) -> int:
    """Bytes of the indexes of what a node reads."""
    shards = [span.shard for span in spans_of(table, plan, node)]
    return sum(8 + 12 * int(table.arrays.num_samples[shard]) for shard in shards)


@pytest.mark.slow
@given(runs(epochs=1))
def test_mixing_equals_a_count(run: tuple[ShardTable, RunPlan]) -> None:
    table, plan = run
    order, sizes = order_of(table, plan), table.arrays.num_samples
    nodes = plan.num_nodes
    topology = Topology(world_size=nodes, num_nodes=nodes, batch_size=plan.batch_size)
    steps = simulate(order, topology)
    found = forecast(table, plan)
    assert found.steps == len(steps)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    counted = [len({int(shard_of[i]) for i in step.global_ids}) for step in steps]
    if len(steps) <= 64:  # else some of them are looked at
        assert found.mixing.shards_per_batch == pytest.approx(np.mean(counted))
    assert 0 < found.mixing.spread <= 1


@pytest.mark.slow
@given(tables(), st.integers(1, 40))
def test_a_shuffle_of_all_samples_mixes_as_counting_its_batches_says(
    table: ShardTable, batch_size: int
) -> None:
    """In a draw without replacement: exactly all shards where the batch is all samples."""
    sizes = table.arrays.num_samples.tolist()
    total = sum(sizes)
    found = mixing(table, batch_size=batch_size)
    steps = simulate(order_of(table, RunPlan()), Topology(batch_size=batch_size))
    expected = [
        sum(1 - math.comb(total - n, drawn) / math.comb(total, drawn) for n in sizes)
        for drawn in (step.stop - step.start for step in steps)
    ]
    if len(steps) <= 64:
        assert found.shards_per_batch_shuffled == pytest.approx(np.mean(expected))


def test_wider_windows_mix_better_up_to_a_shuffle() -> None:
    table = synthetic([30] * 20, [1000] * 20)
    found = [mixing(table, window=window, batch_size=20) for window in (1, 4, 20)]
    assert [m.spread for m in found] == pytest.approx([0.05, 0.2, 1.0])
    shards = [m.shards_per_batch for m in found]
    assert shards == sorted(shards)
    assert shards[0] < 2
    assert shards[2] == pytest.approx(found[2].shards_per_batch_shuffled, rel=0.05)


def order_of(table: ShardTable, plan: RunPlan) -> CanonicalOrder:
    lanes = plan.lanes or plan.num_nodes
    sizes = table.arrays.num_samples
    return CanonicalOrder(sizes, seed=plan.seed, lanes=lanes, window=plan.window)


def mixing(table: ShardTable, **options: Any) -> Mixing:
    return forecast(table, RunPlan(**options)).mixing


# Times ----------------------------------------------------------------------------------------

LARGE = ([100] * 40, [1_000_000] * 40)


def timed(bandwidth: float, samples_per_s: float, **more: Any) -> Forecast:
    options: dict[str, Any] = {"window": 4, "batch_size": 10, **more}
    plan = RunPlan(bandwidth_bytes_per_s=bandwidth, samples_per_s=samples_per_s, **options)
    return forecast(synthetic(*LARGE), plan)


def test_no_times_are_forecast_without_bandwidth() -> None:
    found = forecast(synthetic(*LARGE), RunPlan())
    assert (found.first_batch_s, found.nodes[0].stall_s, found.nodes[0].epoch_s) == (None,) * 3
    some = forecast(synthetic(*LARGE), RunPlan(bandwidth_bytes_per_s=1e6))
    assert some.first_batch_s is not None
    assert some.nodes[0].stall_s is None


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_epoch_starved_of_bandwidth_takes_as_long_as_its_bytes(num_nodes: int) -> None:
    """40 MB at 1 MB/s, or half of it on each of two nodes; training alone takes 4 s."""
    (node, *_) = timed(1e6, 1000 / num_nodes, num_nodes=num_nodes).nodes
    assert node.epoch_s is not None
    assert node.stall_s is not None
    last_window_s = 400 / (1000 / num_nodes)
    assert 40 / num_nodes <= node.epoch_s[0] <= 40 / num_nodes + last_window_s + 0.01
    assert list(node.stall_s) == pytest.approx([node.epoch_s[0] - 4, 0])
    assert node.epoch_s[1] == pytest.approx(4)


def test_epoch_with_bandwidth_enough_takes_as_long_as_training() -> None:
    (node,) = timed(100e6, 1000).nodes
    assert list(node.epoch_s or ()) == pytest.approx([4, 4])
    assert list(node.stall_s or ()) == [0, 0]


def test_more_bandwidth_never_stalls_longer() -> None:
    stalls = [timed(rate, 1000).nodes[0].stall_s for rate in (1e6, 3e6, 9e6, 27e6)]
    firsts = [stall[0] for stall in stalls if stall is not None]
    assert firsts == sorted(firsts, reverse=True)
    assert firsts[0] > firsts[1] > 0


# Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_nodes": 0}, "num_nodes: 0 is below 1"),
        ({"ranks_per_node": 0}, "ranks_per_node: 0 is below 1"),
        ({"batch_size": -1}, "batch_size: -1 is below 1"),
        ({"epochs": 0}, "epochs: 0 is below 1"),
        ({"window": 0}, "window: 0 is below 1"),
        ({"lanes": 0}, "lanes: 0 is not above 0"),
        ({"cache_limit": 0}, "cache_limit: 0 is not above 0"),
        ({"bandwidth_bytes_per_s": 0.0}, "bandwidth_bytes_per_s: 0.0 is not above 0"),
        ({"samples_per_s": -1.5}, "samples_per_s: -1.5 is not above 0"),
        ({"workers_per_rank": -1}, "workers_per_rank: -1 is below 0"),
        ({"latency_s": -0.1}, "latency_s: -0.1 is below 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        RunPlan(**options)
    assert str(caught.value) == message


def test_more_ranks_than_samples_are_refused() -> None:
    with pytest.raises(OptionError) as caught:
        forecast(synthetic([3, 2], [10, 10]), RunPlan(num_nodes=2, ranks_per_node=3))
    assert str(caught.value).startswith("epoch: 5 samples are left for 6 ranks")
