"""Runs a function over many tasks and yields each result as soon as it is there.

This is the loop that all verbs share. It draws a task only when the engine can take one, and a run
that ends early waits for the tasks that have started. `engines` says where tasks run.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from shard_tool.tasks.dask_cluster import dask_cluster
from shard_tool.tasks.engines import LOCAL, check_engine
from shard_tool.tasks.local_processes import local_processes
from shard_tool.tasks.this_process import this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from shard_tool.tasks.engines import Engine

_CHECK_EVERY_S = 2.0
"""After so long without a result, the pool asks the engine whether any can come."""


@contextmanager
def open_pool(engine: str, workers: int) -> Iterator[Pool]:
    """Open a pool for one block; leaving the block waits for the tasks that have started.

    Args:
        engine: 'local', or the address of a Dask scheduler ('tcp://host:8786', 'tls://…').
        workers: Processes of the local engine; 1 means this process. A cluster decides by itself.

    Raises:
        OptionError: There is no such engine, or what it needs is not installed.
        ShardToolError: The cluster does not answer, has no workers, or would write other bytes.
    """
    check_engine(engine)
    if engine != LOCAL:
        opened = dask_cluster(engine)
    else:
        opened = this_process() if workers == 1 else local_processes(workers)
    with opened as its_engine:
        yield Pool(its_engine)


class Pool:
    """Runs tasks; `open_pool` makes one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Any, ...]],
        *,
        label: Callable[..., str] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Call `function` with the arguments of every task, and yield (number, result).

        Results come in the order in which tasks finish. Tasks are drawn one by one, so memory does
        not grow with their number.

        A run may end early: by a task's error, which is raised as it is, by Ctrl-C, or because the
        caller leaves the loop. Then no more tasks start, and the run waits for those that have
        started. The pool cannot be used again. A second Ctrl-C ends the waiting.

        Args:
            function: Other processes must be able to import it by its name.
            tasks: The arguments of each task. They may hold secrets: no engine shows them.
            label: Returns what messages call the task with these arguments; None: its number.

        Raises:
            ShardToolError: The engine failed, not the task.
        """
        engine, numbered = self._engine, enumerate(tasks)
        in_flight: dict[Future[Any], tuple[int, str]] = {}
        done: SimpleQueue[Future[Any]] = SimpleQueue()
        try:
            while True:
                for number, task in islice(
                    numbered, max(0, engine.max_in_flight() - len(in_flight))
                ):
                    its_label = label(*task) if label else f"task {number}"
                    with engine.errors(its_label):
                        future = engine.submit(function, task)
                    in_flight[future] = (number, its_label)
                    future.add_done_callback(done.put)
                if not in_flight:
                    return
                future = _next(done, engine)
                number, its_label = in_flight.pop(future)
                with engine.errors(its_label):
                    result = future.result()
                yield number, result
        finally:
            if in_flight:
                engine.finish()


def in_order(results: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """Yield the results of `Pool.run` in the order of its tasks; keeps those that come early."""
    early, next_number = dict[int, Any](), 0
    for number, result in results:
        early[number] = result
        while next_number in early:
            yield early.pop(next_number)
            next_number += 1


def _next(done: SimpleQueue[Future[Any]], engine: Engine) -> Future[Any]:
    while True:
        try:
            return done.get(timeout=_CHECK_EVERY_S)
        except Empty:
            engine.check()
