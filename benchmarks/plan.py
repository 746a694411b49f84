"""Compares the forecast of `shard-tool plan` with the run that follows.

    VOC_SAMPLE_DIR=... python benchmarks/plan.py
    python benchmarks/plan.py --toy         # half a minute; drawn pictures; writes nothing

Two nodes are two processes, each with its own cache and its own proxy in front of one S3 server;
the proxy adds latency and limits the bandwidth of its node. Training is a sleep as long as a step.
There are three runs: with too little bandwidth, with enough, and with the smallest cache that the
forecast allows. Writes `plan.json` into the results folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from bisect import bisect
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: only its own folder is on the path, not the root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.data import Size, make_data
from benchmarks.harness import ROOT, circumstances
from datamodules import ShardDataset, ShardLoader, World
from datamodules.profiling.batch_cost import Cost
from datamodules.reading.shard_table import ShardTable
from datamodules.tools.forecast import Forecast, RunPlan, forecast
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest
from tests.kit.servers.fault_proxy import FaultProxy, Request, fault_proxy
from tests.kit.servers.s3 import S3, make_bucket, s3_server, upload
from tests.kit.servers.traffic import Traffic, bytes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RESULTS = ROOT / "benchmarks/results"
FULL = Size(copies=1, drawn=600, shard_bytes=1 << 20)
TOY = Size(copies=0, drawn=120, shard_bytes=256 << 10)
MBIT = 1e6 / 8
ENOUGH, STARVED = 200 * MBIT, 30 * MBIT
SERVER = (
    "OpenStack Swift (scripts/s3-server) behind tests/kit/servers/fault_proxy.py, one for each node"
)
_SHUFFLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRun:
    """What one node is to do; travels to its process."""

    url: str
    storage_options: dict[str, str]
    node: int
    plan: RunPlan
    cache_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRun:
    """What one node did in an epoch. Times are those of `time.perf_counter`."""

    started_s: float
    first_batch_s: float
    """When the first batch was there."""
    ended_s: float
    num_batches: int
    cost: Cost
    first_wait_s: float
    """Of the waiting, that for the first batch."""
    late_read_through_bytes: int
    """Read through after the windows that were read first."""
    ids: list[list[int]]
    """Sample ids of each batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFound:
    """One node's run, with what its proxy saw."""

    first_batch_s: float
    """To the first batch without the start of processes: the manifest's request, and from the first
    request of a worker until the batch was there."""
    started_s: float
    """To the first batch, with it."""
    epochs: list[EpochRun]
    downloaded: list[int]
    """Bytes of whole shards and pieces of shards asked for in each epoch."""
    read_through: int
    """Bytes of single samples asked for, over all epochs."""
    held: int
    """Bytes of shards in the cache at the end."""


# A node ---------------------------------------------------------------------------------------


def stream(run: NodeRun) -> tuple[float, list[EpochRun]]:
    """Be one node: read all epochs, training as fast as the plan says."""
    import s3fs  # noqa: F401  (before the clock starts: it takes seconds)

    plan, opened_s = run.plan, time.perf_counter()
    world = World(rank=run.node, world_size=plan.num_nodes, node=run.node, num_nodes=plan.num_nodes)
    dataset = ShardDataset(
        run.url,
        "train",
        seed=plan.seed,
        window=plan.window,
        world=world,
        cache_dir=run.cache_dir,
        cache_limit=plan.cache_limit,
        storage_options=run.storage_options,
    )
    loader = ShardLoader(
        dataset,
        plan.batch_size,
        num_workers=plan.workers_per_rank,
        persistent_workers=True,
        multiprocessing_context="fork",  # this process itself was spawned
    )
    order = dataset.order(plan.num_nodes, plan.window)
    first_windows = order.epoch(0).window_positions(run.node).stop
    return opened_s, [_epoch(loader, number, plan, first_windows) for number in range(plan.epochs)]


