"""Runs tasks in processes of this machine."""

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
    """Let a local engine's fork server import what workers need while the caller still plans.

    Does nothing where there is no such server, or none is needed.
    """
    if engine == LOCAL and workers > 1 and "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
        multiprocessing.forkserver.ensure_running()


class _LocalProcesses:
    """An executor, and two pipes whose end every worker sees: begin nothing more; exit at once.

    The executor can do neither: it puts tasks into its processes' queue before they begin, where
    they cannot be cancelled, and it waits for processes however long they take. Pipes, unlike
    events, hold no lock that a killed worker could keep.
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

    def room(self) -> int:
        return 2 * self._workers + 2

    def submit(self, function: Callable[..., Any], task: tuple[Any, ...]) -> Future[Any]:
        return self._executor.submit(_call_in_worker, function, task)

    def check(self) -> None:
        pass  # the executor itself notices when a process dies

    def finish(self) -> None:
        self._stop.close()
        try:
            self._executor.shutdown(cancel_futures=True)
        except BaseException:  # Ctrl-C, most likely
            self._exit.close()
            self._executor.shutdown()
            raise

    @contextmanager
    def errors(self, label: str) -> Iterator[None]:  # noqa: ARG002  (nobody knows whose it was)
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
    """An engine of so many processes.

    They come from a fork server (where there is one), never from a fork of this process, whose
    threads and locks they would inherit.
    """
    engine = _LocalProcesses(workers)
    try:
        yield engine
    finally:
        engine.close()


_is_stopped: Callable[[], bool]
"""In a worker process: whether no task may begin any more."""


def _begin_worker(heard_stop: Connection, heard_exit: Connection) -> None:
    """Leave Ctrl-C to the parent, and do not outlive it.

    A terminal sends SIGINT to the whole group: the parent drops the tasks not begun, a worker
    finishes its own. A parent that was killed can drop nothing: without this its workers would
    wait for ever, and go on with tasks they have while another conversion writes there.
    """
    global _is_stopped
    gc.freeze()  # what was imported stays, and need not be looked at again and again
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _is_stopped = heard_stop.poll  # nothing is ever sent: what there is to read is the end
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
