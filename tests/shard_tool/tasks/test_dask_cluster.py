"""A real Dask scheduler and worker processes do what the local engine does, over TCP."""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from shard_tool.errors import BoxError, ShardToolError
from shard_tool.release import RELEASE
from shard_tool.storage.location import Folder
from shard_tool.tasks import dask_cluster as engine
from shard_tool.tasks.pool import open_pool
from tests.kit.processes.pool_tasks import (
    be_killed,
    fail_at,
    fail_with,
    leave_while_tasks_run,
    let_one_go,
    numbers_of,
    process_id,
    square,
    wait_for_go,
)
from tests.kit.processes.shard_tool_process import eventually
from tests.kit.servers.dask_cluster import DaskCluster, add_worker, dask_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

SECRET = "s3cr3t-k3y"
OTHER_RELEASE = """
import shard_tool.tasks.dask_cluster
shard_tool.tasks.dask_cluster.RELEASE = "0.0.9"
"""
NOT_INSTALLED = """
import sys
for name in ["shard_tool", *sys.modules]:
    if name.partition(".")[0] == "shard_tool":
        sys.modules[name] = None
"""
STOPPED = "Run out-of-band function '_stop_here'"
ONE_DEATH_IS_ENOUGH = """
import dask
dask.config.set({"distributed.scheduler.allowed-failures": 0})
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers that no test harms."""
    with dask_cluster(tmp_path_factory.mktemp("dask")) as running:
        yield running


def test_every_task_comes_back_once_from_the_workers(cluster: DaskCluster) -> None:
    with open_pool(cluster.address, workers=1) as pool:
        results = list(pool.run(square, ((number,) for number in range(50))))
        pids = {pid for _, pid in pool.run(process_id, [()] * 20)}
    assert sorted(results) == [(number, number * number) for number in range(50)]
    assert pids
    assert pids <= set(cluster.pids)


def test_tasks_are_drawn_a_few_at_a_time(cluster: DaskCluster) -> None:
    drawn = 0

    def tasks() -> Iterator[tuple[int]]:
        nonlocal drawn
        for number in range(40):
            drawn += 1
            yield (number,)

    with open_pool(cluster.address, workers=1) as pool:
        for got, _ in enumerate(pool.run(square, tasks()), start=1):
            assert got <= drawn < got + 6
    assert drawn == 40


def test_killed_workers_tasks_run_again(tmp_path: Path) -> None:
    def kill_the_first_at_work() -> None:
        assert eventually(lambda: workers_at(tmp_path) == set(cluster.pids))
        os.kill(cluster.pids[0], signal.SIGKILL)
        (tmp_path / "go").touch()

    with dask_cluster(tmp_path / "dask") as cluster, open_pool(cluster.address, workers=1) as pool:
        run = pool.run(wait_for_go, ((number, tmp_path) for number in range(20)))
        threading.Thread(target=kill_the_first_at_work).start()
        results = list(run)
    assert sorted(results) == [(number, number) for number in range(20)]
    assert numbers_of(tmp_path, "done") == set(range(20))
    assert workers_at(tmp_path) == {cluster.pids[1]}  # each was begun last by the other


def test_worker_that_joins_gets_tasks(tmp_path: Path) -> None:
    with (
        dask_cluster(tmp_path / "dask", workers=1) as cluster,
        open_pool(cluster.address, workers=1) as pool,
    ):
        run = pool.run(wait_for_go, ((number, tmp_path) for number in range(20)))
        let_one_go(tmp_path)
        results = [next(run)]
        with add_worker(cluster, "late") as pid:
            assert eventually(lambda: pid in workers_at(tmp_path))
            (tmp_path / "go").touch()
            results += run
    assert sorted(results) == [(number, number) for number in range(20)]


def workers_at(folder: Path) -> set[int]:
    """The processes that started the tasks of `wait_for_go`, the last one where several did."""
    begun = [folder / f"{number}.begun" for number in numbers_of(folder, "begun")]
    return {int(text) for text in (path.read_text() for path in begun) if text}


# What goes wrong -------------------------------------------------------------------------------


def test_error_of_a_task_arrives_as_it_is(cluster: DaskCluster) -> None:
    with pytest.raises(BoxError) as caught, open_pool(cluster.address, workers=1) as pool:
        list(pool.run(fail_at, ((number, 3) for number in range(100))))
    assert caught.value.args == (
        "Annotations/1.xml",
        1,
        "dog",
        (1.0, 2.0, 501.0, 4.0),
        (500, 375),
        "devkit",
    )