def _epoch(loader: ShardLoader, number: int, plan: RunPlan, first_windows: int) -> EpochRun:
    loader.set_epoch(number)
    total, ids, late, first = Cost(), list[list[int]](), 0, (0.0, 0.0)
    started_s = time.perf_counter()
    for batch in loader:
        first = first if ids else (time.perf_counter(), batch.cost.wait_s)
        ids.append(batch.sample_ids.tolist())
        total += batch.cost
        if number or batch.start >= first_windows:
            late += batch.cost.read_through_bytes
        time.sleep(len(batch) / (plan.samples_per_s or 1e9))
    return EpochRun(
        started_s=started_s,
        first_batch_s=first[0],
        ended_s=time.perf_counter(),
        num_batches=len(ids),
        cost=total,
        first_wait_s=first[1],
        late_read_through_bytes=late,
        ids=ids,
    )


# All nodes ------------------------------------------------------------------------------------


def measure(traffic: Traffic, url: str, s3: S3, plan: RunPlan) -> list[NodeFound]:
    """Run the plan, every node in a process of its own."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="voc-shards-plan-")))
        proxies, runs = list[FaultProxy](), list[NodeRun]()
        for node in range(plan.num_nodes):
            proxy = stack.enter_context(fault_proxy(s3.endpoint_url, plan.latency_s))
            proxy.link_bytes_per_s = plan.bandwidth_bytes_per_s
            options = s3.through(proxy).storage_options
            cache_dir = str(home / f"cache-{node}")
            run = NodeRun(
                url=url, storage_options=options, node=node, plan=plan, cache_dir=cache_dir
            )
            proxies.append(proxy)
            runs.append(run)
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(len(runs), mp_context=spawn))
        found = pool.map(stream, runs)
        return [
            _found(traffic, proxy, run, opened_s, epochs)
            for proxy, run, (opened_s, epochs) in zip(proxies, runs, found, strict=True)
        ]


def _found(
    traffic: Traffic, proxy: FaultProxy, run: NodeRun, opened_s: float, epochs: list[EpochRun]
) -> NodeFound:
    """What the requests of a node were for, and what it keeps of them."""
    ends = [epoch.ended_s for epoch in epochs]
    by_epoch = list[list[Request]]([] for _ in epochs)
    for request in proxy.requests:
        by_epoch[min(bisect(ends, request.started_s), len(epochs) - 1)].append(request)
    manifest, index = (
        next(request for request in proxy.requests if request.path.endswith(end))
        for end in (".json", ".idx")
    )
    asked_s = (manifest.ended_s or 0.0) - manifest.started_s
    return NodeFound(
        first_batch_s=asked_s + epochs[0].first_batch_s - index.started_s,
        started_s=epochs[0].first_batch_s - opened_s,
        epochs=epochs,
        downloaded=[bytes_of(traffic.downloads(requests)) for requests in by_epoch],
        read_through=bytes_of(traffic.read_through(proxy.requests)),
        held=sum(path.stat().st_size for path in Path(run.cache_dir).rglob("*.tar")),
    )


# What was foretold, beside it -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of one node."""

    what: str
    predicted: float
    measured: float
    unit: str

    def text(self) -> str:
        """The line for people."""
        return f"  {self.what:<44} {self.predicted:>12,.2f} {self.measured:>12,.2f} {self.unit}"


def lines(plan: RunPlan, foretold: Forecast, found: Sequence[NodeFound]) -> list[Line]:
    """Every figure of the forecast that a run shows."""
    rows = list[Line]()
    for number, (node, run) in enumerate(zip(foretold.nodes, found, strict=True)):
        name = f"node {number}"
        for epoch in range(plan.epochs):
            what, fetched = f"{name}, epoch {epoch}: downloaded", node.epoch_bytes[epoch]
            rows.append(Line(what, fetched / 1e6, run.downloaded[epoch] / 1e6, "MB"))
        rows.append(Line(f"{name}: read through, not foretold", 0, run.read_through / 1e6, "MB"))
        first = foretold.first_batch_s or 0.0
        rows.append(Line(f"{name}: first batch", first, run.first_batch_s, "s"))
        rows.append(Line(f"{name}: first batch, processes included", first, run.started_s, "s"))
        for epoch, (seconds, stalled) in enumerate(
            zip(node.epoch_s or (), node.stall_s or (), strict=True)
        ):
            done = run.epochs[epoch]
            waited = done.cost.wait_s - done.first_wait_s
            rows.append(Line(f"{name}, epoch {epoch}: stalled", stalled, waited, "s"))
            took = done.ended_s - done.first_batch_s
            rows.append(Line(f"{name}, epoch {epoch}: took", seconds, took, "s"))
        held = node.all_bytes if plan.cache_limit is None else plan.cache_limit
        rows.append(Line(f"{name}: cache", held / 1e6, run.held / 1e6, "MB"))
        if plan.cache_limit is not None:
            late = sum(epoch.late_read_through_bytes for epoch in run.epochs)
            rows.append(Line(f"{name}: read through after the first windows", 0, late / 1e6, "MB"))
    return rows


