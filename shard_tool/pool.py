"""The processes that convert and verify: one executor, however many workers."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shard_tool.errors import ShardToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Inline(Executor):
    """Runs a task in this process, when its result is asked for."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _LazyFuture(lambda: fn(*args, **kwargs))


class _LazyFuture(Future[Any]):
    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__()
        self._run = run

    def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002  (nothing to wait for)
        if not self.done():
            self.set_result(self._run())
        return super().result()


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it.

    A terminal sends SIGINT to the whole group: the parent drops the tasks not begun, a worker
    finishes its own. A parent that was killed can drop nothing: without this its workers would
    wait for ever, and go on with tasks they have while another conversion writes there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """An executor of `workers` processes; one worker is this process.

    Processes come from a fork server (where there is one), never from a fork of this process,
    whose threads and locks they would inherit. Leaving the block drops tasks not yet begun and
    waits for those that are.

    Raises:
        ShardToolError: A worker died.
    """
    if workers == 1:
        yield _Inline()
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["shard_tool.convert", "shard_tool.verify"])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield pool
    except BrokenProcessPool as exc:
        problem = "a worker process died (killed, or out of memory?)"
        hint = "try fewer workers; a script must call this under `if __name__ == '__main__':`"
        raise ShardToolError(f"{workers} workers", problem, hint) from exc
    finally:
        pool.shutdown(cancel_futures=True)
