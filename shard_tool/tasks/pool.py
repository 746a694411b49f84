"""Runs a function over many tasks, here or elsewhere, and hands the results back as they come.

Owns the loop that every verb shares: tasks are drawn when there is room for them, and a run that
ends early ends in order. Where tasks run is the engine's business (`engines`).
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
"""Where no result comes for so long, the engine is asked whether any will."""


@contextmanager
def open_pool(engine: str, workers: int) -> Iterator[Pool]:
    """A pool for as long as the block runs; leaving it waits for tasks that have begun.

    Args:
        engine: 'local', or the address of a Dask scheduler ('tcp://host:8786', 'tls://…').
        workers: Processes of the local engine; 1: this one. A cluster has what it has.

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
    """Where tasks run, however many at a time; see `open_pool`."""

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

        Results come in order of completion. Tasks are drawn when there is room for them, so memory
        does not grow with their number. A run that ends early (a task's error, which is raised as
        it is, Ctrl-C, or a loop that is left) begins no task more and waits for those that have
        begun; then the pool is spent. A second Ctrl-C does not wait.

        Args:
            function: Has a name by which processes elsewhere can import it.
            tasks: Arguments of each; they may hold secrets, no engine shows them.
            label: What messages call the task with these arguments; None: its number.

        Raises:
            ShardToolError: The engine failed, not the task.
        """
        engine, numbered = self._engine, enumerate(tasks)
        in_flight: dict[Future[Any], tuple[int, str]] = {}
        done: SimpleQueue[Future[Any]] = SimpleQueue()
        try:
            while True:
                for number, task in islice(numbered, max(0, engine.room() - len(in_flight))):
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


def _next(done: SimpleQueue[Future[Any]], engine: Engine) -> Future[Any]:
    while True:
        try:
            return done.get(timeout=_CHECK_EVERY_S)
        except Empty:
            engine.check()
