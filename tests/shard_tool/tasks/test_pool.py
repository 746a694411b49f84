"""A pool runs every task once, a few at a time, and ends them in order."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_tool.errors import BoxError, OptionError, ShardToolError
from shard_tool.tasks import local_processes
from shard_tool.tasks.pool import in_order, open_pool
from tests.kit.processes.pool_tasks import (
    be_killed,
    fail_at,
    leave_while_tasks_run,
    let_one_go,
    numbers_of,
    process_id,
    square,
    wait_for_go,
)
from tests.kit.processes.shard_tool_process import eventually, group_is_gone, group_of_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shard_tool.tasks.pool import Pool

INTERRUPTED = """
import sys, threading, time
from pathlib import Path
from shard_tool.tasks.pool import open_pool
from tests.kit.processes.pool_tasks import wait_for_go

def tell_when_stopped(pool):
    while not pool._engine._stop.closed:
        time.sleep(0.01)
    print("stopped", flush=True)

folder, lives_on_s = Path(sys.argv[1]), float(sys.argv[2])
try:
    with open_pool("local", 2) as pool:
        threading.Thread(target=tell_when_stopped, args=(pool,), daemon=True).start()
        list(pool.run(wait_for_go, ((number, folder) for number in range(100))))
except KeyboardInterrupt:
    print("interrupted", flush=True)
    time.sleep(lives_on_s)
"""


# What comes back -------------------------------------------------------------------------------


@given(st.permutations(range(12)))
def test_results_in_order_come_as_soon_as_all_before_them_are_there(order: list[int]) -> None:
    drawn = list[int]()

    def results() -> Iterator[tuple[int, str]]:
        for number in order:
            drawn.append(number)
            yield number, f"result {number}"

    for expected, result in enumerate(in_order(results())):
        assert result == f"result {expected}"
        there = max(order.index(number) for number in range(expected + 1))
        assert drawn == order[: there + 1]
    assert len(drawn) == 12


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_comes_back_once_with_its_number(workers: int) -> None:
    with open_pool("local", workers) as pool:
        results = list(pool.run(square, ((number,) for number in range(50))))
    assert sorted(results) == [(number, number * number) for number in range(50)]


def test_pool_can_run_several_times() -> None:
    with open_pool("local", 2) as pool:
        assert list(pool.run(square, [])) == []
        assert list(pool.run(square, [(3,)])) == [(0, 9)]
        assert list(pool.run(square, [(4,)])) == [(0, 16)]


def test_one_worker_means_this_process_and_keeps_the_order() -> None:
    with open_pool("local", 1) as pool:
        assert list(pool.run(process_id, [()])) == [(0, os.getpid())]
        assert [number for number, _ in pool.run(square, [(1,)] * 20)] == list(range(20))


def test_workers_are_other_processes() -> None:
    with open_pool("local", 2) as pool:
        pids = {pid for _, pid in pool.run(process_id, [()] * 20)}
    assert pids
    assert os.getpid() not in pids


@pytest.mark.parametrize(("workers", "most"), [(1, 1), (2, 6)])
def test_tasks_are_drawn_a_few_at_a_time(workers: int, most: int) -> None:
    """Memory must not grow with the number of tasks."""
    drawn = 0

    def tasks() -> Iterator[tuple[int]]:
        nonlocal drawn
        for number in range(40):
            drawn += 1
            yield (number,)

    with open_pool("local", workers) as pool:
        for got, _ in enumerate(pool.run(square, tasks()), start=1):
            assert got <= drawn < got + most
    assert drawn == 40


@pytest.mark.parametrize("name", local_processes._PRELOADED)
def test_fork_server_preloads_modules_that_exist(name: str) -> None:
    """It passes over a name it cannot import, and each worker imports the module by itself."""
    importlib.import_module(name)


# What goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_error_of_a_task_arrives_as_it_is(workers: int) -> None:
    with pytest.raises(BoxError) as caught, open_pool("local", workers) as pool:
        list(pool.run(fail_at, ((number, 3) for number in range(100))))
    assert caught.value.args == (
        "Annotations/1.xml",
        1,
        "dog",
        (1.0, 2.0, 501.0, 4.0),
        (500, 375),
        "devkit",
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_error_while_drawing_tasks_arrives_as_it_is(workers: int) -> None:
    def tasks() -> Iterator[tuple[int]]:
        yield (1,)
        raise LookupError("the source is gone")

    with pytest.raises(LookupError, match="is gone"), open_pool("local", workers) as pool:
        list(pool.run(square, tasks()))


def test_worker_that_dies_is_a_clear_error() -> None:
    with pytest.raises(ShardToolError) as caught, open_pool("local", 2) as pool:
        list(pool.run(be_killed, [()]))
    assert str(caught.value) == (
        "2 workers: a worker process died (killed, or out of memory?); "
        "try fewer workers; a script must call this under `if __name__ == '__main__':`"
    )


@pytest.mark.slow
def test_run_that_ends_early_waits_for_running_tasks_and_starts_no_more(tmp_path: Path) -> None:
    """Not even those that the executor has queued for its processes and cannot cancel."""
    with open_pool("local", 2) as pool:
        run = pool.run(wait_for_go, ((number, tmp_path) for number in range(100)))
        let_one_go(tmp_path)
        next(run)
        assert eventually(lambda: len(numbers_of(tmp_path, "begun")) == 3)
        leave_while_tasks_run(run.close, stopped(pool), tmp_path)
    assert len(numbers_of(tmp_path, "begun")) == 3


@pytest.mark.slow
def test_block_that_raises_ends_the_run_in_order(tmp_path: Path) -> None:
    """The traceback of an exception in the loop's body keeps the run alive."""
    pools: list[Pool] = []

    def leave() -> None:
        with pytest.raises(LookupError), open_pool("local", 2) as pool:  # noqa: PT012
            for _ in pool.run(wait_for_go, ((number, tmp_path) for number in range(100))):
                assert eventually(lambda: len(numbers_of(tmp_path, "begun")) == 3)
                pools.append(pool)
                raise LookupError

    let_one_go(tmp_path)
    leave_while_tasks_run(leave, lambda: bool(pools) and stopped(pools[0])(), tmp_path)
    assert len(numbers_of(tmp_path, "begun")) == 3


