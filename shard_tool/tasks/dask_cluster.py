"""Runs tasks on the workers of a Dask cluster.

All workers must have this release of voc-shards: another one could write other bytes. Dask runs the
tasks of a lost worker again on another worker.
"""

from __future__ import annotations

import logging
import math
import pickle
import threading
import time
import uuid
import zlib
from collections import Counter
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shard_tool.errors import ShardToolError
from shard_tool.release import RELEASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shard_tool.tasks.engines import Engine

_CONNECT_S = 8.0
"""A scheduler that does not answer within this time counts as unreachable."""
_STARTS = 3
"""How many times a client is started on a machine that is too busy for it."""
_WORKERS_S = 30.0
"""How long a cluster may be without any worker, at the start or later."""
_POLL_S = 0.1
_ASK_EVERY_S = 2.0
"""How old the known number of the cluster's threads may be."""

_log = logging.getLogger(__name__)


@contextmanager
def dask_cluster(address: str) -> Iterator[Engine]:
    """Open an engine on the workers of a Dask scheduler; workers that join later get tasks, too.

    Raises:
        ShardToolError: No scheduler answers at `address`, no worker comes, or one has another
            release.
    """
    try:
        client = _dask_client(address)
    except OSError as exc:
        problem = f"no Dask scheduler answered within {_CONNECT_S:.0f} s"
        hint = "is the address right, the scheduler running, and reachable from here?"
        raise ShardToolError(address, problem, hint) from exc
    except (TypeError, ValueError, RuntimeError) as exc:  # as Dask says that it has no certificates
        hint = "Dask takes certificates from its own configuration, distributed.comm.tls"
        raise ShardToolError(address, f"cannot be connected to: {exc}", hint) from exc
    with client:
        engine = _DaskCluster(address, client)
        engine.begin()
        try:
            yield engine
        finally:
            engine.finish()


def _dask_client(address: str) -> Any:
    """Connect to a scheduler.

    Dask gives its thread 10 s to start, and asserts that it did. A busy machine may need longer, so
    this tries again.

    Raises:
        ShardToolError: The thread did not start, several times.
        Exception: Dask's own.
    """
    import distributed  # optional, and slow to import

    class Client(distributed.Client):
        """Closes itself if it cannot start.

        Dask leaves that to the garbage collector. The collector may run while another client
        starts, inside the very lock that closing needs, and then that thread waits for ever.
        """

        def start(self, **options: Any) -> None:
            try:
                super().start(**options)  # type: ignore[no-untyped-call]
            except BaseException:
                self.close()  # type: ignore[no-untyped-call]
                raise

    for _ in range(_STARTS):
        with suppress(AssertionError):
            return Client(  # type: ignore[no-untyped-call]
                address, timeout=_CONNECT_S, set_as_default=False
            )
    problem = f"Dask's thread did not start within 10 s, {_STARTS} times"
    raise ShardToolError(address, problem, "is this machine overloaded? Try again when it is not")


