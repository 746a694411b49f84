"""Several nodes: real torchrun agents, each with its own cache and its own way to a real S3 server.

One run on two nodes is the source of all: it is compared with an uninterrupted run of one process,
and from one of its checkpoints four nodes, and one node with three ranks, go on.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from datamodules import VOCDataModule
from tests.kit.datasets.stored import stored
from tests.kit.models.recorder import Recorder, read_log, trainer
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.processes.warm_python import warm_python
from tests.kit.servers.fault_proxy import FaultProxy, fault_proxy
from tests.kit.servers.s3 import S3, make_bucket, upload
from tests.kit.servers.traffic import Traffic, bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # dozens of processes import torch on two cores
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = str(ROOT / "tests/kit/processes/node_recorder.py")
DEADLINE_S = 300.0

LENGTHS = [14 + 5 * i % 13 for i in range(24)]
NUM_SAMPLES = sum(LENGTHS)
LANES = 2
"""The number of nodes of the first run, and by that the default."""
WINDOW = 4
DATA: dict[str, Any] = {"image_size": 32, "seed": 3, "window": WINDOW}
TRAINER: dict[str, Any] = {"max_epochs": 2, "limit_val_batches": 0}

Trained = dict[tuple[int, int], tuple[int, str]]
"""(epoch, position) to (sample id, digest of its pixels)."""


# Runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: what its ranks wrote down, and what its nodes asked the store for."""

    num_nodes: int
    ranks_per_node: int
    log: str
    proxies: tuple[FaultProxy, ...]
    caches: tuple[Path, ...]

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.ranks_per_node

    def ranks_of(self, node: int) -> range:
        """torchrun numbers ranks node by node."""
        return range(node * self.ranks_per_node, (node + 1) * self.ranks_per_node)

    def lines(self, rank: int, stage: str = "train", attempt: int = 0) -> list[dict[str, Any]]:
        """What a rank wrote down after it was started for the first or second time."""
        return [x for x in read_log(f"{self.log}-{attempt}", rank) if x["stage"] == stage]

    def sequence(self, attempt: int = 0) -> Trained:
        """What was trained, by position; fails where ranks did not take the same steps.

        Of a run that was killed, the steps that all ranks finished.
        """
        ranks = [self.lines(rank, attempt=attempt) for rank in range(self.world_size)]
        if (attempt + 1, 0) not in self._logs():
            assert len({len(lines) for lines in ranks}) == 1, (
                "ranks took different numbers of steps"
            )
        found: Trained = {}
        for step in zip(*ranks, strict=False):
            assert len({(line["epoch"], line["start"], line["stop"]) for line in step}) == 1
            for rank, line in enumerate(step):
                node, local_rank = divmod(rank, self.ranks_per_node)
                slot = node + self.num_nodes * local_rank
                start, stop = line["start"], line["stop"]
                first = start + (slot - start) % self.world_size
                positions = range(first, stop, self.world_size)
                for at, *sample in zip(positions, line["ids"], line["digests"], strict=True):
                    assert (line["epoch"], at) not in found, "a position was trained twice"
                    found[line["epoch"], at] = (sample[0], sample[1])
        return found

    def _logs(self) -> set[tuple[int, int]]:
        """(attempt, rank) of all logs."""
        names = [path.name.split("-")[-1] for path in Path(self.log).parent.glob("log-*.*")]
        return {(int(attempt), int(rank)) for attempt, _, rank in (n.partition(".") for n in names)}

    def cost(self, node: int, name: str, epoch: int) -> int:
        """Sum of one kind of bytes over all batches of a node's ranks in an epoch."""
        lines = [line for rank in self.ranks_of(node) for line in self.lines(rank)]
        return sum(line["cost"][name] for line in lines if line["epoch"] == epoch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of small shards, no two of which end where a lane does."""
    return stored(tmp_path_factory.mktemp("nodes") / "voc", {"train": LENGTHS}, padding=4096)


@pytest.fixture(scope="module")
def url(folder: Path, s3: S3) -> str:
    """The same in a bucket."""
    url = f"{make_bucket(s3)}/voc"
    upload(folder, s3, url)
    return url


@pytest.fixture(scope="module")
def run_nodes(url: str, s3: S3) -> Iterator[Any]:
    """Start nodes, wait for their end, and say what they did."""
    with ExitStack() as stack:

        def run(
            tmp_path: Path, nodes: int, ranks: int, *, max_restarts: int = 0, **options: Any
        ) -> Run:
            proxies = tuple(stack.enter_context(fault_proxy(s3.endpoint_url)) for _ in range(nodes))
            caches = tuple(tmp_path / f"cache-{node}" for node in range(nodes))
            log, checkpoints = str(tmp_path / "log"), tmp_path / "checkpoints"
            data = {"data_dir": url, **DATA, **options.pop("data")}
            done: dict[str, Any] = {"log": log, "checkpoints": str(checkpoints), **options}
            done["trainer"] = {**TRAINER, "devices": ranks, "num_nodes": nodes}
            done["trainer"]["strategy"] = "ddp"
            agents = [
                Agent({**done, "data": {**data, "cache_dir": str(cache)}}, s3.through(proxy), ranks)
                for cache, proxy in zip(caches, proxies, strict=True)
            ]
            run_agents(agents, max_restarts=max_restarts)
            return Run(
                num_nodes=nodes, ranks_per_node=ranks, log=log, proxies=proxies, caches=caches
            )

        yield run


@dataclass(frozen=True)
class Agent:
    """One node's torchrun."""

    options: dict[str, Any]
    store: S3
    ranks: int

    def start(self, launch: Sequence[str]) -> subprocess.Popen[bytes]:
        more = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        # Else torch 2.15's restarted ranks find the dead ones' addresses in the agent's store.
        more["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        more["PYTHON_EXEC"] = warm_python()
        command = [warm_python(), "-m", "torch.distributed.run", *launch]
        command += [f"--nproc-per-node={self.ranks}", SCRIPT, json.dumps(self.options)]
        with Path(f"{self.options['log']}.output").open("ab") as output:
            return subprocess.Popen(
                command, env=os.environ | self.store.environment | more, stdout=output
            )


def run_agents(agents: Sequence[Agent], *, max_restarts: int) -> None:
    """Run all to their end; none is left behind, nor are their ranks."""
    at = ["--standalone"]  # which, unlike fixed nodes, can be restarted
    if len(agents) > 1:
        at = ["--master-addr=127.0.0.1", "--local-addr=127.0.0.1", f"--nnodes={len(agents)}"]
        at += [f"--master-port={free_port()}"]
    at += [f"--max-restarts={max_restarts}"]
    processes = [agent.start([*at, f"--node-rank={i}"]) for i, agent in enumerate(agents)]
    deadline = time.monotonic() + DEADLINE_S
    try:
        for process in processes:
            assert process.wait(deadline - time.monotonic()) == 0
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()  # an agent takes its ranks along
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(45)
            process.kill()
            process.wait()


def processes_of(log: str) -> list[int]:
    """Agents, ranks and workers of a run that are still there: all have the one output."""
    found = []
    for stdout in Path("/proc").glob("[0-9]*/fd/1"):
        with suppress(OSError):  # it has ended since
            if stdout.readlink() == Path(f"{log}.output"):
                found.append(int(stdout.parts[2]))
    return found


def free_port() -> int:
    """Of the loopback interface; somebody else may take it before it is used."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# What is to be expected -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two epochs of one process, local and uninterrupted."""
    model = Recorder()
    data = VOCDataModule(str(folder), batch_size=16, lanes=LANES, **DATA)
    trainer(tmp_path_factory.mktemp("whole"), **TRAINER).fit(model, data)
    return {
        (line["epoch"], at): (sample_id, digest)
        for line in model.of("train")
        for at, sample_id, digest in zip(
            range(line["start"], line["stop"]), line["ids"], line["digests"], strict=True
        )
    }


@pytest.fixture(scope="module")
def traffic(folder: Path) -> Traffic:
    """Tells what requests were for."""
    return Traffic(folder)


def bound_bytes(node: int, num_nodes: int, traffic: Traffic, whole: Trained) -> int:
    """Its lanes' bytes, and one shard for each boundary between one of them and another node's."""
    step = math.gcd(num_nodes, LANES)
    lanes = range(node % step, LANES, step)
    mine = {sample_id for (_, at), (sample_id, _) in whole.items() if at % LANES in lanes}
    boundaries = sum((edge - 1 in lanes) != (edge in lanes) for edge in range(1, LANES))
    largest = max(traffic.num_bytes.values())
    return sum(traffic.sample_bytes[sample_id] for sample_id in mine) + boundaries * largest


# The proofs -----------------------------------------------------------------------------------

EVERY = 11
"""Steps between two checkpoints of the first run: the first one lies in mid-epoch."""
RESUMED_AT = (0, EVERY * 16)


@pytest.fixture(scope="module")
def two_nodes(run_nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two agents, two ranks each, two workers each; 4 samples a rank and step; two epochs."""
    folder = tmp_path_factory.mktemp("two")
    data = {"batch_size": 4, "num_workers": 2}
    run: Run = run_nodes(folder, 2, 2, data=data, every=EVERY, files=2 * WINDOW)
    return run


@pytest.fixture
def checkpoints(two_nodes: Run, tmp_path: Path) -> Path:
    """A folder for checkpoints that holds the first run's from the middle of its first epoch."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    shutil.copy2(Path(two_nodes.log).parent / f"checkpoints/step={EVERY}.ckpt", folder)
    return folder


def test_promise_4_two_nodes_see_every_sample_once_in_equal_steps_and_the_one_order(
    two_nodes: Run, whole: Trained
) -> None:
    seen = two_nodes.sequence()
    for epoch in range(2):
        ids = [sample_id for (number, _), (sample_id, _) in seen.items() if number == epoch]
        assert sorted(ids) == list(range(NUM_SAMPLES))
    assert seen == whole


def test_each_node_downloads_its_lanes_once_and_nothing_in_the_second_epoch(
    two_nodes: Run, whole: Trained, traffic: Traffic
) -> None:
    total = 0
    for node in range(2):
        requests = two_nodes.proxies[node].requests
        downloads = traffic.downloads(requests)
        assert set(downloads.values()) == {1}
        num_bytes = bytes_of(downloads)
        assert num_bytes <= bound_bytes(node, 2, traffic, whole)
        total += num_bytes
        first, second = two_nodes.lines(2 * node, "epoch end")
        assert len(first["cached"]) == len(downloads), "not all was there after the first epoch"
        assert second["cached"] == first["cached"]
        assert two_nodes.cost(node, "network_bytes", 1) == 0
        assert two_nodes.cost(node, "read_through_bytes", 1) == 0
        read_bytes = bytes_of(traffic.read_through(requests))
        assert read_bytes == two_nodes.cost(node, "read_through_bytes", 0)
    sizes = traffic.num_bytes.values()
    assert total <= sum(sizes) + max(sizes)


def test_promise_6_four_nodes_go_on_from_the_middle_of_an_epoch(
    checkpoints: Path, run_nodes: Any, whole: Trained, traffic: Traffic
) -> None:
    """Each of the two lanes is read by two of them: nodes / gcd(nodes, lanes)."""
    data = {"batch_size": 6, "num_workers": 0}
    run: Run = run_nodes(checkpoints.parent, 4, 1, data=data, every=1000)
    rest = {place: sample for place, sample in whole.items() if place >= RESUMED_AT}
    assert run.sequence() == rest
    for node in range(4):
        downloads = traffic.downloads(run.proxies[node].requests)
        assert max(downloads.values()) == 1
        assert 0 < bytes_of(downloads) <= bound_bytes(node, 4, traffic, whole)


def test_promise_6_a_killed_rank_is_restarted_by_torchrun_and_goes_on_from_the_last_checkpoint(
    checkpoints: Path, run_nodes: Any, whole: Trained, traffic: Traffic
) -> None:
    """One node with three ranks goes on from two nodes; two steps after a checkpoint one dies."""
    data = {"batch_size": 3, "num_workers": 3}
    kill = {"every": 5, "kill": [1, 17], "max_restarts": 1}
    run: Run = run_nodes(checkpoints.parent, 1, 3, data=data, **kill)
    rest = {place: sample for place, sample in whole.items() if place >= RESUMED_AT}
    before, after = run.sequence(), run.sequence(attempt=1)
    saved_at = (0, RESUMED_AT[1] + (15 - EVERY) * 9)
    assert min(after) == saved_at
    assert (0, saved_at[1] + 2 * 9 - 1) in before, "nothing was trained after the checkpoint"
    assert {place: sample for place, sample in before.items() if place < saved_at} | after == rest
    assert before.items() <= rest.items()
    downloads = traffic.downloads(run.proxies[0].requests)
    assert {name for name, _, _ in downloads} == set(traffic.num_bytes)
    assert max(downloads.values()) <= 2  # what was being downloaded when the rank died
    assert eventually(lambda: not processes_of(run.log)), "workers of the killed rank live on"