def mixing_lines(table: ShardTable, foretold: Forecast, found: Sequence[NodeFound]) -> list[Line]:
    """How well shards were mixed: counted in the batches of the first epoch."""
    steps = [
        _shards_of(table, [sample_id for ids in nodes for sample_id in ids])
        for nodes in zip(*(run.epochs[0].ids for run in found), strict=True)
    ]
    distinct = [len(np.unique(shards)) for shards in steps]
    noise = np.random.default_rng(0)
    everything = np.concatenate(steps)
    cuts = np.cumsum([len(shards) for shards in steps])[:-1]
    shuffled = [
        _mean([len(np.unique(part)) for part in np.split(noise.permutation(everything), cuts)])
        for _ in range(_SHUFFLES)
    ]
    spread = [_extent(everything == shard) / len(everything) for shard in np.unique(everything)]
    mixing = foretold.mixing
    return [
        Line("shards in a global batch", mixing.shards_per_batch, _mean(distinct), ""),
        Line("  if all were shuffled", mixing.shards_per_batch_shuffled, _mean(shuffled), ""),
        Line("share of the epoch a shard is spread over", mixing.spread, _mean(spread), ""),
    ]


def _shards_of(table: ShardTable, sample_ids: list[int]) -> NDArray[np.int64]:
    return np.array([table.find(sample_id)[0] for sample_id in sample_ids], np.int64)


def _extent(mask: NDArray[np.bool_]) -> int:
    at = np.flatnonzero(mask)
    return int(at[-1] - at[0] + 1)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


# Main -----------------------------------------------------------------------------------------


def plans(table: ShardTable, *, is_toy: bool) -> dict[str, RunPlan]:
    """The runs, by name."""
    common = RunPlan(
        num_nodes=2,
        workers_per_rank=2,
        batch_size=16,
        window=4,
        latency_s=0.02,
        samples_per_s=300.0 if is_toy else 150.0,
        bandwidth_bytes_per_s=ENOUGH,
    )
    least = max(node.window_bytes for node in forecast(table, common).nodes)
    starved = replace(common, bandwidth_bytes_per_s=STARVED)
    smallest = replace(common, cache_limit=least, epochs=3)
    return {"starved": starved, "enough bandwidth": common, "smallest cache": smallest}


def main() -> None:
    """Make the data, run all plans, print what was foretold beside what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="small, drawn, and nothing is written")
    parser.add_argument("--only", help="names of runs, with commas between them")
    options = parser.parse_args()
    document: dict[str, Any] = {"circumstances": circumstances(), "runs": {}}
    with tempfile.TemporaryDirectory(prefix="voc-shards-plan-") as name:
        data = make_data(Path(name) / "data", TOY if options.toy else FULL)
        folder = Folder(str(data.shards))
        table = ShardTable.of([folder], [load_manifest(folder)], [("train",)])
        (Path(name) / "s3").mkdir()
        with s3_server(Path(name) / "s3") as s3:
            url = f"{make_bucket(s3)}/voc"
            upload(data.shards, s3, url)
            traffic = Traffic(data.shards)
            for label, plan in plans(table, is_toy=options.toy).items():
                if options.only and label not in options.only.split(","):
                    continue
                found, foretold = measure(traffic, url, s3, plan), forecast(table, plan)
                rows = lines(plan, foretold, found)
                rows += [] if document["runs"] else mixing_lines(table, foretold, found)
                print(f"{label}\n  {'':<44} {'predicted':>12} {'measured':>12}")
                print("\n".join(row.text() for row in rows), flush=True)
                document["runs"][label] = {
                    "plan": asdict(plan),
                    "forecast": asdict(foretold),
                    "lines": [asdict(row) for row in rows],
                }
        document["data"] = {**data.facts(), "server": SERVER}
    if not (options.toy or options.only):
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "plan.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
