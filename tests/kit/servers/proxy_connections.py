"""The fault proxy's server: takes connections, passes requests on and puts faults into answers."""

from __future__ import annotations

import math
import socket
import time
from contextlib import suppress
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
    from collections.abc import Iterable, Iterator

    from tests.kit.servers.fault_proxy import FaultProxy
    from tests.kit.servers.http_wire import Block


PACE_S = 0.01
"""A limited connection sends blocks that take this many seconds each."""
_GOLDEN = 0.618
"""Its multiples modulo 1 lie far apart."""


class ProxyServer(ThreadingTCPServer):
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.proxy = proxy
        self.open: set[socket.socket] = set()

    def hang_up(self) -> None:
        """Wake the threads that wait for data."""
        for sock in list(self.open):
            with suppress(OSError):  # closed since
                sock.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let the thread fail, and pytest with it: this is a bug, here or in a test's callback."""
        raise


class Connection(BaseRequestHandler):
    """A client's connection and the one to the server that goes with it; both are kept alive."""

    server: ProxyServer

    def setup(self) -> None:
        self.proxy = self.server.proxy
        self.client = Stream(self.request)
        self._upstream: Stream | None = None
        self.server.open.add(self.request)
        self.proxy.connected()

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client has left
            while not self.proxy.stopped.is_set() and (head := self.client.head()) is not None:
                if not Exchange(self, head).run():
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
        if self.proxy.stopped.is_set():  # hang_up has run: nothing would wake this thread
            raise ConnectionAbortedError
        return self._upstream

    def drop_upstream(self) -> None:
        """Close the connection to the server, whatever may still come from it."""
        if self._upstream is not None:
            self.server.open.discard(self._upstream.sock)
            self._upstream.sock.close()
            self._upstream = None


class Exchange:
    """One request and its answer."""

    def __init__(self, connection: Connection, head: Head) -> None:
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
            with suppress(ConnectionError):  # the server may have answered already
                self.send_request_body(upstream)
        while (answer := upstream.head()) is not None and answer.status == 100:
            self.client.send(answer.to_bytes())
            self.send_request_body(upstream)
            is_sent = True
        if answer is None:
            raise ConnectionError("the server closed the connection")
        return answer, is_sent

    def head_to_ask_with(self) -> Head:
        """The client's head; a fault of ranges changes its range and signs it again."""
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
        for block in self.request_body():
            upstream.send(block)

    def request_body(self) -> Iterator[Block]:
        if self.head.is_chunked:
            return self.client.chunks()
        return self.client.body(int(self.head.get("content-length") or 0))

    def answer_instead(self, kind: str) -> None:
        """Answer in place of the server, which does not see the request."""
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
                for block in upstream.body(min(length, 1)):
                    self.send_body([bytes([block[0] ^ 1])])
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

    def send_body(self, blocks: Iterable[Block]) -> None:
        """Send blocks within the limits; bytes are counted before a client can have them."""
        for block in blocks:
            for part in self.paced(block):
                self.request.body_bytes += len(part)
                self.request.ended_s = time.perf_counter()
                self.client.send(part)

    def paced(self, block: Block) -> Iterator[Block]:
        """Yield the block in parts, each when the limits allow it."""
        rate, link_rate = self.proxy.bytes_per_s, self.proxy.link_bytes_per_s
        if rate is None and link_rate is None:
            yield block
            return
        size = max(1, int(min(rate or math.inf, link_rate or math.inf) * PACE_S))
        for start in range(0, len(block), size):
            part = block[start : start + size]
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