class _DaskCluster:
    """The executor of a Dask client."""

    def __init__(self, address: str, client: Any) -> None:
        self._address, self._client = address, client
        self._executor = client.get_executor(pure=False)
        self._pool = uuid.uuid4().hex
        self._in_flight: set[Future[Any]] = set()
        self._num_threads = 0
        self._asked_at, self._had_threads_at = -math.inf, time.monotonic()

    def begin(self) -> None:
        """Wait for the first worker, and check the release of all that are there."""
        self._ask()
        if not self._num_threads:
            _log.warning("%s: no workers yet, waiting for the first", self._address)
        while not self._num_threads:
            time.sleep(_ASK_EVERY_S)
            self._ask()
        self._check_releases()

    def max_in_flight(self) -> int:
        self._ask()
        return 2 * self._num_threads + 2

    def submit(self, function: Callable[..., Any], task: tuple[Any, ...]) -> Future[Any]:
        call = _sealed(self._pool, function, task)
        key = f"{call.name}-{uuid.uuid4().hex}"  # Dask's pages show the first part
        future: Future[Any] = self._executor.submit(call, key=key)
        self._in_flight.add(future)
        future.add_done_callback(self._in_flight.discard)
        return future

    def check(self) -> None:
        self._ask()

    def finish(self) -> None:
        """Tell workers to start no more tasks, and wait until none of ours runs.

        To cancel the tasks would not be enough: Dask forgets a task that runs, and the task goes
        on.
        """
        futures = tuple(self._in_flight)
        while futures and self._client.status == "running":
            try:
                running = self._on_workers(_stop_here, self._pool).values()
            except ShardToolError as exc:
                _log.warning(
                    "cannot wait for tasks that run: %s", exc
                )  # the caller raises what led here
                return
            for future in futures:
                future.cancel()
            if not any(isinstance(count, int) and count for count in running):
                return
            time.sleep(_POLL_S)

    @contextmanager
    def errors(self, label: str) -> Iterator[None]:
        import distributed

        try:
            yield
        except CancelledError as exc:
            raise self._lost() from exc
        except distributed.KilledWorker as exc:
            times = exc.allowed_failures + 1
            problem = f"every worker of {self._address} that ran it died, {times} in all"
            hint = "were they killed, or out of memory? give a worker fewer threads"
            raise ShardToolError(label, problem, hint) from exc

    def _ask(self) -> None:
        """Count the cluster's threads, if the last count is too old.

        Raises:
            ShardToolError: The cluster has had no worker for too long, or the scheduler is gone.
        """
        now = time.monotonic()
        if now - self._asked_at < _ASK_EVERY_S:
            return
        if self._client.status != "running":  # tasks are lost even if it connects again
            raise self._lost()
        try:
            self._num_threads = sum(self._client.nthreads().values())
        except OSError as exc:
            raise self._lost() from exc
        self._asked_at = time.monotonic()
        if self._num_threads:
            self._had_threads_at = now
        elif now - self._had_threads_at > _WORKERS_S:
            problem = f"the cluster has had no workers for {_WORKERS_S:.0f} s"
            hint = f"start some: dask worker {self._address}"
            raise ShardToolError(self._address, problem, hint)

    def _check_releases(self) -> None:
        """Refuse workers of another release, and a scheduler that cannot read our tasks."""
        try:
            on_scheduler: Any = self._client.run_on_scheduler(_release_here)
        except (ImportError, AttributeError) as exc:
            on_scheduler = exc
        except OSError as exc:
            raise self._lost() from exc
        found = {f"the scheduler {self._address}": on_scheduler}
        on_workers = self._on_workers(_release_here)
        found |= {f"the worker {address}": release for address, release in on_workers.items()}
        for place, release in found.items():
            if isinstance(release, OSError):
                continue  # it has just left
            if isinstance(release, Exception):  # an ImportError may have lost its type on the way
                raise _other_release(place, None, RELEASE) from release
            if release != RELEASE:
                raise _other_release(place, release, RELEASE)

    def _on_workers(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Call a function in every worker's process; address to what it returned or raised."""
        try:
            found: dict[str, Any] = self._client.run(function, *arguments, on_error="return")
        except OSError as exc:
            raise self._lost() from exc
        return found

    def _lost(self) -> ShardToolError:
        problem = "the scheduler was lost, restarted, or told to drop our tasks"
        return ShardToolError(self._address, problem, "see its log; what is published stays")


def _other_release(place: str, found: str | None, expected: str) -> ShardToolError:
    problem = f"has voc-shards {found}, this is {expected}" if found else "lacks this voc-shards"
    hint = f"install voc-shards {expected} there: another release writes other bytes"
    return ShardToolError(place, problem, hint)


# All below runs in a worker of a cluster: a process whose threads may serve several pools.


@dataclass(frozen=True, slots=True, repr=False)
class _Call:
    """A task on its way to a worker, compressed so that Dask shows nothing of its arguments.

    Arguments hold storage options, which hold secrets. Dask logs the representation of a task that
    fails. It even logs the bytes of a task that a worker cannot unpickle, such as a late worker
    without voc-shards. Compression keeps secrets out of logs and searches. It does not stop
    somebody who means to read them.
    """

    pool: str
    release: str
    name: str
    sealed: bytes

    def __repr__(self) -> str:
        return f"<a call of {self.name}>"

    def __call__(self) -> Any:
        _check_release(self.release)
        function, task = pickle.loads(zlib.decompress(self.sealed))
        with _here.running(self.pool):
            return function(*task)


def _sealed(pool: str, function: Callable[..., Any], task: tuple[Any, ...]) -> _Call:
    content = zlib.compress(pickle.dumps((function, task)), level=1)
    return _Call(pool, RELEASE, function.__name__.strip("_"), content)


class _Running:
    """Counts the calls of each pool that run in this process, and knows the stopped pools."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_running: Counter[str] = Counter()
        self._stopped: set[str] = set()

    @contextmanager
    def running(self, pool: str) -> Iterator[None]:
        with self._lock:
            if pool in self._stopped:
                raise CancelledError
            self._num_running[pool] += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_running[pool] -= 1

    def stop(self, pool: str) -> int:
        """Start no more calls of a pool; how many still run."""
        with self._lock:
            self._stopped.add(pool)
            return self._num_running[pool]


_here = _Running()


def _stop_here(pool: str) -> int:
    return _here.stop(pool)


def _release_here() -> str:
    return RELEASE


def _check_release(expected: str) -> None:
    """Refuse a task of another release: this worker may have joined after the check."""
    if expected != RELEASE:
        import distributed

        place = f"the worker {distributed.get_worker().address}"
        raise _other_release(place, RELEASE, expected)