def test_run_that_ends_early_waits_for_running_tasks_and_starts_no_more(
    tmp_path: Path, cluster: DaskCluster
) -> None:
    """Dask alone would forget the tasks that run, and they would go on after the pool."""
    with open_pool(cluster.address, workers=1) as pool:
        run = pool.run(wait_for_go, ((number, tmp_path) for number in range(100)))
        let_one_go(tmp_path)
        next(run)
        assert eventually(lambda: len(numbers_of(tmp_path, "begun")) == 3)
        leave_while_tasks_run(run.close, stopped(cluster), tmp_path)
    assert len(numbers_of(tmp_path, "begun")) == 3


def stopped(cluster: DaskCluster) -> Callable[[], bool]:
    """Tells whether every worker has been told, from now on, to start no more tasks."""
    before = cluster.logs().count(STOPPED)
    return lambda: cluster.logs().count(STOPPED) >= before + len(cluster.pids)


def test_no_secret_is_logged_or_shown(
    tmp_path: Path, cluster: DaskCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Dask logs the representation of a task that fails, and logs its key again and again."""
    folder = Folder(f"s3://me:{SECRET}@bucket/voc", {"secret": SECRET})
    with (
        pytest.raises(OSError, match="with 1 options") as caught,
        open_pool(cluster.address, workers=1) as pool,
    ):
        list(pool.run(fail_with, [(folder, {"secret": SECRET})]))
    assert eventually(lambda: "<a call of fail_with>" in cluster.logs())
    assert "Compute Failed" in cluster.logs()
    for text in (cluster.logs(), caplog.text, repr(caught.getrepr(style="long"))):
        assert SECRET not in text


@pytest.mark.parametrize("stalls", [1, 3])
def test_client_is_started_again_on_a_busy_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stalls: int
) -> None:
    """Dask asserts, without a message, that its thread started within 10 s."""
    import distributed  # slow to import

    start, started = distributed.Client.start, list[object]()

    def start_late(client: Any, **options: Any) -> Any:
        started.append(client)
        if len(started) <= stalls:
            raise AssertionError
        return start(client, **options)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(distributed.Client, "start", start_late)
    with dask_cluster(tmp_path, workers=1) as cluster:
        if stalls == 1:
            with open_pool(cluster.address, workers=1):
                assert len(started) == 2
            return
        with pytest.raises(ShardToolError) as caught, open_pool(cluster.address, workers=1):
            pass
        assert caught.value.place == cluster.address
        assert caught.value.problem == "Dask's thread did not start within 10 s, 3 times"


def test_unreachable_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_CONNECT_S", 1.0)
    with pytest.raises(ShardToolError) as caught, open_pool("tcp://127.0.0.1:1", workers=1):
        pass
    assert str(caught.value) == (
        "tcp://127.0.0.1:1: no Dask scheduler answered within 1 s; "
        "is the address right, the scheduler running, and reachable from here?"
    )


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tls://127.0.0.1:1"])
def test_client_that_cannot_connect_is_closed(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """An open one that the garbage collector meets while another starts blocks that for ever."""
    import distributed  # slow to import

    monkeypatch.setattr(engine, "_CONNECT_S", 0.3)
    with pytest.raises(ShardToolError), open_pool(address, workers=1):
        pass
    # by their types: other libraries' objects do things when they are asked for their class
    clients = [found for found in gc.get_objects() if issubclass(type(found), distributed.Client)]
    assert {client.status for client in clients} <= {"closed", "newly-created"}


def test_tls_without_certificates_is_a_clear_error() -> None:
    with pytest.raises(ShardToolError) as caught, open_pool("tls://127.0.0.1:1", workers=1):
        pass
    assert caught.value.place == "tls://127.0.0.1:1"
    assert "distributed.comm.tls" in caught.value.hint


def test_cluster_without_workers_is_an_error_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "_WORKERS_S", 1.0)
    with (
        dask_cluster(tmp_path, workers=0) as cluster,
        pytest.raises(ShardToolError) as caught,
        open_pool(cluster.address, workers=1),
    ):
        pass
    assert str(caught.value) == (
        f"{cluster.address}: the cluster has had no workers for 1 s; "
        f"start some: dask worker {cluster.address}"
    )
    assert f"{cluster.address}: no workers yet, waiting for the first" in caplog.messages


def test_cluster_that_loses_all_workers_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_WORKERS_S", 1.0)
    with dask_cluster(tmp_path / "dask") as cluster, open_pool(cluster.address, 1) as pool:
        run = pool.run(wait_for_go, ((number, tmp_path) for number in range(10)))
        kill_when_at_work(tmp_path, cluster, cluster.pids)
        with pytest.raises(ShardToolError, match="the cluster has had no workers for 1 s"):
            next(run)


def test_lost_scheduler_is_an_error(tmp_path: Path) -> None:
    with dask_cluster(tmp_path / "dask") as cluster, open_pool(cluster.address, 1) as pool:
        run = pool.run(wait_for_go, ((number, tmp_path) for number in range(10)))
        kill_when_at_work(tmp_path, cluster, [cluster.scheduler_pid])
        with pytest.raises(ShardToolError) as caught:
            next(run)
        (tmp_path / "go").touch()
    assert str(caught.value) == (
        f"{cluster.address}: the scheduler was lost, restarted, or told to drop our tasks; "
        "see its log; what is published stays"
    )


def kill_when_at_work(folder: Path, cluster: DaskCluster, pids: list[int]) -> None:
    def kill() -> None:
        assert eventually(lambda: workers_at(folder) == set(cluster.pids))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill).start()


def test_task_that_kills_its_workers_is_named(tmp_path: Path) -> None:
    with (
        dask_cluster(tmp_path, scheduler_preload=ONE_DEATH_IS_ENOUGH) as cluster,
        pytest.raises(ShardToolError) as caught,
        open_pool(cluster.address, workers=1) as pool,
    ):
        list(pool.run(be_killed, [()], label=lambda: "train-000007.tar"))
    assert str(caught.value) == (
        f"train-000007.tar: every worker of {cluster.address} that ran it died, 1 in all; "
        "were they killed, or out of memory? give a worker fewer threads"
    )


# Workers that would write other bytes ----------------------------------------------------------


def test_worker_of_another_release_is_refused(tmp_path: Path) -> None:
    with dask_cluster(tmp_path) as cluster, add_worker(cluster, "old", preload=OTHER_RELEASE):
        with pytest.raises(ShardToolError) as caught, open_pool(cluster.address, workers=1):
            pass
        assert str(caught.value) == (
            f"the worker {cluster.addresses['old']}: has voc-shards 0.0.9, this is {RELEASE}; "
            f"install voc-shards {RELEASE} there: another release writes other bytes"
        )


def test_worker_of_another_release_that_joins_late_is_refused(tmp_path: Path) -> None:
    with (
        dask_cluster(tmp_path / "dask", workers=1) as cluster,
        open_pool(cluster.address, workers=1) as pool,
    ):
        run = pool.run(wait_for_go, ((number, tmp_path) for number in range(20)))
        let_one_go(tmp_path)
        next(run)
        with add_worker(cluster, "old", preload=OTHER_RELEASE):
            errors: list[str] = []

            def draw() -> None:
                with pytest.raises(ShardToolError) as caught:
                    list(run)
                errors.append(f"{caught.value.place} {caught.value.problem}")

            leave_while_tasks_run(draw, stopped(cluster), tmp_path)
    place = f"the worker {cluster.addresses['old']}"
    assert errors == [f"{place} has voc-shards 0.0.9, this is {RELEASE}"]


def test_worker_without_voc_shards_is_refused(tmp_path: Path) -> None:
    with dask_cluster(tmp_path) as cluster, add_worker(cluster, "bare", preload=NOT_INSTALLED):
        with pytest.raises(ShardToolError) as caught, open_pool(cluster.address, workers=1):
            pass
        assert caught.value.place == f"the worker {cluster.addresses['bare']}"
        assert caught.value.problem == "lacks this voc-shards"


def test_run_goes_on_without_a_late_worker_that_lacks_voc_shards(tmp_path: Path) -> None:
    """It cannot read its task, logs the bytes of it, and leaves."""
    secret = {"secret": SECRET}
    with (
        dask_cluster(tmp_path / "dask", workers=1) as cluster,
        open_pool(cluster.address, workers=1) as pool,
    ):
        run = pool.run(wait_for_go, ((number, tmp_path, secret) for number in range(20)))
        let_one_go(tmp_path)
        results = [next(run)]
        with add_worker(cluster, "bare", preload=NOT_INSTALLED):
            assert eventually(lambda: "Failed to deserialize b" in cluster.logs())
            assert eventually(lambda: "End worker" in cluster.logs())
            (tmp_path / "go").touch()
            results += run
    assert sorted(results) == [(number, number) for number in range(20)]
    assert SECRET not in cluster.logs()


def test_scheduler_without_voc_shards_is_refused(tmp_path: Path) -> None:
    """The scheduler reads the tasks that it hands on."""
    with (
        dask_cluster(tmp_path, scheduler_preload=NOT_INSTALLED) as cluster,
        pytest.raises(ShardToolError) as caught,
        open_pool(cluster.address, workers=1),
    ):
        pass
    assert caught.value.place == f"the scheduler {cluster.address}"
    assert caught.value.problem == "lacks this voc-shards"
