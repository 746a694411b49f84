"""An HTTP proxy that watches, slows and breaks what passes through it.

Requests and answers pass as they are: the Host header too, which S3 signs. A fault is put into one
answer of the real server behind:

    with fault_proxy(s3.endpoint_url, sign=s3.sign) as proxy:
        proxy.inject(Fault("cut-rst", at=0.9))
        options = s3.through(proxy).storage_options
        ...
        assert proxy.hits == 1

For benchmarks it runs in a process of its own (`proxy_process`, or by hand
``python -m tests.kit.servers.fault_proxy --upstream URL --latency-ms 20``): it prints
{"url": ...}, answers every line of its standard input with a line of JSON, and ends with that
input. The lines: ``stats``, ``reset``, ``clear``, or a fault such as
``{"kind": "stall", "at": 0.1}``.
"""

from __future__ import annotations

import argparse
import json
import math
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tests.kit.faults.kinds import (
    INSTEAD,
    OF_BODIES,
    OF_RANGES,
    Fault,
    Request,
    answer_instead,
    other_range,
    parse_range,
    placed,
    shortened,
)
from tests.kit.servers.http_wire import Head, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tests.kit.servers.http_wire import Chunk

    Sign = Callable[[str, str, Mapping[str, str]], Mapping[str, str]]

__all__ = ["Fault", "FaultProxy", "ProxyProcess", "Request", "fault_proxy", "proxy_process"]

PACE_S = 0.01
"""How long the chunks are that a limited connection sends."""
_GOLDEN = 0.618
"""Its multiples lie far apart between 0 and 1."""


class FaultProxy:
    """What the proxy saw and what it is to do; attributes may be changed while it runs."""

    def __init__(self, upstream_url: str) -> None:
        upstream = urlsplit(upstream_url)
        self.upstream = (upstream.hostname, upstream.port or 80)
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.link_bytes_per_s: float | None = None
        """The most that bodies on all connections together get: a node's bandwidth."""
        self.sign: Sign | None = None
        self.on_request: Callable[[Request], None] | None = None
        """Called before a request is passed on, by a thread of the proxy."""
        self.requests: list[Request] = []
        """In order of arrival."""
        self.hits = 0
        """How many requests got a fault."""
        self.num_connections = 0
        self.stopped = threading.Event()
        self._queue: list[Fault] = []
        self._link_free_s = 0.0
        self._lock = threading.RLock()  # a fault's `where` may look at the proxy
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def body_bytes(self) -> int:
        """Of all answers, as far as they were sent to clients."""
        return sum(request.body_bytes for request in self.requests)

    def round_trips(self) -> int:
        """The longest chain of requests of which each started after the one before had ended.

        Requests side by side count once: this is what waiting costs, in units of the latency.
        Without a `latency_s` requests side by side may still come one after the other.
        """
        count, free_s = 0, -math.inf
        ended = [(r.ended_s, r.started_s) for r in self.requests if r.ended_s is not None]
        for ended_s, started_s in sorted(ended):
            if started_s >= free_s:
                count, free_s = count + 1, ended_s
        return count

    def inject(self, *faults: Fault) -> None:
        """Queue faults; a request gets the first that meets it."""
        with self._lock:
            for fault in faults:
                self._queue += [fault] * (1 if fault.times is None else fault.times)

    def clear(self) -> None:
        """Drop the faults that are still queued."""
        with self._lock:
            self._queue.clear()

    def reset(self) -> None:
        """Forget what was seen; faults stay queued."""
        with self._lock:
            self.requests, self.hits, self.num_connections = [], 0, 0

    def stats(self) -> dict[str, float]:
        """What was seen since the last `reset`, in numbers."""
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
        """When so many bytes, after all that were asked for before, have passed the link."""
        if self.link_bytes_per_s is None:
            return 0.0
        with self._lock:
            free_s = max(self._link_free_s, time.perf_counter())
            self._link_free_s = free_s + num_bytes / self.link_bytes_per_s
            return self._link_free_s

    def connected(self) -> None:
        """Note a connection."""
        with self._lock:
            self.num_connections += 1

    def arrived(self, request: Request) -> Fault | None:
        """Note a request; the fault it gets."""
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
        latency_s: How long every request waits before it is passed on.
        bytes_per_s: The most that bodies on one connection get.
        sign: The headers of a request, signed, from its method, target and headers. Only for
            faults of ranges, and only where a signature covers the Range header: `S3.sign`.
    """
    proxy = FaultProxy(upstream_url)
    proxy.latency_s, proxy.bytes_per_s, proxy.sign = latency_s, bytes_per_s, sign
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


class ProxyProcess:
    """A proxy in a process of its own, by what it prints and reads."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url: str = self._answer()["url"]

    def tell(self, command: str | dict[str, Any]) -> dict[str, Any]:
        """``stats``, ``reset``, ``clear`` or the fields of a fault; the statistics after it."""
        assert self._process.stdin is not None
        line = command if isinstance(command, str) else json.dumps(command)
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def proxy_process(
    upstream_url: str, latency_s: float = 0.0, bytes_per_s: float | None = None
) -> Iterator[ProxyProcess]:
    """Run a proxy whose work costs this process nothing; it cannot sign."""
    command = [sys.executable, "-m", "tests.kit.servers.fault_proxy", "--upstream", upstream_url]
    command += ["--latency-ms", str(latency_s * 1e3)]
    command += ["--mb-per-s", str(bytes_per_s / 1e6)] if bytes_per_s else []
    root = Path(__file__).resolve().parents[3]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, cwd=root, stdin=pipe, stdout=pipe) as process:
        yield ProxyProcess(process)


