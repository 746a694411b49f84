"""Runs tasks in processes of this machine.

The processes come from a fork server where there is one. They never come from a fork of this
process, because a fork would inherit its threads and locks.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import threading
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shard_tool.errors import ShardToolError
from shard_tool.tasks.engines import LOCAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from shard_tool.tasks.engines import Engine

_PRELOADED = [
    f"shard_tool.{name}"
    for name in ("convert.run", "dataset.index", "dataset.copy", "dataset.verify", "cli.app")
]
"""The fork server imports these once, so that no worker has to; `cli.app` is their ``__main__``."""


def start_early(engine: str, workers: int) -> None:
    """Let the fork server import what workers need while the caller still plans.

    Does nothing where there is no fork server, or the engine needs none.
    """
    if engine == LOCAL and workers > 1 and "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
        multiprocessing.forkserver.ensure_running()


class _LocalProcesses:
    """An executor, and two pipes that tell every worker to stop.

    The first pipe means: start no more tasks. The second means: exit at once. The executor itself
    can do neither. It puts tasks into a queue of its processes, where they cannot be cancelled, and
    it waits for its processes however long they take. Pipes do this better than events: an event
    holds a lock, which a killed worker would never release.
    """

    def __init__(self, workers: int) -> None:
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(_PRELOADED)
        heard_stop, self._stop = context.Pipe(duplex=False)
        heard_exit, self._exit = context.Pipe(duplex=False)
        self._heard = (heard_stop, heard_exit)  # kept open: workers start when there is work
        self._workers = workers
        self._executor = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin_worker, initargs=self._heard
        )

    def max_in_flight(self) -> int:
        return 2 * self._workers + 2

    def submit(self, function: Callable[..., Any], task: tuple[Any, ...]) -> Future[Any]:
        return self._executor.submit(_call_in_worker, function, task)

    def check(self) -> None:
        pass  # the executor notices by itself when a process dies

    def finish(self) -> None:
        self._stop.close()
        try:
            self._executor.shutdown(cancel_futures=True)
        except BaseException:  # Ctrl-C, most likely
            self._exit.close()
            self._executor.shutdown()
            raise

    @contextmanager
    def errors(self, label: str) -> Iterator[None]:  # noqa: ARG002  (the executor does not say whose worker died)
        try:
            yield
        except BrokenProcessPool as exc:
            problem = "a worker process died (killed, or out of memory?)"
            hint = "try fewer workers; a script must call this under `if __name__ == '__main__':`"
            raise ShardToolError(f"{self._workers} workers", problem, hint) from exc

    def close(self) -> None:
        try:
            self.finish()
        finally:
            for connection in (self._exit, *self._heard):
                connection.close()


@contextmanager
def local_processes(workers: int) -> Iterator[Engine]:
    """Open an engine of so many processes."""
    engine = _LocalProcesses(workers)
    try:
        yield engine
    finally:
        engine.close()


_is_stopped: Callable[[], bool]
"""In a worker process: tells whether no task may start any more."""


def _begin_worker(heard_stop: Connection, heard_exit: Connection) -> None:
    """Ignore Ctrl-C, which is the parent's to handle, and exit when the parent dies.

    A terminal sends SIGINT to the whole group. The parent then drops the tasks that have not
    started, and each worker finishes its own. A parent that was killed can drop nothing. Without
    this, its workers would wait for ever, and would work on while another run writes there.
    """
    global _is_stopped
    gc.freeze()  # imported modules stay, so the collector need not look at them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _is_stopped = heard_stop.poll  # nothing is ever sent: only the end can be read
    parent = multiprocessing.parent_process()
    assert parent is not None
    ends = (parent.sentinel, heard_exit)
    threading.Thread(target=_exit_with, args=(ends,), daemon=True).start()


def _exit_with(ends: tuple[Connection | int, ...]) -> None:
    multiprocessing.connection.wait(ends)
    os._exit(1)


def _call_in_worker(function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    if _is_stopped():
        raise CancelledError
    return function(*task)