def stopped(pool: Pool) -> Callable[[], bool]:
    return lambda: pool._engine._stop.closed  # type: ignore[attr-defined]


# Ctrl-C ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_waits_for_running_tasks_and_starts_no_more(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path), "0"]
    with group_of_processes(command) as process:
        assert eventually(lambda: numbers_of(tmp_path, "begun") == {0, 1})
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        assert process.poll() is None
        (tmp_path / "go").touch()
        assert process.communicate(timeout=30) == ("interrupted\n", "")
        assert numbers_of(tmp_path, "begun") == numbers_of(tmp_path, "done") == {0, 1}
        assert eventually(lambda: group_is_gone(process))


@pytest.mark.slow
def test_second_ctrl_c_ends_the_tasks_at_once(tmp_path: Path) -> None:
    """The tasks would wait for ever, and the parent lives on."""
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path), "300"]
    with group_of_processes(command) as process:
        assert eventually(lambda: numbers_of(tmp_path, "begun") == {0, 1})
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        workers = [Path(f"/proc/{path.read_text()}") for path in tmp_path.glob("*.begun")]
        assert eventually(lambda: not any(worker.exists() for worker in workers))
        assert process.poll() is None
        assert numbers_of(tmp_path, "done") == set()


# Which engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["", "lokal", "dask", "tcp://host", "http://host:8786"])
def test_unknown_engine_is_refused(engine: str) -> None:
    with pytest.raises(OptionError) as caught, open_pool(engine, 2):
        pass
    assert str(caught.value) == (
        f"--engine: {engine!r} is no engine; give 'local', or a Dask scheduler as 'tcp://host:8786'"
    )


def test_cluster_without_dask_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(OptionError) as caught, open_pool("tcp://host:8786", 2):
        pass
    assert str(caught.value) == (
        "--engine: 'tcp://host:8786' needs Dask; pip install 'voc-shards[dask]'"
    )