class _Server(ThreadingTCPServer):
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.proxy = proxy
        self.open: set[socket.socket] = set()

    def hang_up(self) -> None:
        """Wake the threads that wait for data."""
        for sock in list(self.open):
            with suppress(OSError):  # closed since
                sock.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A bug, here or in a test's callback: the thread fails, and pytest with it."""
        raise


class _Connection(BaseRequestHandler):
    """A client's connection and the one to the server that goes with it; both are kept alive."""

    server: _Server

    def setup(self) -> None:
        self.proxy = self.server.proxy
        self.client = Stream(self.request)
        self._upstream: Stream | None = None
        self.server.open.add(self.request)
        self.proxy.connected()

    def handle(self) -> None:
        with suppress(ConnectionError):  # whoever left: there is nobody to tell
            while not self.proxy.stopped.is_set() and (head := self.client.head()) is not None:
                if not _Exchange(self, head).run():
                    return

    def finish(self) -> None:
        self.drop_upstream()
        self.server.open.discard(self.request)

    def upstream(self) -> Stream:
        """The connection to the server; a new one where the old one has ended."""
        if self._upstream is not None and self._upstream.peek() is not None:
            self.drop_upstream()
        if self._upstream is None:
            self._upstream = Stream(socket.create_connection(self.proxy.upstream))
            self.server.open.add(self._upstream.sock)
        if self.proxy.stopped.is_set():  # and nobody is going to wake us
            raise ConnectionAbortedError
        return self._upstream

    def drop_upstream(self) -> None:
        """Close it, with what may still come from it."""
        if self._upstream is not None:
            self.server.open.discard(self._upstream.sock)
            self._upstream.sock.close()
            self._upstream = None


