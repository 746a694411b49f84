"""An HTTP proxy that records, slows and breaks the requests that pass through it.

Requests and answers pass unchanged, also the Host header, which S3 signs. A fault changes one
answer of the real server behind it:

    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        proxy.inject(Fault("cut-rst", at=0.9))
        options = s3.through(proxy).storage_options
        ...
        assert proxy.hits == 1
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.kit.faults.kinds import Fault, Request
from tests.kit.servers.proxy_connections import ProxyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Sign = Callable[[str, str, Mapping[str, str]], Mapping[str, str]]


__all__ = ["Fault", "FaultProxy", "Request", "fault_proxy"]


class FaultProxy:
    """Records requests and injects faults; attributes may be changed while it runs."""

    def __init__(self, upstream_url: str) -> None:
        upstream = urlsplit(upstream_url)
        self.upstream = (upstream.hostname, upstream.port or 80)
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.link_bytes_per_s: float | None = None
        """Limit of the bodies on all connections together: a node's bandwidth."""
        self.sign: Sign | None = None
        self.on_request: Callable[[Request], None] | None = None
        """Called before a request is passed on, by a thread of the proxy."""
        self.requests: list[Request] = []
        """In order of arrival."""
        self.hits = 0
        """The number of requests that got a fault."""
        self.num_connections = 0
        self.stopped = threading.Event()
        self._queue: list[Fault] = []
        self._link_free_s = 0.0
        self._lock = threading.RLock()  # a fault's `where` may look at the proxy
        self._server = ProxyServer(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def body_bytes(self) -> int:
        """Bytes of bodies sent to clients, over all answers."""
        return sum(request.body_bytes for request in self.requests)

    def round_trips(self) -> int:
        """The longest chain of requests of which each started after the one before had ended.

        Concurrent requests count once: this is the cost of waiting, in units of the latency.
        Without a `latency_s` concurrent requests may still follow one another.
        """
        count, free_s = 0, -math.inf
        ended = [(r.ended_s, r.started_s) for r in self.requests if r.ended_s is not None]
        for ended_s, started_s in sorted(ended):
            if started_s >= free_s:
                count, free_s = count + 1, ended_s
        return count

    def inject(self, *faults: Fault) -> None:
        """Queue faults; a request gets the first one that applies to it."""
        with self._lock:
            for fault in faults:
                self._queue += [fault] * (1 if fault.times is None else fault.times)

    def clear(self) -> None:
        """Drop the faults that are still queued."""
        with self._lock:
            self._queue.clear()

    def reset(self) -> None:
        """Forget the recorded requests; faults stay queued."""
        with self._lock:
            self.requests, self.hits, self.num_connections = [], 0, 0

    def stats(self) -> dict[str, float]:
        """Counts of the requests since the last `reset`."""
        return {
            "requests": len(self.requests),
            "body_bytes": self.body_bytes,
            "round_trips": self.round_trips(),
            "hits": self.hits,
            "connections": self.num_connections,
            "cpu_s": time.process_time(),
        }

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()  # waits for the connections, too

    def link_due_s(self, num_bytes: int) -> float:
        """The time at which the link has passed these bytes, after all earlier ones."""
        if self.link_bytes_per_s is None:
            return 0.0
        with self._lock:
            free_s = max(self._link_free_s, time.perf_counter())
            self._link_free_s = free_s + num_bytes / self.link_bytes_per_s
            return self._link_free_s

    def connected(self) -> None:
        """Count a connection."""
        with self._lock:
            self.num_connections += 1

    def arrived(self, request: Request) -> Fault | None:
        """Record a request and return the fault it gets."""
        with self._lock:
            earlier = [(r.path, r.range) for r in self.requests if r.fault is not None]
            self.requests.append(request)
            fault = next((fault for fault in self._queue if fault.meets(request)), None)
            if fault is not None:
                request.fault = fault.kind
                self.hits += 1
                request.hit_number = 1 + earlier.count((request.path, request.range))
                if fault.times is not None:
                    self._queue.remove(fault)
        return fault


@contextmanager
def fault_proxy(
    upstream_url: str,
    latency_s: float = 0.0,
    bytes_per_s: float | None = None,
    sign: Sign | None = None,
) -> Iterator[FaultProxy]:
    """Run a proxy in this process.

    Args:
        upstream_url: The server behind it; http only.
        latency_s: Seconds that every request waits before it is passed on.
        bytes_per_s: Limit of the bodies on one connection.
        sign: Signs a request: returns its headers, from its method, target and headers. Only
            faults of ranges need it, where a signature covers the Range header: `S3.sign`.
    """
    proxy = FaultProxy(upstream_url)
    proxy.latency_s, proxy.bytes_per_s, proxy.sign = latency_s, bytes_per_s, sign
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