class _Exchange:
    """One request and its answer."""

    def __init__(self, connection: _Connection, head: Head) -> None:
        self.connection, self.head = connection, head
        self.proxy, self.client = connection.proxy, connection.client
        self.request = _request_of(head)
        self.fault = self.proxy.arrived(self.request)
        self.kind = self.fault.kind if self.fault else None
        self.due_s = 0.0

    def run(self) -> bool:
        """Whether the connection can take another request."""
        self.proxy.stopped.wait(self.proxy.latency_s)
        if self.proxy.on_request is not None:
            self.proxy.on_request(self.request)
        if self.kind == "reset-before-headers":
            self.break_off()
        if self.kind in INSTEAD:
            self.answer_instead(self.kind)
            return not self.head.is_last
        upstream = self.connection.upstream()
        answer, is_in_step = self.ask(upstream)
        if self.kind == "lost-answer":
            self.break_off()
        is_framed = self.answer(answer, upstream)
        return is_in_step and is_framed and not (self.head.is_last or answer.is_last)

    def ask(self, upstream: Stream) -> tuple[Head, bool]:
        """Pass the request on.

        Returns:
            The head of the answer, and whether the whole request was sent before.
        """
        upstream.send(self.head_to_ask_with().to_bytes())
        is_sent = self.head.get("expect").lower() != "100-continue"
        if is_sent:
            with suppress(ConnectionError):  # a server that has heard enough may have answered
                self.send_request_body(upstream)
        while (answer := upstream.head()) is not None and answer.status == 100:
            self.client.send(answer.to_bytes())
            self.send_request_body(upstream)
            is_sent = True
        if answer is None:
            raise ConnectionError("the server closed the connection")
        return answer, is_sent

    def head_to_ask_with(self) -> Head:
        """The client's; with another range, and signed again, if that is the fault."""
        if self.kind not in OF_RANGES or self.request.range is None:
            return self.head
        number = self.request.hit_number if self.kind == "mixed-bytes" else 1
        range_ = None if self.kind == "ignore-range" else other_range(self.request.range, number)
        head = self.head.changed({"range": range_})
        if self.proxy.sign is None:
            return head
        method, target, _ = head.start.split(" ")
        return Head(head.start, tuple(self.proxy.sign(method, target, dict(head.fields)).items()))

    def send_request_body(self, upstream: Stream) -> None:
        for chunk in self.request_body():
            upstream.send(chunk)

    def request_body(self) -> Iterator[Chunk]:
        if self.head.is_chunked:
            return self.client.chunks()
        return self.client.body(int(self.head.get("content-length") or 0))

    def answer_instead(self, kind: str) -> None:
        """Answer in place of the server, which sees nothing of the request."""
        if self.head.get("expect"):
            self.client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        for _ in self.request_body():
            pass
        head, body = answer_instead(kind)
        self.send_head(head)
        self.send_body([] if self.request.method == "HEAD" else [body])

    def answer(self, answer: Head, upstream: Stream) -> bool:
        """Send the client what the server answers, or what the fault makes of it.

        Returns:
            Whether the client can tell the end of the answer from that of the connection.
        """
        length = math.inf
        if self.request.method == "HEAD" or answer.status in {204, 304}:
            length = 0
        elif answer.get("content-length"):
            length = int(answer.get("content-length"))
        if self.fault is not None and self.kind in OF_BODIES:
            if length == math.inf:
                raise NotImplementedError(f"{self.kind} of an answer without Content-Length")
            self.spoil(self.fault, answer, upstream, int(length))
            return True
        if (
            self.kind in {"wrong-bytes", "mixed-bytes"}
            and self.request.range
            and answer.status == 206
        ):
            answer = placed(answer, self.request.range[0])
        self.send_head(answer)
        self.send_body(upstream.chunks() if answer.is_chunked else upstream.body(length))
        return answer.is_chunked or length < math.inf

    def spoil(self, fault: Fault, answer: Head, upstream: Stream, length: int) -> None:
        """Send an answer that breaks off in its body, or whose body is wrong."""
        at = self.request.hit_number * _GOLDEN % 1 if fault.kind == "flips" else fault.at
        until = max(0, min(int(length * at), length - 1))
        match fault.kind:
            case "short-body":
                self.send_head(shortened(answer, until))
                self.send_body(upstream.body(until))
                self.connection.drop_upstream()
            case "flip" | "flips":
                self.send_head(answer)
                self.send_body(upstream.body(until))
                for chunk in upstream.body(min(length, 1)):
                    self.send_body([bytes([chunk[0] ^ 1])])
                self.send_body(upstream.body(length - until - 1))
            case "chunked-cut":
                changes = {"content-length": None, "transfer-encoding": "chunked"}
                self.send_head(answer.changed(changes))
                self.send_body(b"%x\r\n%b\r\n" % (len(p), bytes(p)) for p in upstream.body(until))
                raise ConnectionAbortedError
            case "unframed-cut":
                self.send_head(answer.changed({"content-length": None, "connection": "close"}))
                self.send_body(upstream.body(until))
                raise ConnectionAbortedError
            case _:
                self.send_head(answer)
                self.send_body(upstream.body(until))
                if fault.kind == "cut-rst":
                    self.break_off()
                while fault.kind == "stall" and not self.proxy.stopped.wait(0.02):
                    if self.client.peek() is not None:
                        break
                raise ConnectionAbortedError

    def break_off(self) -> None:
        """Reset the client's connection."""
        self.request.ended_s = time.perf_counter()
        self.client.reset()
        raise ConnectionAbortedError

    def send_head(self, head: Head) -> None:
        self.request.status = head.status
        self.request.ended_s = self.due_s = time.perf_counter()
        self.client.send(head.to_bytes())

    def send_body(self, chunks: Iterable[Chunk]) -> None:
        """Send chunks, not faster than is allowed; counted before, so that no client knows more."""
        for chunk in chunks:
            for part in self.paced(chunk):
                self.request.body_bytes += len(part)
                self.request.ended_s = time.perf_counter()
                self.client.send(part)

    def paced(self, chunk: Chunk) -> Iterator[Chunk]:
        """The chunk in parts, each when its time has come."""
        rate, link_rate = self.proxy.bytes_per_s, self.proxy.link_bytes_per_s
        if rate is None and link_rate is None:
            yield chunk
            return
        size = max(1, int(min(rate or math.inf, link_rate or math.inf) * PACE_S))
        for start in range(0, len(chunk), size):
            part = chunk[start : start + size]
            self.due_s += len(part) / (rate or math.inf)
            due_s = max(self.due_s, self.proxy.link_due_s(len(part)))
            self.proxy.stopped.wait(max(0.0, due_s - time.perf_counter()))
            yield part


def _request_of(head: Head) -> Request:
    method, target, _ = head.start.split(" ")
    url = urlsplit(target)
    return Request(
        method=method,
        path=unquote(url.path),
        query=url.query,
        headers={name.lower(): value for name, value in head.fields},
        range=parse_range(head.get("range")),
        started_s=time.perf_counter(),
    )


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kit.servers.fault_proxy")
    parser.add_argument("--upstream", required=True, help="the URL of the server behind")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of every request")
    parser.add_argument("--mb-per-s", type=float, help="the most one connection gets")
    options = parser.parse_args()
    bytes_per_s = options.mb_per_s and options.mb_per_s * 1e6
    with fault_proxy(options.upstream, options.latency_ms / 1e3, bytes_per_s) as proxy:
        print(json.dumps({"url": proxy.url}), flush=True)  # noqa: T201
        commands = {"stats": lambda: None, "reset": proxy.reset, "clear": proxy.clear}
        for line in map(str.strip, sys.stdin):
            if line in commands:
                commands[line]()
            else:
                proxy.inject(Fault(**json.loads(line)))
            print(json.dumps(proxy.stats()), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main()
